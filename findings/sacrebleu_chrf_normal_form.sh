#!/usr/bin/env bash
# Guessed: Where output and references are in one Unicode normal form, it does not matter which: NFC or NFD.
# What is: BLEU does not change. chrF rises by points in NFD, where a base letter that is right counts although its
#   accent is wrong, and there are more characters to match: here from 38 to 60. The signature does not tell.
# Seen with: sacrebleu 2.6.0; Python 3.11; 2026-11-28
# Why it matters: Vietnamese, Korean, Greek or Yoruba test sets come in either form; two papers' chrF on one test set
#   are then not comparable, in spite of equal signatures.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sacrebleu==2.6.0
cd "$work"

cat > expected <<'END'
NFC BLEU 10.21 chrF 38.25
NFD BLEU 10.21 chrF 60.31
END

"$work/env/bin/python" - > seen <<'END'
import unicodedata
from sacrebleu.metrics import BLEU, CHRF

reference = ["Vui l\u00f2ng nh\u1eadp m\u1ed9t gi\u00e1 tr\u1ecb h\u1ee3p l\u1ec7", "\ud30c\uc77c\uc744 \uc5f4 \uc218 \uc5c6\uc2b5\ub2c8\ub2e4"]
output = ["Vui l\u00f4ng nh\u1eb7p m\u1ed9t gi\u00e0 tr\u1ecb h\u01a1p l\u00ea", "\ud30c\uc77c\uc740 \uc5fc \uc218 \uc5c6\uc2b5\ub2c8\ub2e4"]
for form in ("NFC", "NFD"):
    sides = [[unicodedata.normalize(form, line) for line in side] for side in (output, reference)]
    scores = [metric.corpus_score(sides[0], [sides[1]]) for metric in (BLEU(), CHRF())]
    print(form, "BLEU", round(scores[0].score, 2), "chrF", round(scores[1].score, 2))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sacrebleu)==' || true
cat seen
diff expected seen || { echo "CHANGED: chrF depends otherwise on the normal form"; exit 1; }
echo "as stated"

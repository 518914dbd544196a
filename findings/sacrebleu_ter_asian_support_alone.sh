#!/usr/bin/env bash
# Guessed: TER(asian_support=True) compares Chinese by characters.
# What is: It does nothing: text is only split where normalized=True is given, too. The signature says asian:yes all
#   the same.
# Seen with: sacrebleu 2.6.0; Python 3.11; 2026-11-28
# Why it matters: TER of Chinese and Japanese is that of whole lines as one word: near 100, while the signature says
#   that it is not.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sacrebleu==2.6.0
cd "$work"

cat > expected <<'END'
{} 100.0 ['asian:no']
{'asian_support': True} 100.0 ['asian:yes']
{'asian_support': True, 'normalized': True} 14.29 ['asian:yes']
END

"$work/env/bin/python" - > seen <<'END'
from sacrebleu.metrics import TER

output, reference = ["\u6211\u4eec\u4eca\u5929\u5403\u996d"], [["\u6211\u4eec\u4eca\u5929\u5403\u7c73\u996d"]]
for settings in ({}, {"asian_support": True}, {"asian_support": True, "normalized": True}):
    metric = TER(**settings)
    score = metric.corpus_score(output, reference).score
    print(settings, round(score, 2), [part for part in str(metric.get_signature()).split("|") if part.startswith("asian")])
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sacrebleu)==' || true
cat seen
diff expected seen || { echo "CHANGED: asian_support works alone, or is named otherwise in the signature"; exit 1; }
echo "as stated"

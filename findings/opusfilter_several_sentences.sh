#!/usr/bin/env bash
# Guessed: OpusFilter's TerminalPunctuationFilter compares the final signs of both sides: a pair that agrees scores 0,
#   however many sentences are in a line.
# What is: Each sign beyond the first of a side counts against the pair as well: five right sentences a side are
#   dropped by the default threshold of -2, one sentence whose other side lacks its sign is kept.
# Seen with: opusfilter 3.3.1; Python 3.11; 2026-11-28
# Why it matters: Paragraphs and subtitles of several short sentences are lost although both sides agree; scores used
#   for OpusFilter's classifier are scores of length.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check opusfilter==3.3.1
cd "$work"

cat > expected <<'END'
signs 1 and 1 score -0.0 kept
signs 3 and 3 score -1.61 kept
signs 5 and 5 score -2.2 dropped
signs 7 and 7 score -2.56 dropped
signs 1 and 0 score -0.69 kept
END

"$work/env/bin/python" - > seen <<'END'
import logging
from opusfilter.filters import TerminalPunctuationFilter

logging.disable(logging.CRITICAL)
check = TerminalPunctuationFilter()
for english, german in ((1, 1), (3, 3), (5, 5), (7, 7), (1, 0)):
    pair = " ".join(["We eat."] * english), " ".join(["Wir essen."] * german) or "Wir essen"
    (score,) = check.score(iter([pair]))
    print("signs", english, "and", german, "score", round(score, 2), "kept" if check.accept(score) else "dropped")
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(opusfilter)==' || true
cat seen
diff expected seen || { echo "CHANGED: the filter scores several sentences otherwise"; exit 1; }
echo "as stated"

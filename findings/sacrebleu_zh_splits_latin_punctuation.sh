#!/usr/bin/env bash
# Guessed: The tokenizer zh splits Chinese characters and treats the rest as 13a does.
# What is: It also splits curly quotes, dashes, the ellipsis, the euro and trade mark signs and arrows off Latin words
#   and numbers (whatever lies from U+2001 to U+2A6D), which 13a leaves in the word.
# Seen with: sacrebleu 2.6.0; Python 3.11; 2026-11-28
# Why it matters: Text with Western typography scores higher under zh than under 13a; a Chinese test set with ranges
#   such as 10–20 or with “” gets n-grams for them.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sacrebleu==2.6.0
cd "$work"

cat > expected <<'END'
U+2013 zh: 3 13a: 1
U+2014 zh: 3 13a: 1
U+2026 zh: 3 13a: 1
U+2019 zh: 3 13a: 1
U+201D zh: 3 13a: 1
U+20AC zh: 3 13a: 1
U+2122 zh: 3 13a: 1
U+2192 zh: 3 13a: 1
U+00AB zh: 1 13a: 1
U+00B0 zh: 1 13a: 1
END

"$work/env/bin/python" - > seen <<'END'
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

for sign in "\u2013\u2014\u2026\u2019\u201d\u20ac\u2122\u2192\u00ab\u00b0":
    text = f"ab{sign}cd"
    print(f"U+{ord(sign):04X}", "zh:", len(TokenizerZh()(text).split()), "13a:", len(Tokenizer13a()(text).split()))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sacrebleu)==' || true
cat seen
diff expected seen || { echo "CHANGED: the ranges of the tokenizer zh changed"; exit 1; }
echo "as stated"

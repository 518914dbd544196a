#!/usr/bin/env bash
# Guessed: corpus_bleu of an output that equals its references is 1, as sacreBLEU's is 100.
# What is: 0.65 for one sentence of six words and three of one word: a sentence without any n-gram of an order still
#   adds 1 to that order's total.
# Seen with: nltk 3.10.4; Python 3.11; 2026-11-28
# Why it matters: Corpora with short segments (menus, subtitles, headings) are scored too low, by as much as there are
#   short ones, so figures of nltk and sacreBLEU over the same tokens differ.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check nltk==3.10.4
cd "$work"

cat > expected <<'END'
sentences of one word: 0 BLEU of the references themselves: 1.0
sentences of one word: 1 BLEU of the references themselves: 0.8409
sentences of one word: 3 BLEU of the references themselves: 0.6501
sentences of one word: 10 BLEU of the references themselves: 0.385
END

"$work/env/bin/python" - > seen <<'END'
from nltk.translate.bleu_score import corpus_bleu

long = "the cat sat on the mat".split()
for short in (0, 1, 3, 10):
    output = [long] + [["OK"]] * short
    print("sentences of one word:", short, "BLEU of the references themselves:", round(corpus_bleu([[s] for s in output], output), 4))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(nltk)==' || true
cat seen
diff expected seen || { echo "CHANGED: corpus_bleu counts short sentences otherwise"; exit 1; }
echo "as stated"

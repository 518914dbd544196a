#!/usr/bin/env bash
# Guessed: Sentence chrF of a string against itself is 100 whatever its length; nltk's with beta 2 is sacreBLEU's.
# What is: A string of two characters scores 33 against itself, one of five 83: nltk divides by six orders even where
#   the string has no n-gram of that order. sacreBLEU leaves such orders out. (torchmetrics 1.9.0 gives 33 for the
#   same pair.)
# Seen with: nltk 3.10.4, sacrebleu 2.6.0; Python 3.11; 2026-11-28
# Why it matters: Sentence chrF as a filter, a reward or a choice of candidates punishes short lines, above all
#   Chinese and Japanese.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check nltk==3.10.4 sacrebleu==2.6.0
cd "$work"

cat > expected <<'END'
2 characters against themselves: nltk 33.3 sacreBLEU 100.0
4 characters against themselves: nltk 66.7 sacreBLEU 100.0
5 characters against themselves: nltk 83.3 sacreBLEU 100.0
11 characters against themselves: nltk 100.0 sacreBLEU 100.0
END

"$work/env/bin/python" - > seen <<'END'
from nltk.translate.chrf_score import sentence_chrf
from sacrebleu.metrics import CHRF

for text in ("Da", "Ende", "Datei", "Datei offen"):
    ours = 100 * sentence_chrf(text, text, beta=2.0)
    print(len(text), "characters against themselves: nltk", round(ours, 1), "sacreBLEU", round(CHRF().sentence_score(text, [text]).score, 1))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(nltk|sacrebleu)==' || true
cat seen
diff expected seen || { echo "CHANGED: sentence chrF of short strings changed"; exit 1; }
echo "as stated"

#!/usr/bin/env bash
# Guessed: TER without shifts is the edit distance over words: a translation that lacks the first 40 of 130 words
#   costs 40 edits.
# What is: 67: the edit distance is searched in a band around the diagonal, and what lies outside of it is never
#   found. With 20 words left out it is right; with 30, 40 and 60 left out it is 44, 67 and 102.
# Seen with: sacrebleu 2.6.0; Python 3.11; 2026-11-28
# Why it matters: Documents and long paragraphs as one line: TER is up to twice the distance, and worse systems (that
#   leave out much) are hit hardest.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sacrebleu==2.6.0
cd "$work"

cat > expected <<'END'
left out 10 edit distance 10 edits by TER 10
left out 20 edit distance 20 edits by TER 20
left out 30 edit distance 30 edits by TER 44
left out 40 edit distance 40 edits by TER 67
left out 60 edit distance 60 edits by TER 102
END

"$work/env/bin/python" - > seen <<'END'
from sacrebleu.metrics import TER


def distance(left, right):
    """Levenshtein's distance over words."""
    above = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]


reference = [f"w{n}" for n in range(130)]
for left_out in (10, 20, 30, 40, 60):
    output = reference[left_out:]
    edits = TER().sentence_score(" ".join(output), [" ".join(reference)]).score / 100 * len(reference)
    print("left out", left_out, "edit distance", distance(output, reference), "edits by TER", round(edits))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sacrebleu)==' || true
cat seen
diff expected seen || { echo "CHANGED: TER counts other edits for long sentences"; exit 1; }
echo "as stated"

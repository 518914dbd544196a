#!/usr/bin/env bash
# Ground: torch on CPUs, first weights under a seed.
# Guessed: the same seed gives the same numbers in the same order: a longer draw begins with a shorter one, and the first rows
#   of a matrix do not depend on how many rows there are.
# Is: below 16 numbers randn draws by another way than from 16 on, so that none is shared; and where the number is no multiple
#   of 16 the last 16 are drawn once more. A matrix with one row more has other rows at its end.
# Versions: torch 2.13.0, Python 3.11, CPU. (CUDA: other numbers anyway.)
# Why it matters: runs that differ by a language (a row of an embedding of languages, a gate a language) or by a padded size do
#   not start from the same weights, although seed and code are the same; parts of a matrix that ranks draw by themselves
#   do not add up to the whole.
# Remedy: draw a fixed larger size and cut, or seed each row.
# Seen:
#   numbers that randn(8) and randn(16) share: 0
#   rows of 100 that are others where there are 101: 7 wide 3, 8 wide 1, 16 wide 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/try.py" <<'PY'
import torch

print("torch", torch.__version__.partition("+")[0])


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape)


shared = len(set(draw(8).tolist()) & set(draw(16).tolist()))
print("numbers that randn(8) and randn(16) share:", shared)
others = {width: int((draw(100, width) != draw(101, width)[:100]).any(1).sum()) for width in (7, 8, 16)}
print("rows of 100 that are others where there are 101:", ", ".join(f"{width} wide {count}" for width, count in others.items()))
if (shared, others) != (0, {7: 3, 8: 1, 16: 0}):
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py"

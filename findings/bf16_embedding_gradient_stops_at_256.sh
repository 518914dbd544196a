#!/usr/bin/env bash
# Ground: torch on CPUs, embeddings in bf16.
# Guessed: the gradient of an embedding's row, a sum over the places where the token stands, is added up in fp32 and
#   rounded once, as that of a linear layer's bias is.
# Is: it is added up in the type itself: in bf16 a row's gradient stops growing at 256 times one place's, in fp16 at
#   2,048 times. torch.compile's code for the same line gives the whole sum.
# Versions: torch 2.13.0, Python 3.11.
# Why it matters: in multilingual batches the language's tag stands at the head of every sentence, the end symbol at the
#   end of each, and a few pieces thousands of times; their rows get a fraction of their gradient.
# Seen:
#   eager: embedding, 4096 places: bfloat16 256, float16 2048, float32 4096
#   eager: bias, 4096 places: bfloat16 4096, float16 4096, float32 4096
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/try.py" <<'PY'
import torch

print("torch", torch.__version__.partition("+")[0])
types = torch.bfloat16, torch.float16, torch.float32


def embedding(dtype):
    table = torch.zeros(10, 4, dtype=dtype, requires_grad=True)
    torch.nn.functional.embedding(torch.full((64, 64), 3), table).sum().backward()
    return int(table.grad[3, 0])


def bias(dtype):
    values = torch.zeros(4, dtype=dtype, requires_grad=True)
    torch.nn.functional.linear(torch.zeros(4096, 4, dtype=dtype), torch.zeros(4, 4, dtype=dtype), values).sum().backward()
    return int(values.grad[0])


seen = {}
for name, function in (("embedding", embedding), ("bias", bias)):
    seen[name] = [function(dtype) for dtype in types]
    shown = ", ".join(f"{str(dtype)[6:]} {value}" for dtype, value in zip(types, seen[name]))
    print(f"eager: {name}, 4096 places: {shown}")
if seen != {"embedding": [256, 2048, 4096], "bias": [4096, 4096, 4096]}:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py"

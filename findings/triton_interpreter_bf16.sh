#!/usr/bin/env bash
# Ground: Triton, kernels tested without a GPU in its interpreter (TRITON_INTERPRET=1), in bf16.
# Guessed: the interpreter computes what the kernel would, so bf16 differs from fp16 in rounding alone.
# Is: tl.dot of bf16 blocks multiplies their bit patterns as integers: the identity times 2 is 266,338,304. A cast from
#   fp32 to bf16 cuts off instead of rounding to nearest, so that means come out low; fp16 is right in both.
# Versions: triton 3.9.0, torch 2.13.0, Python 3.11.
# Why it matters: a fused loss or attention kernel for bf16 training looks wrong in CI, or its bounds are widened until the
#   test says nothing. Load bf16, and widen to fp32 before tl.dot, in the interpreter; test the cast on a device.
# Seen:
#   float16: identity times 2 is 2, cast is to nearest: True
#   bfloat16: identity times 2 is 266338304, cast is to nearest: False, to zero: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy
"$work/env/bin/pip" install -q --no-deps triton==3.9.0
cat > "$work/try.py" <<'PY'
import os

os.environ["TRITON_INTERPRET"] = "1"
import torch
import triton
import triton.language as tl

print("triton", triton.__version__, "torch", torch.__version__.partition("+")[0])


@triton.jit
def multiply(a, b, c):
    at = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at), tl.zeros((16, 16), tl.float32)))


@triton.jit
def round_trip(values, out, narrow: tl.constexpr):
    at = tl.arange(0, 256)
    tl.store(out + at, tl.load(values + at).to(narrow).to(tl.float32))


seen = {}
for name in ("float16", "bfloat16"):
    dtype = getattr(torch, name)
    product = torch.zeros(16, 16)
    multiply[(1,)](torch.eye(16, dtype=dtype), torch.full((16, 16), 2.0, dtype=dtype), product)
    torch.manual_seed(0)
    values, out = torch.rand(256), torch.zeros(256)
    round_trip[(1,)](values, out, getattr(tl, name))
    nearest = torch.equal(out, values.to(dtype).float())
    cut = torch.equal(out, (values.view(torch.int32) & -65536).view(torch.float32))
    seen[name] = (int(product[0, 0]), nearest, cut)
    print(f"{name}: identity times 2 is {seen[name][0]}, cast is to nearest: {nearest}" + f", to zero: {cut}" * (name == "bfloat16"))
if seen != {"float16": (2, True, False), "bfloat16": (266338304, False, True)}:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py"

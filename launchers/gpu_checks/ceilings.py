"""What the card can do: a large product, copying, and the loss's own three products at their shapes."""

import torch
from common import DEVICE, DRY_RUN, emit, timed

wide = {} if DRY_RUN else {"out_dtype": torch.float32}


def plain_product(size: int) -> None:
    a, b = (torch.randn(size, size, device=DEVICE).bfloat16() for _ in range(2))
    emit("ceiling", what=f"bf16 {size}^3", tflops=2 * size**3 / timed(lambda: a @ b)["ms"] / 1e9)


def copying(size: int) -> None:
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    to = torch.empty_like(source)
    emit("ceiling", what="copy", tb_s=2 * size / timed(lambda: to.copy_(source))["ms"] / 1e9)


def operand(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.float() if DRY_RUN else matrix


def products(tokens: int, width: int, words: int) -> None:
    hidden = torch.randn(tokens, width, device=DEVICE).bfloat16()
    projection = torch.randn(words, width, device=DEVICE).bfloat16()
    logits = torch.empty(tokens, words, device=DEVICE, dtype=torch.bfloat16)
    torch.mm(hidden, projection.t(), out=logits)
    dhidden, dprojection = torch.empty(tokens, width, device=DEVICE), torch.zeros(words, width, device=DEVICE)
    z, h, w = operand(logits), operand(hidden), operand(projection)
    calls = {
        "logits": lambda: torch.mm(hidden, projection.t(), out=logits),
        "dhidden fp32": lambda: torch.mm(z, w, **wide, out=dhidden),
        "dhidden bf16": lambda: torch.mm(logits, projection),
        "dprojection fp32, added": lambda: torch.addmm(dprojection, z.t(), h, **wide, out=dprojection),
        "dprojection fp32, written": lambda: torch.mm(z.t(), h, **wide, out=dprojection),
        "dprojection bf16": lambda: torch.mm(logits.t(), hidden),
    }
    for what, call in calls.items():
        ms = timed(call)["ms"]
        emit("product", tokens=tokens, width=width, words=words, what=what, ms=ms,
             tflops=2 * tokens * width * words / 1e9 / ms)  # fmt: skip


plain_product(256 if DRY_RUN else 8192)
copying((1 << 20) if DRY_RUN else (4 << 30))
for shape in [(32, 16, 64)] if DRY_RUN else [(8192, 512, 32000), (8192, 1024, 64000)]:
    products(*shape)

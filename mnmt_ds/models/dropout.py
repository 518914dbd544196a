"""Dropout, with cheap random bits on a CPU, where drawing them costs more than using them."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnmt_ds.kernels.cpu import why_unavailable

STEPS = 1 << 15
"""On a CPU a probability is a multiple of 1 / STEPS: four 15-bit draws are cut from each random 63-bit number."""


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Sets numbers to 0 at random and scales the others by 1 / (1 - probability), as torch's own dropout.

    On a CPU at a fraction of the cost of ``torch.nn.functional.dropout``, from the same generator; compiled code
    draws as torch's compiler does.

    Args:
        x: any shape.
        probability: of a number to become 0, in [0, 1).
        training: False: x is returned as it is.

    Returns:
        A tensor of x's shape and dtype.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability, training)
    threshold = round(probability * STEPS)
    count = x.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_().view(torch.int16)[:count].view(x.shape)
    if x.dtype is torch.float32 and _has_kernel():
        return _Dropout.apply(x, bits, threshold)  # type: ignore[no-untyped-call, no-any-return]
    mask = bits.bitwise_and_(STEPS - 1).ge(threshold)
    return x * mask.to(x.dtype).mul_(STEPS / (STEPS - threshold))


@functools.cache
def _has_kernel() -> bool:
    return not why_unavailable()


class _Dropout(torch.autograd.Function):
    """The same in one pass over x, and one over its gradient, from bits that take half the room of a mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor, threshold: int) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.threshold = threshold
        return _apply(x, bits, threshold)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (bits,) = ctx.saved_tensors
        return _apply(dy, bits, ctx.threshold), None, None


def _apply(x: Tensor, bits: Tensor, threshold: int) -> Tensor:
    x = x.contiguous()
    y, scale = torch.empty_like(x), STEPS / (STEPS - threshold)
    torch.ops.mnmt_ds_cpu.dropout.default(x, bits, threshold, scale, torch.get_num_threads(), y)
    return y

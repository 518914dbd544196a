"""Linear layers in float32 on a CPU: products by csrc/products.cpp, or torch's own, as this process was told.

A sum runs over its terms in one order, whatever the other rows are and however many threads share the work.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnmt_ds.kernels.cpu import why_unavailable

NAMES = ("torch", "cpu")
"""Implementations: torch's products, or the C++ kernels'."""
_NONE = torch.empty(0)
"""Stands for a tensor that there is not, or that is not wanted."""
_CHOSEN = {"linear": "torch"}


def chosen() -> str:
    """Returns whose products this process uses.

    Returns:
        torch or cpu.
    """
    return _CHOSEN["linear"]


def use(name: str) -> str:
    """Chooses whose products linear layers use from now on in this process; native code is built if need be.

    Args:
        name: torch or cpu.

    Returns:
        Why it is torch's though the kernels' were asked for, in one line; empty where all is as asked.
    """
    reason = why_unavailable() if name == "cpu" else ""
    _CHOSEN["linear"] = "torch" if reason else name
    return reason


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Computes x W' + b, then ReLU where asked for; differentiable once. Compiled code has torch's products.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), of W's dtype; None: 0.
        relu: whether negative results become 0.

    Returns:
        (..., O).
    """
    if torch.compiler.is_compiling() or _CHOSEN["linear"] == "torch" or not _is_supported(x, weight):
        y = F.linear(x, weight, bias)
        return F.relu(y, inplace=True) if relu else y
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias, relu)  # type: ignore[no-untyped-call, no-any-return]
    return _forward(x, weight, bias, relu)


class Linear(nn.Linear):
    """torch's linear layer, with products as this process was told, and ReLU behind it where asked for."""

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Applies the layer.

        Args:
            x: (..., I).
            relu: whether negative results become 0.

        Returns:
            (..., O).
        """
        return linear(x, self.weight, self.bias, relu)


def _is_supported(x: Tensor, weight: Tensor) -> bool:
    both = x.dtype is weight.dtype is torch.float32 and x.is_cpu and weight.is_cpu
    return both and weight.is_contiguous() and not torch.is_autocast_enabled("cpu")


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    y = x.new_empty(*x.shape[:-1], len(weight))
    bias = _NONE if bias is None else bias
    torch.ops.mnmt_ds_cpu.linear.default(x.contiguous(), weight, bias, relu, torch.get_num_threads(), y)
    return y


class _Linear(torch.autograd.Function):
    """Forward and both backward products by the C++ kernels; what is not trained costs no product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        x = x.contiguous()
        y = _forward(x, weight, bias, relu)
        # what is not needed is not kept: of a frozen layer that is its input
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, y if relu else None)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        want_x, want_weight, want_bias, _ = ctx.needs_input_grad
        dy, y, threads = dy.contiguous(), _NONE if y is None else y, torch.get_num_threads()
        dx = dy.new_empty(*dy.shape[:-1], weight.shape[1]) if want_x else None
        dweight = torch.empty_like(weight) if want_weight else None
        dbias = dy.new_empty(len(weight)) if want_bias else None
        given = (_NONE if t is None else t for t in (dx, dweight, dbias))
        torch.ops.mnmt_ds_cpu.linear_gradients.default(dy, y, _NONE if x is None else x, weight, threads, *given)
        return dx, dweight, dbias, None

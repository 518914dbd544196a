"""Hangs gradients that are already known on a loss."""

from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.fused import Found
from mnmt_ds.kernels.problem import Problem


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: Tensor, loss: Tensor, dhidden: Tensor, dweights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(dhidden, dweights)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """The known gradients times the loss's own; in place unless the graph is kept for another backward."""
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        parts = [None if part is None else (part * scale if keep else part.mul_(scale)) for part in ctx.saved_tensors]
        return parts[0], parts[1], None, None, None


def attach(hidden_BTD: Tensor, projection_VD: Tensor, loss: Tensor, problem: Problem, found: Found) -> Tensor:
    """The loss, differentiable with respect to hidden states and projection."""
    dhidden = found.hidden_KND
    if dhidden is not None:
        dhidden = spread(dhidden.to(hidden_BTD.dtype), hidden_BTD, problem)
    dweights = None if found.projection_VD is None else found.projection_VD.to(projection_VD.dtype)
    return _Attach.apply(hidden_BTD, projection_VD, loss, dhidden, dweights)  # type: ignore[no-untyped-call, no-any-return]


def spread(dhidden_KND: Tensor, hidden_BTD: Tensor, problem: Problem) -> Tensor:
    """Gradients of the tokens that count to the shape of the hidden states; padding gets 0."""
    positions = hidden_BTD.shape[0] * hidden_BTD.shape[1] // problem.passes
    if dhidden_KND.shape[1] == positions:
        return dhidden_KND.view_as(hidden_BTD)
    whole = dhidden_KND.new_zeros(problem.passes, positions, hidden_BTD.shape[2])
    whole[:, problem.rows_N] = dhidden_KND
    return whole.view_as(hidden_BTD)

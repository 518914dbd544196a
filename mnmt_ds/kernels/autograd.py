"""One call of the fused loss from arguments to sums and gradients; what eager code and the operator share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.chunk_loop import LossResults, compute, sums
from mnmt_ds.kernels.implementations import resolve_implementation, select_implementation
from mnmt_ds.kernels.loss_inputs import LossInputs, check, flatten
from mnmt_ds.kernels.types import LossSums, Teacher


@torch.no_grad()
def run(
    hidden_BTD: Tensor,
    projection_VD: Tensor,
    target_BT: Tensor,
    teachers: Sequence[Teacher],
    smoothing: float,
    gold_weight: float | Tensor,
    passes: int,
    divergence_weight: float,
    pad: int,
    implementation: str,
    want_hidden: bool,
    want_projection: bool,
) -> tuple[LossSums, LossInputs, LossResults]:
    """Sums (the loss a plain number), the problem as rows, and what was found."""
    arguments = (teachers, smoothing, gold_weight, passes, divergence_weight, pad)
    check(hidden_BTD, projection_VD, target_BT, *arguments)
    problem = flatten(hidden_BTD, projection_VD, target_BT, *arguments)
    how = select_implementation(resolve_implementation(implementation, hidden_BTD.device), problem)
    found = compute(problem, how, want_hidden, want_projection)
    return sums(problem, found), problem, found


def flat_gradients(
    hidden_BTD: Tensor, projection_VD: Tensor, problem: LossInputs, found: LossResults, *, rounded: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in the shapes of hidden states and projection, rounded to their dtypes or as found; padding gets 0."""
    dhidden, dprojection = found.hidden_KND, found.projection_VD
    if rounded:
        dhidden = None if dhidden is None else dhidden.to(hidden_BTD.dtype)
        dprojection = None if dprojection is None else dprojection.to(projection_VD.dtype)
    if dhidden is not None:
        places = hidden_BTD.shape[0] * hidden_BTD.shape[1] // problem.passes
        if dhidden.shape[1] != places:
            whole = dhidden.new_zeros(problem.passes, places, hidden_BTD.shape[2])
            whole[:, problem.rows_N] = dhidden
            dhidden = whole
        dhidden = dhidden.view(hidden_BTD.shape)
    return dhidden, dprojection


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: Tensor, loss: Tensor, dhidden: Tensor, dweights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(dhidden, dweights)
        ctx.dtypes = (hidden.dtype, projection.dtype)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """The known gradients times the loss's own, rounded only then (a token sum's may not fit into fp16).

        In place unless the graph is kept for another backward; on a CPU, where a look at it is free, not times 1.
        """
        same = scale.device.type == "cpu" and float(scale) == 1
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        parts = [
            None if part is None else (part * scale if keep else part if same else part.mul_(scale)).to(dtype)
            for part, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return parts[0], parts[1], None, None, None


def attach(hidden_BTD: Tensor, projection_VD: Tensor, loss: Tensor, problem: LossInputs, found: LossResults) -> Tensor:
    """The loss, differentiable with respect to hidden states and projection: their gradients are known already."""
    dhidden, dprojection = flat_gradients(hidden_BTD, projection_VD, problem, found, rounded=False)
    return _Attach.apply(hidden_BTD, projection_VD, loss, dhidden, dprojection)  # type: ignore[no-untyped-call, no-any-return]

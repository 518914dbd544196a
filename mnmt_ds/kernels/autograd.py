"""One call of the fused loss from arguments to sums and gradients; what eager code and the operator share.

Letters: see types.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.chunk_loop import LossResults, compute_chunks, sum_results
from mnmt_ds.kernels.implementations import resolve_implementation, select_implementation
from mnmt_ds.kernels.loss_inputs import LossInputs, check_arguments, flatten
from mnmt_ds.kernels.types import LossOptions, LossSums, Teacher
from mnmt_ds.private_apis import keeps_graph


def gradients_needed(hidden_BTD: Tensor, projection_VD: Tensor) -> tuple[bool, bool]:
    """Returns whether autograd wants gradients of hidden states and of the projection.

    Args:
        hidden_BTD: decoder states.
        projection_VD: output projection.

    Returns:
        Two flags, of hidden states and of the projection.
    """
    enabled = torch.is_grad_enabled()
    return enabled and hidden_BTD.requires_grad, enabled and projection_VD.requires_grad


@torch.no_grad()
def compute_loss(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teachers: Sequence[Teacher], options: LossOptions,
    implementation: str, want_hidden: bool, want_projection: bool,
) -> tuple[LossSums, LossInputs, LossResults]:  # fmt: skip
    """Runs the loss without autograd; gradients are made along with it.

    Args:
        hidden_BTD: decoder states; with K passes (K * B, T, D).
        projection_VD: output projection.
        target_BT: gold tokens.
        teachers: none to any number, without top_k.
        options: weights, smoothing, passes, padding.
        implementation: auto, chunked, cpu, cuda or triton.
        want_hidden: whether to make the hidden states' gradient.
        want_projection: whether to make the projection's.

    Returns:
        Sums (the loss without a graph), the arguments as rows, and results a token with the gradients.

    Raises:
        UserError: when arguments do not fit, or the implementation cannot run here.
    """
    options = check_arguments(hidden_BTD, projection_VD, target_BT, teachers, options)
    inputs = flatten(hidden_BTD, projection_VD, target_BT, teachers, options)
    functions = select_implementation(resolve_implementation(implementation, hidden_BTD.device), inputs)
    results = compute_chunks(inputs, functions, want_hidden, want_projection)
    return sum_results(inputs, results), inputs, results


def flat_gradients(
    hidden_BTD: Tensor, projection_VD: Tensor, inputs: LossInputs, results: LossResults, *, rounded: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Reshapes gradients to hidden states and projection; padding gets 0.

    Args:
        hidden_BTD: decoder states.
        projection_VD: output projection.
        inputs: the arguments as rows.
        results: as from ``compute_chunks``.
        rounded: whether to round to the tensors' dtypes, or to leave the accumulation dtype.

    Returns:
        Gradients in the shapes of hidden states and projection; None where one was not wanted.
    """
    dhidden, dprojection = results.dhidden_KND, results.dprojection_VD
    if rounded:
        dhidden = None if dhidden is None else dhidden.to(hidden_BTD.dtype)
        dprojection = None if dprojection is None else dprojection.to(projection_VD.dtype)
    if dhidden is not None:
        positions = hidden_BTD.shape[0] * hidden_BTD.shape[1] // inputs.passes
        if dhidden.shape[1] != positions:
            padded = dhidden.new_zeros(inputs.passes, positions, hidden_BTD.shape[2])
            padded[:, inputs.rows_N] = dhidden
            dhidden = padded
        dhidden = dhidden.view(hidden_BTD.shape)
    return dhidden, dprojection


class _PrecomputedGradients(torch.autograd.Function):
    """The loss as a function of hidden states and projection whose gradients are known already."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: Tensor, loss: Tensor, dhidden: Tensor, dprojection: Tensor
    ) -> Tensor:
        ctx.save_for_backward(dhidden, dprojection)
        ctx.dtypes = (hidden.dtype, projection.dtype)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """The known gradients times the loss's own, rounded only then (a token sum's may not fit into fp16).

        In place unless the graph is kept for another backward; on a CPU, where a look at it is free, not times 1. On a
        GPU one pass reads, scales, rounds and writes into a tensor of the right dtype.
        """
        if scale.is_cuda:
            dhidden, dprojection = (
                None if gradient is None else torch.mul(gradient, scale, out=torch.empty_like(gradient, dtype=dtype))
                for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
            )
            return dhidden, dprojection, None, None, None
        is_one = scale.device.type == "cpu" and float(scale) == 1
        keep_graph = keeps_graph()
        dhidden, dprojection = (
            None
            if gradient is None
            else (gradient * scale if keep_graph else gradient if is_one else gradient.mul_(scale)).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return dhidden, dprojection, None, None, None


def attach_gradients(
    hidden_BTD: Tensor, projection_VD: Tensor, loss: Tensor, inputs: LossInputs, results: LossResults
) -> Tensor:
    """Makes the loss differentiable with respect to hidden states and projection: their gradients are known already.

    Args:
        hidden_BTD: decoder states.
        projection_VD: output projection.
        loss: (), without a graph.
        inputs: the arguments as rows.
        results: as from ``compute_chunks``.

    Returns:
        The loss (), with a graph.
    """
    dhidden, dprojection = flat_gradients(hidden_BTD, projection_VD, inputs, results, rounded=False)
    return _PrecomputedGradients.apply(hidden_BTD, projection_VD, loss, dhidden, dprojection)  # type: ignore[no-untyped-call, no-any-return]

"""The C++ implementation for bfloat16 on CPUs with matrix tiles (AMX), of one pass without teachers: csrc/amx.cpp.

Products are exact and summed in float32, as in cpu.py; only the logits' gradient is rounded to bfloat16 before it is
multiplied. The vocabulary goes by in blocks, each with all tokens. Gradients make their logits anew, so they wait for
the backward pass: there the projection's is scaled and rounded as it is written, and no float32 copy of it is made.
Letters: see types.py; R rows of statistics.
"""

from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.chunk_loop import LossResults, sum_results
from mnmt_ds.kernels.cpu import MAX_VOCABULARY
from mnmt_ds.kernels.loss_inputs import LossInputs
from mnmt_ds.kernels.statistics import Statistics, Workspace, packed_rows, unpack_statistics
from mnmt_ds.kernels.types import LossSums

MAX_TOKENS = 1024
"""Of a chunk, and of the logits that are held at once: a block of words times so many stays in the second cache."""
SIDE = 32
"""Width of a product that is held in registers."""


def supports(inputs: LossInputs) -> bool:
    """Returns whether tiles can compute this call on this machine.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Whether they can.
    """
    hidden_KND, projection_VD = inputs.hidden_KND, inputs.projection_VD
    return (
        hidden_KND.dtype == projection_VD.dtype == torch.bfloat16
        and inputs.passes == 1
        and not inputs.teachers
        and projection_VD.shape[1] % SIDE == 0
        and projection_VD.is_contiguous()
        and inputs.vocabulary_size < MAX_VOCABULARY
        and torch.ops.mnmt_ds_cpu.has_tiles()
    )


def max_chunk_tokens(inputs: LossInputs) -> int:
    """Computes how many tokens a chunk has at most.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Tokens.
    """
    return MAX_TOKENS


def statistics(inputs: LossInputs, chunk: slice, workspace: Workspace) -> Statistics:
    """Computes logits, which are not kept, and their statistics.

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory.

    Returns:
        The chunk's statistics.
    """
    tokens = chunk.stop - chunk.start
    packed_RC = workspace.new((packed_rows(inputs), tokens))
    torch.ops.mnmt_ds_cpu.tile_statistics(*_native_inputs(inputs, chunk), packed_RC)
    workspace.saved = packed_RC
    return unpack_statistics(inputs, packed_RC, workspace.new((1, tokens)).zero_())


def gradients(
    inputs: LossInputs,
    chunk: slice,
    workspace: Workspace,
    gate_JKC: Tensor,
    dhidden_KCD: Tensor | None,
    dprojection_VD: Tensor | None,
) -> None:
    """Writes the chunk's hidden gradients and adds to the projection's (writes it for the first chunk).

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory, with what the statistics saved.
        gate_JKC: of no teachers.
        dhidden_KCD: written; None: not wanted.
        dprojection_VD: added to; None: not wanted.
    """
    empty = torch.empty(0)
    torch.ops.mnmt_ds_cpu.tile_gradients(
        *_native_inputs(inputs, chunk),
        workspace.saved,
        inputs.weight_N[chunk],
        inputs.smoothing,
        chunk.start == 0,
        1.0,
        empty if dhidden_KCD is None else dhidden_KCD,
        empty if dprojection_VD is None else dprojection_VD,
    )


def _native_inputs(inputs: LossInputs, chunk: slice) -> tuple[object, ...]:
    """The first arguments of both native functions."""
    hidden_CD = inputs.hidden_KND[0, chunk].contiguous()
    gold_C = inputs.gold_N[chunk].contiguous()
    return hidden_CD, inputs.projection_VD, gold_C, MAX_TOKENS, torch.get_num_threads()


def loss_with_late_gradients(hidden_BTD: Tensor, projection_VD: Tensor, inputs: LossInputs) -> LossSums:
    """Computes the loss of all tokens at once; its gradients are computed in the backward pass.

    Args:
        hidden_BTD: decoder states.
        projection_VD: output projection.
        inputs: both and the loss's other arguments as rows, which tiles support; at least one token.

    Returns:
        Sums over tokens; ``loss`` is differentiable with respect to hidden states and projection.
    """
    with torch.no_grad():
        workspace, everything = Workspace(hidden_BTD.device, torch.float32, True), slice(0, len(inputs.gold_N))
        token = statistics(inputs, everything, workspace)
        sums = sum_results(inputs, LossResults(token, token.gold_KC.new_zeros(0, *token.gold_KC.shape), None, None))
    rows = inputs._replace(projection_VD=projection_VD.new_empty(0))  # the backward pass is given it anew
    leaf = getattr(projection_VD, "accumulates_in", None)  # see models/row_gradients.py
    loss = _BackwardGradients.apply(hidden_BTD, projection_VD, sums.loss, rows, workspace.saved, leaf)  # type: ignore[no-untyped-call]
    return sums._replace(loss=loss)


def _take_accumulated(leaf: Tensor | None, projection_VD: Tensor) -> tuple[Tensor, bool]:
    """Where the projection's gradient is written: what its leaf has accumulated, which autograd then does not add."""
    gradient = None if leaf is None else leaf.grad
    if leaf is None or gradient is None or gradient.dtype != torch.bfloat16 or not gradient.is_contiguous():
        return torch.empty(projection_VD.shape, dtype=torch.bfloat16), False
    leaf.grad = None
    return gradient, True


class _BackwardGradients(torch.autograd.Function):
    """The loss as a function of hidden states and projection."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: Tensor, loss: Tensor, inputs: LossInputs, packed_RN: Tensor,
        leaf: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(projection, packed_RN)
        ctx.inputs, ctx.shape, ctx.leaf = inputs, hidden.shape, leaf
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Both gradients times the loss's own, rounded to bfloat16 once."""
        projection_VD, packed_RN = ctx.saved_tensors
        inputs = ctx.inputs._replace(projection_VD=projection_VD.detach())
        dhidden_ND = torch.empty(inputs.hidden_KND.shape[1:] if ctx.needs_input_grad[0] else 0)
        dprojection_VD, is_sum = torch.empty(0), False
        if ctx.needs_input_grad[1]:
            dprojection_VD, is_sum = _take_accumulated(ctx.leaf, projection_VD)
        native = _native_inputs(inputs, slice(0, len(inputs.gold_N)))
        torch.ops.mnmt_ds_cpu.tile_gradients(
            *native, packed_RN, inputs.weight_N, inputs.smoothing, not is_sum, float(scale), dhidden_ND, dprojection_VD
        )
        dhidden = None
        if ctx.needs_input_grad[0]:
            dhidden = dhidden_ND.new_zeros(ctx.shape, dtype=torch.bfloat16)
            dhidden.view(-1, ctx.shape[-1])[inputs.rows_N] = dhidden_ND.mul_(scale).bfloat16()
        return dhidden, dprojection_VD if ctx.needs_input_grad[1] else None, None, None, None, None

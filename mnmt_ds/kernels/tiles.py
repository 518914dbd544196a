"""The C++ implementation for bfloat16 on CPUs with matrix tiles (AMX), of one pass without teachers: csrc/amx.cpp.

Products are exact and summed in float32, as in cpu.py; only the logits' gradient is rounded to bfloat16 before it is
multiplied. The vocabulary goes by in blocks, each with all tokens of a chunk. Letters: see types.py; R rows of
statistics.
"""

import torch
from torch import Tensor

from mnmt_ds.kernels.cpu import MAX_VOCABULARY
from mnmt_ds.kernels.loss_inputs import LossInputs
from mnmt_ds.kernels.statistics import Statistics, Workspace, packed_rows, unpack_statistics

MAX_TOKENS = 1024
"""Of a chunk: a block of words times its tokens stays in the second cache."""
SIDE = 32
"""Width of a product that is held in registers."""


def supports(inputs: LossInputs) -> bool:
    """Tells whether tiles can compute this call, here.

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
    """Says how many tokens a chunk has at most.

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
        empty if dhidden_KCD is None else dhidden_KCD,
        empty if dprojection_VD is None else dprojection_VD,
    )


def _native_inputs(inputs: LossInputs, chunk: slice) -> tuple[object, ...]:
    """The first arguments of both native functions."""
    hidden_CD = inputs.hidden_KND[0, chunk].contiguous()
    return hidden_CD, inputs.projection_VD, inputs.gold_N[chunk].contiguous(), torch.get_num_threads()

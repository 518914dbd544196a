"""The C++ implementation: products, row arithmetic and gradients of a chunk by csrc/cpu.cpp.

Reads float32, bfloat16 and float16; computes in float32. Letters: see types.py; R rows of statistics.
"""

import threading
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels import build
from mnmt_ds.kernels.loss_inputs import LossInputs
from mnmt_ds.kernels.statistics import Statistics, Workspace, packed_rows, unpack_statistics

BUDGET = 56 << 20
"""Bytes of logits held at once, but for a chunk of ``LEAST_TOKENS``."""
LEAST_TOKENS = 128
"""Tokens that a chunk may have however large the vocabulary is: with fewer, reading the projection and its gradient for
each chunk takes longer than the products."""
MAX_PASSES, MAX_TEACHERS = 4, 2
"""As in csrc/rows.h."""
MAX_VOCABULARY = 1 << 24
"""Words up to here are exact as float32."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_THREAD = threading.local()
"""Each thread's logits of the last call: fresh memory costs more than what is written into it."""


class _Saved(NamedTuple):
    """What a chunk's statistics leave for its gradients."""

    packed_RC: Tensor
    expected_log_ratio_KC: Tensor
    logits: Tensor
    teacher_logits: Tensor


def why_unavailable() -> str:
    """Explains why the C++ library cannot be used; it is built now if need be.

    Returns:
        The reason in one line; empty where the library is there.
    """
    try:
        build.load(build.cpu_recipe)
    except (build.BuildError, OSError) as error:
        return str(error)
    return ""


def supports(inputs: LossInputs) -> bool:
    """Returns whether the C++ code supports these dtypes and numbers of passes and teachers.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Whether it does.
    """
    tensors = [inputs.hidden_KND, inputs.projection_VD]
    tensors += [x for t in inputs.teachers for x in (t.hidden_NE, t.projection_VE)]
    few = inputs.passes <= MAX_PASSES and len(inputs.teachers) <= MAX_TEACHERS
    return few and all(x.dtype in DTYPES for x in tensors) and inputs.vocabulary_size < MAX_VOCABULARY


def max_chunk_tokens(inputs: LossInputs) -> int:
    """Computes a chunk's size: what the budget holds, and no more than keeps hidden states in a core's cache.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Tokens, a multiple of 32.
    """
    return tokens_of_budget(inputs.vocabulary_size, inputs.passes + len(inputs.teachers))


def tokens_of_budget(vocabulary_size: int, rows_per_token: int) -> int:
    """Computes how many tokens' logits are held at once.

    Args:
        vocabulary_size: V.
        rows_per_token: passes and teachers.

    Returns:
        Tokens, a multiple of 32.
    """
    tokens = BUDGET // (4 * vocabulary_size * rows_per_token)
    return max(LEAST_TOKENS, min(tokens, 2048) // 32 * 32)


def statistics(inputs: LossInputs, chunk: slice, workspace: Workspace) -> Statistics:
    """Computes logits, into this thread's buffer, and what gates and logs need.

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory.

    Returns:
        The chunk's statistics.
    """
    tokens = chunk.stop - chunk.start
    teachers, passes = len(inputs.teachers), inputs.passes
    plane_size = torch.ops.mnmt_ds_cpu.plane_size(tokens, inputs.vocabulary_size)
    size = (passes + teachers) * plane_size
    logits, teacher_logits = _thread_buffer(size)[:size].split([passes * plane_size, teachers * plane_size])
    packed_RC = workspace.new((packed_rows(inputs), tokens))
    divergence_RC = workspace.new((1 + passes, tokens)).zero_()
    torch.ops.mnmt_ds_cpu.statistics(
        *_native_inputs(inputs, chunk), torch.get_num_threads(), logits, teacher_logits, packed_RC, divergence_RC
    )
    workspace.saved = _Saved(packed_RC, divergence_RC[1:], logits, teacher_logits)
    return unpack_statistics(inputs, packed_RC, divergence_RC)


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
        gate_JKC: each teacher's gate.
        dhidden_KCD: written; None: not wanted.
        dprojection_VD: added to; None: not wanted.
    """
    saved: _Saved = workspace.saved
    empty = torch.empty(0)
    weights = [t.weight_N[chunk] for t in inputs.teachers]
    torch.ops.mnmt_ds_cpu.gradients(
        *_native_inputs(inputs, chunk),
        torch.get_num_threads(),
        saved.packed_RC,
        saved.expected_log_ratio_KC,
        inputs.weight_N[chunk],
        torch.stack(weights) if weights else empty,
        gate_JKC.contiguous(),
        inputs.smoothing,
        inputs.divergence_weight,
        chunk.start == 0,
        saved.logits,
        saved.teacher_logits,
        empty if dhidden_KCD is None else dhidden_KCD,
        empty if dprojection_VD is None else dprojection_VD,
    )


def _thread_buffer(size: int) -> Tensor:
    """This thread's buffer, grown to ``size`` floats; max_chunk_tokens bounds it by the budget."""
    buffer: Tensor | None = getattr(_THREAD, "logits", None)
    if buffer is None or buffer.numel() < size:
        _THREAD.logits = buffer = None  # the old one goes before the new one comes
        _THREAD.logits = buffer = torch.empty(size)
    return buffer


def _native_inputs(inputs: LossInputs, chunk: slice) -> tuple[object, ...]:
    """The first arguments of both native functions."""
    all_words = torch.empty(0, dtype=torch.bool)
    return (
        [_unit_stride(hidden_ND[chunk]) for hidden_ND in inputs.hidden_KND],
        _unit_stride(inputs.projection_VD),
        [_unit_stride(t.hidden_NE[chunk]) for t in inputs.teachers],
        [_unit_stride(t.projection_VE) for t in inputs.teachers],
        [all_words if t.vocabulary_V is None else t.vocabulary_V.contiguous() for t in inputs.teachers],
        [t.temperature for t in inputs.teachers],
        inputs.gold_N[chunk],
    )


def _unit_stride(matrix: Tensor) -> Tensor:
    """The matrix with each row's numbers side by side."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()

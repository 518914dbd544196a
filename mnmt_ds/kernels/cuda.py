"""The CUDA implementation: products by cuBLAS through torch, everything between them by csrc/cuda.cu.

bfloat16, float16 and float32 in; statistics, the projection's gradient and all sums in float32. Where a token's rows
fit in a block's shared memory and no gate needs a whole sentence, the logits are read once: statistics and gradient
share a launch. Letters: see types.py; R = K * C rows of logits, or J * C of teachers' logits, or rows of statistics;
P words of a row with its padding.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels import build
from mnmt_ds.kernels.gates import GATE_KINDS
from mnmt_ds.kernels.loss_inputs import LossInputs
from mnmt_ds.kernels.statistics import Statistics, Workspace, packed_rows, unpack_statistics

BUDGET = 512 << 20
"""Bytes of logits held at once."""
MAX_PASSES, MAX_TEACHERS = 2, 2
"""As in csrc/cuda.cu."""
MAX_VOCABULARY = 1 << 24
"""Words up to here are exact as float32."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STATISTICS, DIVERGENCE, GRADIENT, BULK_COPIES = 1, 2, 4, 8
"""Steps of a launch, as in csrc/cuda.h."""
HAS_BULK_COPIES = False
"""Whether rows come into shared memory by bulk copies (compute capability 9.0); to be measured."""


class _Saved(NamedTuple):
    """What a chunk's statistics leave for its gradients."""

    hidden_RD: Tensor
    logits_RP: Tensor
    teacher_logits_RP: Tensor
    packed_RC: Tensor
    divergence_RC: Tensor
    has_gradient: bool
    """The logits have been replaced by their gradient already."""


def why_unavailable() -> str:
    """Explains why the CUDA library cannot be used; it is built now if need be.

    Returns:
        The reason in one line; empty where a GPU and the library are there.
    """
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    try:
        build.load(build.cuda_recipe)
    except (build.BuildError, OSError) as error:
        return str(error)
    return "" if torch.ops.mnmt_ds_cuda.sees_cuda() else "its library does not find torch's CUDA"


def supports(inputs: LossInputs) -> bool:
    """Returns whether the kernels support these dtypes and numbers of passes and teachers.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Whether they do.
    """
    few = inputs.passes <= MAX_PASSES and len(inputs.teachers) <= MAX_TEACHERS
    dtype = inputs.projection_VD.dtype
    return few and inputs.hidden_KND.is_cuda and dtype in DTYPES and inputs.vocabulary_size < MAX_VOCABULARY


def max_chunk_tokens(inputs: LossInputs) -> int:
    """Computes a chunk's size: what the budget holds, in multiples of the products' tiles.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Tokens, a multiple of 128.
    """
    rows_per_token = inputs.passes + len(inputs.teachers)
    tokens = BUDGET // (rows_per_token * inputs.vocabulary_size * inputs.projection_VD.element_size())
    return max(128, tokens // 128 * 128)


def statistics(inputs: LossInputs, chunk: slice, workspace: Workspace) -> Statistics:
    """Computes logits, then what gates and logs need; the gradient of the logits too where one launch can do all.

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory.

    Returns:
        The chunk's statistics.
    """
    passes, tokens, teachers = inputs.passes, chunk.stop - chunk.start, len(inputs.teachers)
    dtype, vocabulary_size = inputs.projection_VD.dtype, inputs.vocabulary_size
    pack_size = 16 // dtype.itemsize
    pitch = -(-vocabulary_size // pack_size) * pack_size
    hidden_RD = inputs.hidden_KND[:, chunk].to(dtype).reshape(-1, inputs.hidden_KND.shape[2])
    logits_RP = _buffer(workspace, "logits", passes * tokens, pitch, vocabulary_size, dtype)
    teacher_RP = _buffer(workspace, "teacher", teachers * tokens, pitch, vocabulary_size, dtype)
    torch.mm(hidden_RD, inputs.projection_VD.t(), out=logits_RP[:, :vocabulary_size])
    for j, t in enumerate(inputs.teachers):
        teacher_CV = teacher_RP[j * tokens : (j + 1) * tokens, :vocabulary_size]
        if t.projection_VE.dtype == dtype:
            torch.mm(t.hidden_NE[chunk].to(dtype), t.projection_VE.t(), out=teacher_CV)
        else:
            teacher_CV.copy_(t.hidden_NE[chunk].to(t.projection_VE.dtype) @ t.projection_VE.t())
    packed_RC = workspace.new((packed_rows(inputs), tokens))
    divergence_RC = workspace.new((1 + passes, tokens)) if passes > 1 else workspace.new((1, tokens)).zero_()
    fits_on_chip = torch.ops.mnmt_ds_cuda.fits(passes, teachers, pitch, dtype.itemsize, logits_RP.device.index)
    gates_by_token = all(t.gate.kind == "whole" or t.gate.level == "token" for t in inputs.teachers)
    steps = STATISTICS | (DIVERGENCE if passes > 1 else 0)
    if workspace.needs_gradients and fits_on_chip and gates_by_token:
        steps |= GRADIENT | (BULK_COPIES if HAS_BULK_COPIES else 0)
    saved = _Saved(hidden_RD, logits_RP, teacher_RP, packed_RC, divergence_RC, bool(steps & GRADIENT))
    workspace.saved = saved
    _launch(inputs, chunk, workspace, saved, workspace.new((0,)), steps)
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
    if not saved.has_gradient:
        _launch(inputs, chunk, workspace, saved, gate_JKC.contiguous(), GRADIENT)
    dz_RV = saved.logits_RP[:, : inputs.vocabulary_size]
    multiply_gradient(inputs, chunk, dz_RV, saved.hidden_RD, dhidden_KCD, dprojection_VD)


def multiply_gradient(
    inputs: LossInputs,
    chunk: slice,
    dz_RV: Tensor,
    hidden_RD: Tensor,
    dhidden_KCD: Tensor | None,
    dprojection_VD: Tensor | None,
) -> None:
    """Multiplies the logits' gradient by the projection and by the hidden states: the two products that gradients are.

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens of the gradient; the first chunk's product is written, others are added.
        dz_RV: the logits' gradient, times ``gradient_scale``.
        hidden_RD: hidden states in the projection's type.
        dhidden_KCD: written; None: not wanted.
        dprojection_VD: added to; None: not wanted.
    """
    scale = 1 / gradient_scale(inputs)
    out_dtype = {} if dz_RV.dtype == torch.float32 else {"out_dtype": torch.float32}
    if dhidden_KCD is not None:
        dhidden_RD = dhidden_KCD.view(-1, dhidden_KCD.shape[2])
        torch.mm(dz_RV, inputs.projection_VD, **out_dtype, out=dhidden_RD)
        if scale != 1:
            dhidden_RD.mul_(scale)
    if dprojection_VD is not None:
        beta = 0 if chunk.start == 0 else 1  # the first chunk writes, and reads nothing
        torch.addmm(dprojection_VD, dz_RV.t(), hidden_RD, **out_dtype, beta=beta, alpha=scale, out=dprojection_VD)


def _launch(
    inputs: LossInputs, chunk: slice, workspace: Workspace, saved: _Saved, gate_JKC: Tensor, steps: int
) -> None:
    """Runs csrc/cuda.cu's kernel for the steps; an empty gate is made by it, token by token."""
    rules: list[float] = []
    for t in inputs.teachers:
        rules += [GATE_KINDS.index(t.gate.kind), float(t.gate.strict), t.gate.cap, t.gate.below]
    weights = [t.weight_N[chunk] for t in inputs.teachers]
    all_words = torch.empty(0, dtype=torch.bool, device=saved.logits_RP.device)
    torch.ops.mnmt_ds_cuda.rows(
        saved.logits_RP,
        saved.teacher_logits_RP,
        inputs.passes,
        inputs.vocabulary_size,
        [all_words if t.vocabulary_V is None else t.vocabulary_V.contiguous() for t in inputs.teachers],
        [t.temperature for t in inputs.teachers],
        inputs.gold_N[chunk],
        saved.packed_RC,
        saved.divergence_RC,
        inputs.weight_N[chunk],
        torch.stack(weights) if weights else workspace.new((0,)),
        gate_JKC,
        rules,
        inputs.smoothing,
        inputs.divergence_weight,
        gradient_scale(inputs),
        steps,
    )


def gradient_scale(inputs: LossInputs) -> float:
    """Returns the factor of the logits' gradient: float16 cannot hold 1e-6, so it is passed on 256 times as large.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        1 but for float16.
    """
    return 256.0 if inputs.projection_VD.dtype == torch.float16 else 1.0


def _buffer(workspace: Workspace, name: str, rows: int, pitch: int, vocabulary_size: int, dtype: torch.dtype) -> Tensor:
    """(rows, pitch) numbers, reused from chunk to chunk; what no product writes is 0, for kernels read whole packs."""
    is_new = name not in workspace.buffers or workspace.buffers[name].numel() < rows * pitch
    buffer_RP = workspace.buffer(name, rows * pitch, dtype)[: rows * pitch].view(rows, pitch)
    if is_new and pitch > vocabulary_size:
        buffer_RP[:, vocabulary_size:] = 0
    return buffer_RP

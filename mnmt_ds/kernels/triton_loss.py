"""The Triton implementation: log-sum-exp and sum of the logits in the epilogue of their product, then one pass.

Products of logits by ``triton_kernels``, the other two by cuBLAS as in cuda.py. Any vocabulary, gates by token or by
sentence in the same launch, since what they need is known before the pass; one pass of the decoder, at most one
teacher, in bf16 and fp16. Not measured on a GPU yet: it runs where it is asked for by name. Letters: see types.py;
R = C rows of logits; P words of a row with its padding; S tiles of words.
"""

import importlib.util
import os
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels import cuda
from mnmt_ds.kernels.loss_inputs import LossInputs
from mnmt_ds.kernels.statistics import Statistics, Workspace

DTYPES = (torch.bfloat16, torch.float16)
TILE_R, TILE_V, TILE_D = 128, 256, 64
"""Of a product's tiles: rows, words, width."""
HALVES = 2
"""Into which a tile is cut for its statistics."""
GROUP = 8
"""Rows of tiles that go over the words together."""
BLOCK = 4096
"""Words that a row's pass takes at once."""
HALF_MAX = 65504
"""A saturated gradient is wrong, an infinite one ruins the weights."""
ALIGNMENT = 16
"""Bytes: of the beginning of a matrix and of each of its rows, for the tensor memory accelerator."""


class _Saved(NamedTuple):
    """What a chunk's statistics leave for its gradients."""

    hidden_RD: Tensor
    logits_RP: Tensor
    teacher_logits_RP: Tensor
    joined_XR: Tensor
    teacher_joined_XR: Tensor
    kd_R: Tensor
    agree_R: Tensor


def is_interpreted() -> bool:
    """Returns whether Triton's interpreter runs the kernels, on the CPU.

    Returns:
        True with TRITON_INTERPRET=1.
    """
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def why_unavailable() -> str:
    """Explains why the Triton kernels cannot be used.

    Returns:
        The reason in one line; empty where they can.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if is_interpreted():
        return ""
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    major, minor = torch.cuda.get_device_capability()
    return "" if major >= 9 else f"its kernels want compute capability 9.0 or later, this GPU has {major}.{minor}"


def supports(inputs: LossInputs) -> bool:
    """Returns whether the kernels support these dtypes, shapes and numbers of passes and teachers.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Whether they do.
    """
    weights = [inputs.projection_VD, *(t.projection_VE for t in inputs.teachers)]
    return (
        inputs.passes == 1
        and len(inputs.teachers) <= 1
        and inputs.vocabulary_size < cuda.MAX_VOCABULARY
        and (inputs.hidden_KND.is_cuda or is_interpreted())
        and all(t.vocabulary_V is None for t in inputs.teachers)
        and weights[0].dtype in DTYPES
        and all(weight.dtype == weights[0].dtype and _is_aligned(weight) for weight in weights)
    )


def _is_aligned(weight: Tensor) -> bool:
    row_bytes = weight.shape[1] * weight.element_size()
    return weight.is_contiguous() and weight.data_ptr() % ALIGNMENT == row_bytes % ALIGNMENT == 0


def max_chunk_tokens(inputs: LossInputs) -> int:
    """Computes a chunk's size: what cuda.py's budget holds.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        Tokens, a multiple of 128.
    """
    return cuda.max_chunk_tokens(inputs)


def statistics(inputs: LossInputs, chunk: slice, workspace: Workspace) -> Statistics:
    """Computes logits and what gates and logs need; the teacher's term is summed by ``gradients``, where they follow.

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory.

    Returns:
        The chunk's statistics.
    """
    tokens, words = chunk.stop - chunk.start, inputs.vocabulary_size
    temperature = inputs.teachers[0].temperature if inputs.teachers else 1.0
    hidden_RD, logits_RP, joined_XR = _logits(
        "logits", inputs.hidden_KND[0, chunk], inputs.projection_VD, inputs.gold_N[chunk], temperature, workspace
    )
    most_R, log_sum_R, _, total_R, gold_R = joined_XR
    teacher_RP, teacher_XR = logits_RP, joined_XR
    teacher_JC = workspace.new((0, tokens))
    for t in inputs.teachers:
        _, teacher_RP, teacher_XR = _logits(
            "teacher", t.hidden_NE[chunk], t.projection_VE, inputs.gold_N[chunk], temperature, workspace
        )
        teacher_JC = (teacher_XR[4] - teacher_XR[0] - teacher_XR[1]).exp()[None]
    kd_R = workspace.new((len(inputs.teachers) * tokens,))
    agree_R = torch.empty(len(kd_R), dtype=torch.bool, device=workspace.device)
    saved = _Saved(hidden_RD, logits_RP, teacher_RP, joined_XR, teacher_XR, kd_R, agree_R)
    workspace.saved = saved
    if inputs.teachers and not workspace.needs_gradients:
        _pass(inputs, chunk, saved, saved.kd_R, is_gradient=False)
    return Statistics(
        (gold_R - most_R - log_sum_R)[None],
        (total_R / words - most_R - log_sum_R)[None],
        teacher_JC,
        kd_R.view(-1, 1, tokens),
        agree_R.view(-1, 1, tokens),
        torch.zeros_like(most_R),
    )


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
        gate_JKC: the teacher's gate.
        dhidden_KCD: written; None: not wanted.
        dprojection_VD: added to; None: not wanted.
    """
    saved: _Saved = workspace.saved
    _pass(inputs, chunk, saved, gate_JKC.reshape(-1), is_gradient=True)
    dz_RV = saved.logits_RP[:, : inputs.vocabulary_size]
    cuda.multiply_gradient(inputs, chunk, dz_RV, saved.hidden_RD, dhidden_KCD, dprojection_VD)


def _logits(
    name: str, hidden_RX: Tensor, weights_VX: Tensor, gold_R: Tensor, temperature: float, workspace: Workspace
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states in the weights' type, logits (R, P), and float32 (5, R): see ``triton_kernels.combine_kernel``."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from mnmt_ds.kernels import triton_kernels

    (words, width), rows, dtype, tempered = weights_VX.shape, len(hidden_RX), weights_VX.dtype, temperature != 1.0
    pack = ALIGNMENT // dtype.itemsize
    pitch = -(-words // pack) * pack
    hidden_RX = hidden_RX.to(dtype).contiguous()
    if hidden_RX.data_ptr() % ALIGNMENT:
        hidden_RX = hidden_RX.clone()
    logits_RP = workspace.buffer(name, rows * pitch, dtype)[: rows * pitch].view(rows, pitch)
    tiles = -(-words // (TILE_V // HALVES))
    parts = workspace.buffer("parts", 4 * tiles * rows)
    programs = -(-rows // TILE_R) * -(-words // TILE_V)
    logits_kernel: Any = triton_kernels.logits_kernel
    logits_kernel[(min(programs, _multiprocessors(hidden_RX.device)),)](
        TensorDescriptor.from_tensor(hidden_RX, [TILE_R, TILE_D]),
        TensorDescriptor.from_tensor(weights_VX, [TILE_V, TILE_D]),
        TensorDescriptor(logits_RP, [rows, words], [pitch, 1], [TILE_R, TILE_V // HALVES]),
        parts, rows, words, width, temperature,
        TILE_R=TILE_R, TILE_V=TILE_V, TILE_D=TILE_D, GROUP=GROUP, HALVES=HALVES, TEMPERED=tempered,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    joined_XR = workspace.new((5, rows))
    combine_kernel: Any = triton_kernels.combine_kernel
    combine_kernel[(-(-rows // 32),)](
        parts, logits_RP, gold_R, joined_XR, rows, tiles, pitch, temperature, BLOCK=32, TEMPERED=tempered, num_warps=1
    )
    return hidden_RX, logits_RP, joined_XR


def _pass(inputs: LossInputs, chunk: slice, saved: _Saved, gate_R: Tensor, is_gradient: bool) -> None:
    """Sums the teacher's term; where a gradient is wanted it takes the logits' place."""
    from mnmt_ds.kernels import triton_kernels

    rows, pitch = saved.logits_RP.shape
    teacher = inputs.teachers[0] if inputs.teachers else None
    temperature = teacher.temperature if teacher else 1.0
    weight_R = inputs.weight_N[chunk]
    gradient_kernel: Any = triton_kernels.gradient_kernel
    gradient_kernel[(rows,)](
        saved.logits_RP, saved.teacher_logits_RP, saved.joined_XR, saved.teacher_joined_XR, inputs.gold_N[chunk],
        weight_R, teacher.weight_N[chunk] if teacher else weight_R, gate_R, saved.kd_R,
        saved.agree_R.view(torch.uint8), rows, inputs.vocabulary_size, pitch, temperature, inputs.smoothing,
        cuda.gradient_scale(inputs),
        BLOCK=min(BLOCK, 1 << (pitch - 1).bit_length()), TEACHER=teacher is not None, TEMPERED=temperature != 1.0,
        WRITE=is_gradient, LARGEST=HALF_MAX if saved.logits_RP.dtype == torch.float16 else 0,
        num_warps=8,
    )  # fmt: skip


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2

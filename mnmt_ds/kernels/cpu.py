"""The C++ implementation: products, row arithmetic and gradients of a chunk by csrc/cpu.cpp.

Reads float32, bfloat16 and float16; computes in float32. Letters: see types.py; C tokens of a chunk.
"""

import threading

import torch
from torch import Tensor

from mnmt_ds.kernels import build
from mnmt_ds.kernels.loss_inputs import LossInputs
from mnmt_ds.kernels.statistics import Statistics, Workspace, from_rows, result_rows

BUDGET = 56 << 20
"""Bytes of logits held at once."""
MOST_PASSES, MOST_TEACHERS = 4, 2
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_HELD = threading.local()
"""Each thread's logits of the last call: fresh memory costs more than what is written into it."""


def available() -> str:
    """Empty where the library is there (it is built now if need be), else why it is not."""
    try:
        build.load(build.cpu_recipe)
    except (build.BuildError, OSError) as error:
        return str(error)
    return ""


def fits(problem: LossInputs) -> bool:
    """Whether the C++ code knows this problem's dtypes and numbers of passes and teachers."""
    tensors = [problem.hidden_KND, problem.projection_VD]
    tensors += [x for t in problem.teachers for x in (t.hidden_NE, t.projection_VE)]
    few = problem.passes <= MOST_PASSES and len(problem.teachers) <= MOST_TEACHERS
    return few and all(x.dtype in DTYPES for x in tensors) and problem.vocabulary < 1 << 24


def most_tokens(problem: LossInputs) -> int:
    """Tokens a chunk should have: what the budget holds, and no more than keeps hidden states in a core's cache."""
    buffers = problem.passes + len(problem.teachers)
    held = BUDGET // (4 * problem.vocabulary * buffers)
    return max(32, min(held, 2048) // 32 * 32)


def statistics(problem: LossInputs, cut: slice, store: Workspace) -> Statistics:
    """Logits into the store's buffers, and what gates and logs need."""
    tokens = cut.stop - cut.start
    teachers, passes, vocabulary = len(problem.teachers), problem.passes, problem.vocabulary
    plane = torch.ops.mnmt_ds_cpu.plane(tokens, vocabulary)
    logits, teacher_logits = _hold((passes + teachers) * plane)[: (passes + teachers) * plane].split(
        [passes * plane, teachers * plane]
    )
    found_RC = store.new((result_rows(problem), tokens))
    diverging_RC = store.new((1 + passes, tokens)).zero_()
    torch.ops.mnmt_ds_cpu.statistics(
        *_inputs(problem, cut), torch.get_num_threads(), logits, teacher_logits, found_RC, diverging_RC
    )
    store.kept = (found_RC, diverging_RC[1:], logits, teacher_logits)
    return from_rows(problem, found_RC, diverging_RC)


def gradients(
    problem: LossInputs,
    cut: slice,
    store: Workspace,
    gate_JKC: Tensor,
    dhidden_KCD: Tensor | None,
    dprojection_VD: Tensor | None,
) -> None:
    """Writes the chunk's hidden gradients and adds to the projection's (writes it for the first chunk)."""
    nothing = torch.empty(0)
    found_RC, lean_KC, logits, teacher_logits = store.kept
    weights = [t.weight_N[cut] for t in problem.teachers]
    torch.ops.mnmt_ds_cpu.gradients(
        *_inputs(problem, cut),
        torch.get_num_threads(),
        found_RC,
        lean_KC,
        problem.weight_N[cut],
        torch.stack(weights) if weights else nothing,
        gate_JKC.contiguous(),
        problem.smoothing,
        problem.divergence_weight,
        cut.start == 0,
        logits,
        teacher_logits,
        nothing if dhidden_KCD is None else dhidden_KCD,
        nothing if dprojection_VD is None else dprojection_VD,
    )


def _hold(size: int) -> Tensor:
    """This thread's buffer, grown to ``size`` floats; most_tokens bounds it by the budget."""
    held: Tensor | None = getattr(_HELD, "logits", None)
    if held is None or held.numel() < size:
        _HELD.logits = held = None  # the old one goes before the new one comes
        _HELD.logits = held = torch.empty(size)
    return held


def _inputs(problem: LossInputs, cut: slice) -> tuple[object, ...]:
    nothing = torch.empty(0, dtype=torch.bool)
    return (
        [_rows(hidden_ND[cut]) for hidden_ND in problem.hidden_KND],
        _rows(problem.projection_VD),
        [_rows(t.hidden_NE[cut]) for t in problem.teachers],
        [_rows(t.projection_VE) for t in problem.teachers],
        [nothing if t.vocabulary_V is None else t.vocabulary_V.contiguous() for t in problem.teachers],
        [t.temperature for t in problem.teachers],
        problem.gold_N[cut],
    )


def _rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()

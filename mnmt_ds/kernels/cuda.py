"""The CUDA implementation: products by cuBLAS through torch, everything between them by csrc/cuda.cu.

bfloat16, float16 and float32 in; statistics, the projection's gradient and all sums in float32. Where a token's rows
fit in a block's shared memory and no gate needs a whole sentence, the logits are read once: statistics and gradient
share a launch. Letters: see types.py; C tokens of a chunk, R = K * C rows.
"""

import torch
from torch import Tensor

from mnmt_ds.kernels import build
from mnmt_ds.kernels.gates import KINDS
from mnmt_ds.kernels.loss_inputs import LossInputs
from mnmt_ds.kernels.statistics import Statistics, Workspace, from_rows, result_rows

BUDGET = 512 << 20
"""Bytes of logits held at once."""
MOST_PASSES, MOST_TEACHERS = 2, 2
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STATISTICS, DIVERGENCE, GRADIENT = 1, 2, 4


def available() -> str:
    """Empty where a GPU and the library are there (it is built now if need be), else why not."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    try:
        build.load(build.cuda_recipe)
    except (build.BuildError, OSError) as error:
        return str(error)
    return ""


def fits(problem: LossInputs) -> bool:
    """Whether the kernels know this problem's dtypes and numbers of passes and teachers."""
    few = problem.passes <= MOST_PASSES and len(problem.teachers) <= MOST_TEACHERS
    return few and problem.hidden_KND.is_cuda and problem.projection_VD.dtype in DTYPES and problem.vocabulary < 1 << 24


def most_tokens(problem: LossInputs) -> int:
    """Tokens a chunk should have: what the budget holds, in multiples of the products' tiles."""
    buffers = problem.passes + len(problem.teachers)
    held = BUDGET // (buffers * problem.vocabulary * problem.projection_VD.element_size())
    return max(128, held // 128 * 128)


def statistics(problem: LossInputs, cut: slice, store: Workspace) -> Statistics:
    """Logits, then what gates and logs need; the gradient of the logits too where one launch can do all."""
    p, tokens, teachers = problem, cut.stop - cut.start, len(problem.teachers)
    dtype = p.projection_VD.dtype
    pack = 16 // dtype.itemsize
    pitch = -(-p.vocabulary // pack) * pack
    hidden_RD = p.hidden_KND[:, cut].to(dtype).reshape(-1, p.hidden_KND.shape[2])
    logits_RP = _buffer(store, "logits", p.passes * tokens, pitch, dtype)
    teacher_RP = _buffer(store, "teacher", teachers * tokens, pitch, dtype)
    torch.mm(hidden_RD, p.projection_VD.t(), out=logits_RP[:, : p.vocabulary])
    for j, t in enumerate(p.teachers):
        place = teacher_RP[j * tokens : (j + 1) * tokens, : p.vocabulary]
        if t.projection_VE.dtype == dtype:
            torch.mm(t.hidden_NE[cut].to(dtype), t.projection_VE.t(), out=place)
        else:
            place.copy_(t.hidden_NE[cut].to(t.projection_VE.dtype) @ t.projection_VE.t())
    found_RC = store.new((result_rows(p), tokens))
    diverging_RC = store.new((1 + p.passes, tokens)) if p.passes > 1 else store.new((1, tokens)).zero_()
    on_chip = torch.ops.mnmt_ds_cuda.fits(p.passes, teachers, pitch, dtype.itemsize, logits_RP.device.index)
    by_token = all(t.gate.kind == "whole" or t.gate.level == "token" for t in p.teachers)
    steps = STATISTICS | (DIVERGENCE if p.passes > 1 else 0)
    if store.wanted and on_chip and by_token:
        steps |= GRADIENT
    store.kept = (hidden_RD, logits_RP, teacher_RP, found_RC, diverging_RC, bool(steps & GRADIENT))
    _rows(problem, cut, store, store.new((0,)), steps)
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
    hidden_RD, logits_RP, *_, done = store.kept
    if not done:
        _rows(problem, cut, store, gate_JKC.contiguous(), GRADIENT)
    dz_RV = logits_RP[:, : problem.vocabulary]
    scale = 1 / _unit(problem)
    wide = {} if dz_RV.dtype == torch.float32 else {"out_dtype": torch.float32}
    if dhidden_KCD is not None:
        flat_RD = dhidden_KCD.view(-1, dhidden_KCD.shape[2])
        torch.mm(dz_RV, problem.projection_VD, **wide, out=flat_RD)
        if scale != 1:
            flat_RD.mul_(scale)
    if dprojection_VD is not None:
        if cut.start == 0:
            dprojection_VD.zero_()
        torch.addmm(dprojection_VD, dz_RV.t(), hidden_RD, **wide, beta=1, alpha=scale, out=dprojection_VD)


def _rows(problem: LossInputs, cut: slice, store: Workspace, gate_JKC: Tensor, steps: int) -> None:
    p = problem
    _, logits_RP, teacher_RP, found_RC, diverging_RC, _ = store.kept
    rules: list[float] = []
    for t in p.teachers:
        rules += [KINDS.index(t.gate.kind), float(t.gate.strict), t.gate.cap, t.gate.below]
    weights = [t.weight_N[cut] for t in p.teachers]
    nothing = torch.empty(0, dtype=torch.bool, device=logits_RP.device)
    torch.ops.mnmt_ds_cuda.rows(
        logits_RP,
        teacher_RP,
        p.passes,
        p.vocabulary,
        [nothing if t.vocabulary_V is None else t.vocabulary_V.contiguous() for t in p.teachers],
        [t.temperature for t in p.teachers],
        p.gold_N[cut],
        found_RC,
        diverging_RC,
        p.weight_N[cut],
        torch.stack(weights) if weights else store.new((0,)),
        gate_JKC,
        rules,
        p.smoothing,
        p.divergence_weight,
        _unit(p),
        steps,
    )


def _unit(problem: LossInputs) -> float:
    """float16 cannot hold gradients of 1e-6; they travel 256 times as large."""
    return 256.0 if problem.projection_VD.dtype == torch.float16 else 1.0


def _buffer(store: Workspace, name: str, rows: int, pitch: int, dtype: torch.dtype) -> Tensor:
    whole = store.buffer(name, rows * pitch, dtype)
    return whole[: rows * pitch].view(rows, pitch)

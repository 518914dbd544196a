"""The fused loss as one torch.library operator, so that torch.compile keeps its graph whole around it.

Eager code does not come here: it has the same loop (run.py) without the operator's bookkeeping.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.autograd import flat_gradients, run
from mnmt_ds.kernels.gates import KINDS, LEVELS
from mnmt_ds.kernels.types import Gate, LossSums, Teacher


@torch.library.custom_op("mnmt_ds::ce_with_teacher", mutates_args=())
def ce_with_teacher_op(
    hidden: Tensor,
    projection: Tensor,
    target: Tensor,
    teacher_hidden: list[Tensor],
    teacher_projection: list[Tensor],
    weights: list[Tensor],
    vocabulary: list[Tensor],
    settings: list[float],
    smoothing: float,
    passes: int,
    divergence_weight: float,
    pad: int,
    implementation: str,
    want_hidden: bool,
    want_projection: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, gradients (empty where not wanted), scalar sums, and sums per sentence.

    weights: the gold's, then each teacher's. vocabulary: empty tensors stand for all words. settings: six numbers a
    teacher (kind, level, cap, below, strict, temperature).
    """
    teachers = []
    for j, hidden_BTE in enumerate(teacher_hidden):
        kind, level, cap, below, strict, temperature = settings[6 * j : 6 * j + 6]
        gate = Gate(KINDS[int(kind)], LEVELS[int(level)], cap, below, bool(strict))
        words = vocabulary[j] if vocabulary[j].numel() else None
        teachers.append(Teacher(hidden_BTE, teacher_projection[j], weights[1 + j], gate, temperature, words))
    result, problem, found = run(
        hidden, projection, target, teachers, smoothing, weights[0], passes, divergence_weight, pad, implementation,
        want_hidden, want_projection,
    )  # fmt: skip
    dhidden, dprojection = flat_gradients(hidden, projection, problem, found)
    scalars = torch.stack([result.ce, result.nll, result.tokens, result.divergence, *result.kd])
    rows = [result.student_probability_B, *result.gate, *result.teacher_probability, *result.agreement]
    empty = hidden.new_empty(0)
    return (
        result.loss,
        empty if dhidden is None else dhidden,
        empty.clone() if dprojection is None else dprojection,
        scalars,
        torch.stack(rows),
    )


@ce_with_teacher_op.register_fake
def _(
    hidden: Tensor, projection: Tensor, target: Tensor, teacher_hidden: list[Tensor], teacher_projection: list[Tensor],
    weights: list[Tensor], vocabulary: list[Tensor], settings: list[float], smoothing: float, passes: int,
    divergence_weight: float, pad: int, implementation: str, want_hidden: bool, want_projection: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    wide = torch.float64 if torch.float64 in (hidden.dtype, projection.dtype) else torch.float32
    count = len(teacher_hidden)
    return (
        hidden.new_empty((), dtype=wide),
        torch.empty_like(hidden, memory_format=torch.contiguous_format) if want_hidden else hidden.new_empty(0),
        torch.empty_like(projection, memory_format=torch.contiguous_format) if want_projection else hidden.new_empty(0),
        hidden.new_empty(4 + count, dtype=wide),
        hidden.new_empty(1 + 3 * count, target.shape[0], dtype=wide),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[1], output[2])
    ctx.wanted = inputs[-2:]
    ctx.blank = [
        [None] * len(x) if isinstance(x, list) and x and isinstance(x[0], Tensor) else None for x in inputs[2:]
    ]


def _backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Any, ...]:
    dhidden, dprojection = ctx.saved_tensors
    first = (dhidden * scale).to(dhidden.dtype) if ctx.wanted[0] else None
    second = (dprojection * scale).to(dprojection.dtype) if ctx.wanted[1] else None
    return first, second, *ctx.blank


ce_with_teacher_op.register_autograd(_backward, setup_context=_setup)


def call(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teachers: Sequence[Teacher], smoothing: float,
    gold_weight: float | Tensor, passes: int, divergence_weight: float, pad: int, implementation: str,
) -> LossSums:  # fmt: skip
    """ce_with_teacher through the operator."""

    def tensor(weight: float | Tensor) -> Tensor:
        return weight if isinstance(weight, Tensor) else torch.full((), weight, device=hidden_BTD.device)

    everything = torch.empty(0, dtype=torch.bool, device=hidden_BTD.device)
    settings: list[float] = []
    for t in teachers:
        g = t.gate
        settings += [KINDS.index(g.kind), LEVELS.index(g.level), g.cap, g.below, float(g.strict), t.temperature]
    grad = torch.is_grad_enabled()
    loss, _, _, scalars, rows = ce_with_teacher_op(
        hidden_BTD, projection_VD, target_BT,
        [t.hidden_BTE.detach() for t in teachers], [t.projection_VE.detach() for t in teachers],
        [tensor(gold_weight), *(tensor(t.weight) for t in teachers)],
        [everything if t.vocabulary_V is None else t.vocabulary_V for t in teachers],
        settings, smoothing, passes, divergence_weight, pad, implementation,
        grad and hidden_BTD.requires_grad, grad and projection_VD.requires_grad,
    )  # fmt: skip
    ce, nll, tokens, divergence, *kd = scalars.detach().unbind(0)
    probability, *rest = rows.detach().unbind(0)
    count = len(teachers)
    gate, teacher, agreement = (tuple(rest[i * count : (i + 1) * count]) for i in range(3))
    return LossSums(loss, ce, nll, tokens, tuple(kd), gate, probability, teacher, agreement, divergence)

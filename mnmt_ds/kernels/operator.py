"""The fused loss as one torch.library operator, so that torch.compile keeps its graph whole around it.

Eager code does not come here: it has the same loop (autograd.py) without the operator's bookkeeping. An operator's
arguments are tensors, lists and numbers, so teachers and options are laid out flat here, and here alone.
Letters: see types.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.autograd import compute_loss, flat_gradients, gradients_needed
from mnmt_ds.kernels.gates import GATE_KINDS, GATE_LEVELS
from mnmt_ds.kernels.types import Gate, LossOptions, LossSums, Teacher

NUMBERS = 6
"""Numbers a teacher in ``settings``: gate kind, level, cap, below, strict; temperature."""


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
    """Computes the loss, its gradients and its statistics.

    Args:
        hidden: (K * B, T, D) decoder states.
        projection: (V, D) output projection.
        target: (B, T) gold tokens.
        teacher_hidden: (B, T, E) a teacher.
        teacher_projection: (V, E) a teacher.
        weights: the gold's, then each teacher's: (), (B,) or (B, T).
        vocabulary: (V,) bool a teacher; an empty tensor stands for all words.
        settings: six numbers a teacher, see ``NUMBERS``.
        smoothing: see ``LossOptions``, as for the following three.
        passes: K.
        divergence_weight: weight of the X-divergence.
        pad: target id that never counts.
        implementation: auto, chunked, cpu, cuda or triton.
        want_hidden: whether to make the hidden states' gradient.
        want_projection: whether to make the projection's.

    Returns:
        Loss (), both gradients (empty where not wanted), scalar sums (4 + J,), and sums a sentence (1 + 3 J, B).
    """
    teachers = []
    for j, hidden_BTE in enumerate(teacher_hidden):
        kind, level, cap, below, strict, temperature = settings[NUMBERS * j : NUMBERS * (j + 1)]
        gate = Gate(GATE_KINDS[int(kind)], GATE_LEVELS[int(level)], cap, below, bool(strict))
        mask_V = vocabulary[j] if vocabulary[j].numel() else None
        teachers.append(Teacher(hidden_BTE, teacher_projection[j], weights[1 + j], gate, temperature, mask_V))
    options = LossOptions(smoothing, weights[0], passes, divergence_weight, pad)
    sums, inputs, results = compute_loss(
        hidden, projection, target, teachers, options, implementation, want_hidden, want_projection
    )
    dhidden, dprojection = flat_gradients(hidden, projection, inputs, results)
    scalars = torch.stack([sums.ce, sums.nll, sums.tokens, sums.divergence, *sums.kd])
    sentence_sums = [sums.student_probability_B, *sums.gate, *sums.teacher_probability, *sums.agreement]
    empty = hidden.new_empty(0)
    return (
        sums.loss,
        empty if dhidden is None else dhidden,
        empty.clone() if dprojection is None else dprojection,
        scalars,
        torch.stack(sentence_sums),
    )


@ce_with_teacher_op.register_fake
def _fake(
    hidden: Tensor, projection: Tensor, target: Tensor, teacher_hidden: list[Tensor], *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Shapes and dtypes of the operator's results."""
    want_hidden, want_projection = others[-2:]
    dtype = torch.float64 if torch.float64 in (hidden.dtype, projection.dtype) else torch.float32
    count = len(teacher_hidden)
    return (
        hidden.new_empty((), dtype=dtype),
        torch.empty_like(hidden, memory_format=torch.contiguous_format) if want_hidden else hidden.new_empty(0),
        torch.empty_like(projection, memory_format=torch.contiguous_format) if want_projection else hidden.new_empty(0),
        hidden.new_empty(4 + count, dtype=dtype),
        hidden.new_empty(1 + 3 * count, target.shape[0], dtype=dtype),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keeps the gradients for the backward pass; a list of tensors, or an empty one, has a list of gradients."""
    ctx.save_for_backward(output[1], output[2])
    ctx.needs_gradient = inputs[-2:]
    ctx.no_gradients = [
        [None] * len(x) if isinstance(x, list) and all(isinstance(y, Tensor) for y in x) else None for x in inputs[2:]
    ]


def _backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Any, ...]:
    """The known gradients times the loss's own; None for every other argument."""
    dhidden, dprojection = ctx.saved_tensors
    dhidden = (dhidden * scale).to(dhidden.dtype) if ctx.needs_gradient[0] else None
    dprojection = (dprojection * scale).to(dprojection.dtype) if ctx.needs_gradient[1] else None
    return dhidden, dprojection, *ctx.no_gradients


ce_with_teacher_op.register_autograd(_backward, setup_context=_setup_context)


def call(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teachers: Sequence[Teacher], options: LossOptions,
    implementation: str,
) -> LossSums:  # fmt: skip
    """Calls the fused loss as a torch operator.

    Args:
        hidden_BTD: decoder states; with K passes (K * B, T, D).
        projection_VD: output projection.
        target_BT: gold tokens.
        teachers: none to any number, without top_k.
        options: weights, smoothing, passes, padding.
        implementation: auto, chunked, cpu, cuda or triton.

    Returns:
        Sums over tokens; ``loss`` is differentiable.
    """

    def tensor(weight: float | Tensor) -> Tensor:
        return weight if isinstance(weight, Tensor) else torch.full((), weight, device=hidden_BTD.device)

    all_words = torch.empty(0, dtype=torch.bool, device=hidden_BTD.device)
    settings: list[float] = []
    for t in teachers:
        g = t.gate
        settings += [GATE_KINDS.index(g.kind), GATE_LEVELS.index(g.level), g.cap, g.below, float(g.strict)]
        settings += [t.temperature]
    loss, _, _, scalars, sentence_sums = ce_with_teacher_op(
        hidden_BTD, projection_VD, target_BT,
        [t.hidden_BTE.detach() for t in teachers], [t.projection_VE.detach() for t in teachers],
        [tensor(options.gold_weight), *(tensor(t.weight) for t in teachers)],
        [all_words if t.vocabulary_V is None else t.vocabulary_V for t in teachers],
        settings, options.smoothing, options.passes, options.divergence_weight, options.pad, implementation,
        *gradients_needed(hidden_BTD, projection_VD),
    )  # fmt: skip
    ce, nll, tokens, divergence, *kd = scalars.detach().unbind(0)
    probability_B, *rest = sentence_sums.detach().unbind(0)
    count = len(teachers)
    gate, teacher, agreement = (tuple(rest[i * count : (i + 1) * count]) for i in range(3))
    return LossSums(loss, ce, nll, tokens, tuple(kd), gate, probability_B, teacher, agreement, divergence)

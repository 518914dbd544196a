"""The arguments of the fused loss, checked, stripped of padding and cut into chunks.

Letters: see types.py; X, Y any axes.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from mnmt_ds.errors import UserError
from mnmt_ds.kernels.gates import GATE_KINDS, GATE_LEVELS
from mnmt_ds.kernels.target_rows import target_rows
from mnmt_ds.kernels.types import Gate, LossOptions, Teacher

_MASKS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Whether a vocabulary mask allows any word, by tensor."""
VECTOR_TOKENS = 32
"""Chunks are multiples of this, so that vectors and matrix tiles are full."""


class TeacherInputs(NamedTuple):
    """A teacher's inputs to the loss, as rows without padding."""

    hidden_NE: Tensor
    projection_VE: Tensor
    weight_N: Tensor
    gate: Gate
    temperature: float
    vocabulary_V: Tensor | None


class LossInputs(NamedTuple):
    """Inputs of the loss as rows: only tokens that count, sentence after sentence."""

    hidden_KND: Tensor
    projection_VD: Tensor
    gold_N: Tensor
    """int64, the gold tokens."""
    sentence_N: Tensor
    """int64, the sentence of each."""
    rows_N: Tensor
    """int64, the index of each in the flattened (B, T)."""
    sentences: int
    """B."""
    weight_N: Tensor
    """Weight of each token's gold term."""
    unweighted: bool
    """The gold term has weight 1 everywhere."""
    teachers: tuple[TeacherInputs, ...]
    smoothing: float
    divergence_weight: float
    tokens_B: Tensor
    """Number of tokens that count, per sentence."""
    counts: tuple[int, ...]
    """The same as numbers."""
    sentence_sums: bool = False
    """Whether cross-entropies are also summed sentence by sentence."""

    @property
    def passes(self) -> int:
        """Number of passes K."""
        return self.hidden_KND.shape[0]

    @property
    def vocabulary_size(self) -> int:
        """Size of the vocabulary, V."""
        return self.projection_VD.shape[0]


def flatten(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teachers: Sequence[Teacher], options: LossOptions
) -> LossInputs:
    """Converts checked arguments to rows; only tokens that count are kept.

    Args:
        hidden_BTD: decoder states; with K passes (K * B, T, D).
        projection_VD: output projection.
        target_BT: gold tokens.
        teachers: none to any number.
        options: weights, smoothing, passes, padding.

    Returns:
        The rows; tensors share memory with the arguments where nothing is padding.
    """
    sentences, positions = target_BT.shape
    rows = options.target_rows or target_rows(target_BT, options.pad)
    rows_N, sentence_N = rows.rows_N, rows.sentence_N
    dtype = accumulation_dtype(hidden_BTD.dtype, projection_VD.dtype)

    def per_token(weight: float | Tensor) -> Tensor:
        if not isinstance(weight, Tensor) or weight.dim() == 0:
            return torch.full((len(rows_N),), float(weight), dtype=dtype, device=target_BT.device)
        weight = weight.detach().to(dtype)
        return weight[sentence_N] if weight.dim() == 1 else weight.reshape(-1)[rows_N]

    def without_padding(hidden_XTY: Tensor, copies: int) -> Tensor:
        flat = hidden_XTY.detach().reshape(copies, sentences * positions, hidden_XTY.shape[-1])
        return flat if len(rows_N) == flat.shape[1] else flat[:, rows_N]

    return LossInputs(
        hidden_KND=without_padding(hidden_BTD, options.passes),
        projection_VD=projection_VD.detach(),
        gold_N=target_BT.reshape(-1)[rows_N],
        sentence_N=sentence_N,
        rows_N=rows_N,
        sentences=sentences,
        weight_N=per_token(options.gold_weight),
        unweighted=not isinstance(options.gold_weight, Tensor) and options.gold_weight == 1.0,
        teachers=tuple(
            TeacherInputs(
                without_padding(teacher.hidden_BTE, 1)[0],
                teacher.projection_VE.detach(),
                per_token(teacher.weight),
                teacher.gate,
                float(teacher.temperature),
                teacher.vocabulary_V,
            )
            for teacher in teachers
        ),
        smoothing=options.smoothing,
        divergence_weight=options.divergence_weight if options.passes > 1 else 0.0,
        tokens_B=rows.tokens_B,
        counts=rows.counts,
        sentence_sums=options.sentence_sums,
    )


def accumulation_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Chooses the dtype of sums.

    Args:
        dtypes: of the inputs.

    Returns:
        float64 where an input is float64, else float32.
    """
    return torch.float64 if torch.float64 in dtypes else torch.float32


def chunk_ranges(inputs: LossInputs, max_tokens: int) -> list[tuple[int, int]]:
    """Cuts the tokens into ranges: nearly equal ones, or whole sentences where a gate is a mean over a sentence.

    Nearly: all but the last are multiples of ``VECTOR_TOKENS``. A sentence gate's value must be known before the
    sentence's gradient is written.

    Args:
        inputs: the arguments as rows.
        max_tokens: tokens of a range, at most; about, where ranges are rounded or a sentence is longer.

    Returns:
        Start and stop of each range; empty where no token counts.
    """
    tokens = len(inputs.gold_N)
    if tokens == 0:
        return []
    count = -(-tokens // max(1, max_tokens))
    if not any(t.gate.kind != "whole" and t.gate.level == "sentence" for t in inputs.teachers):
        unit = VECTOR_TOKENS if max_tokens >= 2 * VECTOR_TOKENS else 1
        edges = [min(tokens, -(-tokens * i // (count * unit)) * unit) for i in range(count)] + [tokens]
        return list(itertools.pairwise(edges))
    ranges, start, stop = [], 0, 0
    for length in inputs.counts:
        if stop > start and stop + length - start > max_tokens:
            ranges.append((start, stop))
            start = stop
        stop += length
    return [*ranges, (start, stop)] if stop > start else ranges


def check_arguments(
    hidden_BTD: Tensor,
    projection_VD: Tensor,
    target_BT: Tensor,
    teachers: Sequence[Teacher],
    options: LossOptions,
    vocabulary_size: int | None = None,
) -> LossOptions:
    """Checks the loss's arguments, before anything reads them.

    On a GPU weights are not searched for NaN, which would be a wait for it: the loss is then NaN itself.

    Args:
        hidden_BTD: decoder states; with K passes (K * B, T, D).
        projection_VD: output projection.
        target_BT: gold tokens.
        teachers: none to any number.
        options: weights, smoothing, passes, padding.
        vocabulary_size: number of words that targets may name; None: the projection's (given where that is a shard).

    Returns:
        The options with the targets' rows.

    Raises:
        UserError: when something does not fit, in one line.
    """
    if target_BT.dim() != 2 or target_BT.dtype not in (torch.int64, torch.int32):
        raise UserError(f"loss: targets are {_describe(target_BT)}; give integer (sentences, positions)")
    sentences, positions = target_BT.shape
    if options.passes < 1:
        raise UserError(f"loss: {options.passes} passes; give at least 1")
    if projection_VD.dim() != 2 or 0 in projection_VD.shape:
        raise UserError(f"loss: the projection is {_describe(projection_VD)}; give (vocabulary, width)")
    rows, width = projection_VD.shape
    vocabulary_size = vocabulary_size or rows
    _check_shape("hidden states", hidden_BTD, (options.passes * sentences, positions, width))
    if not 0 <= options.smoothing <= 1:
        raise UserError(f"loss: smoothing is {options.smoothing}; give a number from 0 to 1")
    if options.divergence_weight != options.divergence_weight:
        raise UserError("loss: divergence_weight is NaN; give a number")
    _check_weight("gold_weight", options.gold_weight, sentences, positions)
    for i, teacher in enumerate(teachers):
        _check_teacher(f"teacher {i}", teacher, (sentences, positions), rows, is_shard=vocabulary_size != rows)
    target = options.target_rows or target_rows(target_BT, options.pad)
    if target.shape != tuple(target_BT.shape):
        raise UserError(
            f"loss: target_rows are of targets {target.shape}, not {tuple(target_BT.shape)}; leave them out"
        )
    if target.lowest < 0 or target.highest >= vocabulary_size:
        wrong = target.lowest if target.lowest < 0 else target.highest
        raise UserError(
            f"loss: target {wrong} is outside the vocabulary of {vocabulary_size}; check tokenizer and padding id"
        )
    return options._replace(target_rows=target)


def _check_teacher(name: str, teacher: Teacher, shape_BT: tuple[int, int], rows: int, is_shard: bool) -> None:
    """Checks one teacher; a shard's vocabulary mask may be empty, since others may hold its words."""
    if teacher.projection_VE.dim() != 2 or teacher.projection_VE.shape[0] != rows:
        raise UserError(
            f"loss: {name} has a projection of {tuple(teacher.projection_VE.shape)}, the student {rows} "
            "words; teacher and student must share one vocabulary"
        )
    _check_shape(f"{name}'s hidden states", teacher.hidden_BTE, (*shape_BT, teacher.projection_VE.shape[1]))
    _check_weight(f"{name}'s weight", teacher.weight, *shape_BT)
    gate = teacher.gate
    if gate.kind not in GATE_KINDS or gate.level not in GATE_LEVELS:
        raise UserError(f"loss: {name} has gate {gate.kind}/{gate.level}; know {GATE_KINDS} by {GATE_LEVELS}")
    if teacher.top_k < 0 or (teacher.top_k and gate.kind != "whole"):
        raise UserError(f"loss: {name} has top_k {teacher.top_k} with gate {gate.kind}; give 0, or gate whole")
    if not teacher.temperature > 0:
        raise UserError(f"loss: {name} has temperature {teacher.temperature}; give a positive number")
    mask_V = teacher.vocabulary_V
    if mask_V is not None and (mask_V.dtype != torch.bool or mask_V.shape != (rows,)):
        raise UserError(f"loss: {name}'s vocabulary mask is {_describe(mask_V)}; give bool ({rows},)")
    if mask_V is not None and not is_shard and not _allows_a_word(mask_V):
        raise UserError(f"loss: {name}'s vocabulary mask allows no word; mark at least one")


def _allows_a_word(mask_V: Tensor) -> bool:
    """Whether a vocabulary mask allows any word; a tensor is looked at once, for on a GPU that is a wait for it."""
    if mask_V not in _MASKS:
        _MASKS[mask_V] = bool(mask_V.any())
    return _MASKS[mask_V]


def _check_weight(name: str, weight: float | Tensor, sentences: int, positions: int) -> None:
    """Checks a weight's shape, and that it holds no NaN."""
    if isinstance(weight, Tensor):
        shapes = ((), (sentences,), (sentences, positions))
        if tuple(weight.shape) not in shapes:
            raise UserError(f"loss: {name} is {_describe(weight)}; give a number or one of {shapes[1:]}")
        has_nan = weight.device.type == "cpu" and bool(weight.isnan().any())
    else:
        has_nan = weight != weight
    if has_nan:
        raise UserError(f"loss: {name} holds NaN; weights must be numbers")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Checks shape and floating dtype."""
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise UserError(f"loss: {name} are {_describe(tensor)}; expected floating {shape}")


def _describe(tensor: Tensor) -> str:
    """Dtype and shape, for an error."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

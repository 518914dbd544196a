"""The arguments of the fused loss, checked, stripped of padding and cut into chunks.

Letters: see types.py. C tokens of a chunk, M the larger unit that is cut: tokens, or whole sentences where a gate is a
mean over a sentence (its value must be known before the sentence's gradient is written).
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.kernels.gates import KINDS, LEVELS
from mnmt_ds.kernels.types import Gate, Teacher


class TeacherRows(NamedTuple):
    """A teacher, without padding."""

    hidden_NE: Tensor
    projection_VE: Tensor
    weight_N: Tensor
    gate: Gate
    temperature: float
    vocabulary_V: Tensor | None


class LossInputs(NamedTuple):
    """What an implementation computes from."""

    hidden_KND: Tensor
    projection_VD: Tensor
    gold_N: Tensor
    """int64, the gold tokens that count, sentence after sentence."""
    sentence_N: Tensor
    """int64, the sentence of each."""
    rows_N: Tensor
    """int64, its place in the flattened (B, T)."""
    sentences: int
    weight_N: Tensor
    """Weight of each token's gold term."""
    plain: bool
    """The gold term has weight 1 everywhere."""
    teachers: tuple[TeacherRows, ...]
    smoothing: float
    divergence_weight: float
    tokens_B: Tensor
    """Number of tokens that count, per sentence."""

    @property
    def passes(self) -> int:
        """K."""
        return self.hidden_KND.shape[0]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.projection_VD.shape[0]


def flatten(
    hidden_BTD: Tensor,
    projection_VD: Tensor,
    target_BT: Tensor,
    teachers: Sequence[Teacher],
    smoothing: float,
    gold_weight: float | Tensor,
    passes: int,
    divergence_weight: float,
    pad: int,
) -> LossInputs:
    """Checked arguments to rows; only tokens that count are kept."""
    sentences, positions = target_BT.shape
    rows_N = (target_BT.reshape(-1) != pad).nonzero().squeeze(1)
    sentence_N = rows_N.div(max(positions, 1), rounding_mode="floor")
    dtype = accumulator(hidden_BTD.dtype, projection_VD.dtype)

    def per_token(weight: float | Tensor) -> Tensor:
        if not isinstance(weight, Tensor) or weight.dim() == 0:
            return torch.full((len(rows_N),), float(weight), dtype=dtype, device=target_BT.device)
        weight = weight.detach().to(dtype)
        return weight[sentence_N] if weight.dim() == 1 else weight.reshape(-1)[rows_N]

    def compact(hidden_XTY: Tensor, copies: int) -> Tensor:
        flat = hidden_XTY.detach().reshape(copies, sentences * positions, hidden_XTY.shape[-1])
        return flat if len(rows_N) == flat.shape[1] else flat[:, rows_N]

    return LossInputs(
        hidden_KND=compact(hidden_BTD, passes),
        projection_VD=projection_VD.detach(),
        gold_N=target_BT.reshape(-1)[rows_N],
        sentence_N=sentence_N,
        rows_N=rows_N,
        sentences=sentences,
        weight_N=per_token(gold_weight),
        plain=not isinstance(gold_weight, Tensor) and gold_weight == 1.0,
        teachers=tuple(
            TeacherRows(
                compact(teacher.hidden_BTE, 1)[0],
                teacher.projection_VE.detach(),
                per_token(teacher.weight),
                teacher.gate,
                float(teacher.temperature),
                teacher.vocabulary_V,
            )
            for teacher in teachers
        ),
        smoothing=smoothing,
        divergence_weight=divergence_weight if passes > 1 else 0.0,
        tokens_B=torch.bincount(sentence_N, minlength=sentences),
    )


def accumulator(*dtypes: torch.dtype) -> torch.dtype:
    """float64 where an input is float64, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def chunks(problem: LossInputs, most: int) -> list[tuple[int, int]]:
    """Token ranges of at most about ``most`` tokens: nearly equal ones, or whole sentences where a gate needs them.

    Nearly: all but the last are multiples of 32 tokens, so that vectors and matrix tiles are full.
    """
    total = len(problem.gold_N)
    if total == 0:
        return []
    pieces = -(-total // max(1, most))
    if not any(t.gate.kind != "whole" and t.gate.level == "sentence" for t in problem.teachers):
        unit = 32 if most >= 64 else 1
        edges = [min(total, -(-total * i // (pieces * unit)) * unit) for i in range(pieces)] + [total]
        return list(itertools.pairwise(edges))
    ranges, start, stop = [], 0, 0
    for count in problem.tokens_B.tolist():
        if stop > start and stop + count - start > most:
            ranges.append((start, stop))
            start = stop
        stop += count
    return [*ranges, (start, stop)] if stop > start else ranges


def check(
    hidden_BTD: Tensor,
    projection_VD: Tensor,
    target_BT: Tensor,
    teachers: Sequence[Teacher],
    smoothing: float,
    gold_weight: float | Tensor,
    passes: int,
    divergence_weight: float,
    pad: int,
    vocabulary: int | None = None,
) -> None:
    """One clear error for arguments that do not fit, before anything reads them.

    vocabulary: number of words that targets may name; None: the projection's (given where that is a shard).
    """
    if target_BT.dim() != 2 or target_BT.dtype not in (torch.int64, torch.int32):
        raise UserError(f"loss: targets are {_kind(target_BT)}; give integer (sentences, positions)")
    sentences, positions = target_BT.shape
    if passes < 1:
        raise UserError(f"loss: {passes} passes; give at least 1")
    if projection_VD.dim() != 2 or 0 in projection_VD.shape:
        raise UserError(f"loss: the projection is {_kind(projection_VD)}; give (vocabulary, width)")
    words, width = projection_VD.shape
    vocabulary = vocabulary or words
    _expect("hidden states", hidden_BTD, (passes * sentences, positions, width))
    if not 0 <= smoothing <= 1:
        raise UserError(f"loss: smoothing is {smoothing}; give a number from 0 to 1")
    if not divergence_weight == divergence_weight:
        raise UserError("loss: divergence_weight is NaN; give a number")
    _check_weight("gold_weight", gold_weight, sentences, positions)
    for i, teacher in enumerate(teachers):
        name = f"teacher {i}"
        if teacher.projection_VE.dim() != 2 or teacher.projection_VE.shape[0] != words:
            raise UserError(
                f"loss: {name} has a projection of {tuple(teacher.projection_VE.shape)}, the student {words} "
                "words; teacher and student must share one vocabulary"
            )
        _expect(f"{name}'s hidden states", teacher.hidden_BTE, (sentences, positions, teacher.projection_VE.shape[1]))
        _check_weight(f"{name}'s weight", teacher.weight, sentences, positions)
        if teacher.gate.kind not in KINDS or teacher.gate.level not in LEVELS:
            raise UserError(f"loss: {name} has gate {teacher.gate.kind}/{teacher.gate.level}; know {KINDS} by {LEVELS}")
        if teacher.top_k < 0 or (teacher.top_k and teacher.gate.kind != "whole"):
            raise UserError(
                f"loss: {name} has top_k {teacher.top_k} with gate {teacher.gate.kind}; give 0, or gate whole"
            )
        if not teacher.temperature > 0:
            raise UserError(f"loss: {name} has temperature {teacher.temperature}; give a positive number")
        mask = teacher.vocabulary_V
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (words,)):
            raise UserError(f"loss: {name}'s vocabulary mask is {_kind(mask)}; give bool ({words},)")
        if mask is not None and vocabulary == words and not mask.any():
            raise UserError(f"loss: {name}'s vocabulary mask allows no word; mark at least one")
    if target_BT.numel():
        real_BT = target_BT.where(target_BT != pad, 0)
        low, high = real_BT.aminmax()
        if int(low) < 0 or int(high) >= vocabulary:
            bad = int(low) if int(low) < 0 else int(high)
            raise UserError(
                f"loss: target {bad} is outside the vocabulary of {vocabulary}; check tokenizer and padding id"
            )


def _check_weight(name: str, weight: float | Tensor, sentences: int, positions: int) -> None:
    if isinstance(weight, Tensor):
        allowed = ((), (sentences,), (sentences, positions))
        if tuple(weight.shape) not in allowed:
            raise UserError(f"loss: {name} is {_kind(weight)}; give a number or one of {allowed[1:]}")
        wrong = bool(weight.isnan().any())
    else:
        wrong = weight != weight
    if wrong:
        raise UserError(f"loss: {name} holds NaN; weights must be numbers")


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise UserError(f"loss: {name} are {_kind(tensor)}; expected floating {shape}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

"""What every implementation hands back of a chunk, and the buffers it keeps from chunk to chunk.

Letters: see types.py; R rows of what native code writes (csrc/cpu.h lists them), each of C tokens.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels.loss_inputs import LossInputs

ROWS_PER_PASS = 5
"""Rows a pass: the two of a log-normalizer, sum of logits, gold logit, argmax (csrc/rows.h: PASS_ROWS)."""


class Statistics(NamedTuple):
    """Statistics of each token of a chunk, or of all N; first axes K passes, J teachers."""

    gold_KC: Tensor
    """Log-probability of the gold token."""
    mean_KC: Tensor
    """Mean log-probability over the vocabulary."""
    teacher_JC: Tensor
    """The gold token's probability under each teacher, at temperature 1."""
    kd_JKC: Tensor
    """T^2 * CE(teacher / T, student / T)."""
    agree_JKC: Tensor
    """bool: both favour the same word."""
    divergence_C: Tensor
    """X-divergence; 0 for one pass."""


def unpack_statistics(inputs: LossInputs, packed_RC: Tensor, divergence_RC: Tensor) -> Statistics:
    """Unpacks the statistics that native code wrote.

    Args:
        inputs: the loss's arguments as rows.
        packed_RC: statistics, rows as in csrc/cpu.h.
        divergence_RC: X-divergence first.

    Returns:
        The chunk's statistics.
    """
    passes, teachers, tokens = inputs.passes, len(inputs.teachers), packed_RC.shape[1]
    student_K5C = packed_RC[: ROWS_PER_PASS * passes].view(passes, ROWS_PER_PASS, tokens)
    max_KC, log_sum_KC, logit_sum_KC, gold_KC, argmax_KC = student_K5C.unbind(1)
    teacher_JRC = packed_RC[ROWS_PER_PASS * passes :].view(teachers, _rows_per_teacher(passes), tokens)
    cross_JKC, max_at_T_JKC, log_sum_at_T_JKC = teacher_JRC[:, 6:].view(teachers, passes, 3, tokens).unbind(2)
    kd = [
        (max_at_T_JKC[j] - cross_JKC[j] / t.temperature + log_sum_at_T_JKC[j]) * t.temperature**2
        for j, t in enumerate(inputs.teachers)
    ]
    return Statistics(
        gold_KC - max_KC - log_sum_KC,
        logit_sum_KC / inputs.vocabulary_size - max_KC - log_sum_KC,
        (teacher_JRC[:, 4] - teacher_JRC[:, 0] - teacher_JRC[:, 1]).exp(),
        torch.stack(kd) if kd else cross_JKC,
        argmax_KC == teacher_JRC[:, 5:6],
        divergence_RC[0],
    )


def packed_rows(inputs: LossInputs) -> int:
    """Counts the rows of statistics that native code writes.

    Args:
        inputs: the loss's arguments as rows.

    Returns:
        R.
    """
    return ROWS_PER_PASS * inputs.passes + len(inputs.teachers) * _rows_per_teacher(inputs.passes)


def _rows_per_teacher(passes: int) -> int:
    """csrc/rows.h: teacher_rows."""
    return 6 + 3 * passes


class Workspace:
    """Scratch memory of one call: named buffers that its chunks reuse, and what statistics keep for gradients.

    Args:
        device: of all buffers.
        dtype: of sums, and of buffers unless they say otherwise.
        needs_gradients: whether gradients will be asked for.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, needs_gradients: bool) -> None:
        self.device, self.dtype, self.needs_gradients = device, dtype, needs_gradients
        self.buffers: dict[str, Tensor] = {}
        self.saved: Any = None
        """What an implementation's ``statistics`` leave for its ``gradients`` of the same chunk."""

    def buffer(self, name: str, size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns a buffer of this name and shape; later chunks get the same memory again.

        Args:
            name: the buffer's name.
            size: numbers that it must hold.
            dtype: of a new buffer; None: the workspace's.

        Returns:
            One-dimensional, at least ``size`` numbers, not cleared.
        """
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers.pop(name, None)  # the old one goes before the new one comes
            self.buffers[name] = torch.empty(size, dtype=dtype or self.dtype, device=self.device)
        return self.buffers[name]

    def new(self, shape: tuple[int, ...]) -> Tensor:
        """Makes a tensor that no other chunk shares.

        Args:
            shape: of the tensor.

        Returns:
            Uncleared numbers of the workspace's dtype.
        """
        return torch.empty(shape, dtype=self.dtype, device=self.device)

"""What every implementation hands back of a chunk, and the buffers it keeps from chunk to chunk."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels.loss_inputs import LossInputs


class Statistics(NamedTuple):
    """Per token; first axes K passes, J teachers. Letters: see types.py; C tokens of a chunk, or all N."""

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


def from_rows(problem: LossInputs, found_RC: Tensor, diverging_RC: Tensor) -> Statistics:
    """What native code wrote (rows as in csrc/cpu.h) as statistics."""
    passes, tokens = problem.passes, found_RC.shape[1]
    top_KC, log_KC, total_KC, gold_KC, best_KC = found_RC[: 5 * passes].view(passes, 5, tokens).unbind(1)
    lesson_JRC = found_RC[5 * passes :].view(len(problem.teachers), 6 + 3 * passes, tokens)
    dot_JKC, warm_top_JKC, warm_log_JKC = lesson_JRC[:, 6:].view(len(problem.teachers), passes, 3, tokens).unbind(2)
    kd = [
        (warm_top_JKC[j] - dot_JKC[j] / t.temperature + warm_log_JKC[j]) * t.temperature**2
        for j, t in enumerate(problem.teachers)
    ]
    return Statistics(
        gold_KC - top_KC - log_KC,
        total_KC / problem.vocabulary - top_KC - log_KC,
        (lesson_JRC[:, 4] - lesson_JRC[:, 0] - lesson_JRC[:, 1]).exp(),
        torch.stack(kd) if kd else dot_JKC,
        best_KC == lesson_JRC[:, 5:6],
        diverging_RC[0],
    )


def result_rows(problem: LossInputs) -> int:
    """Rows that native code writes."""
    return 5 * problem.passes + len(problem.teachers) * (6 + 3 * problem.passes)


class Workspace:
    """Scratch memory of one call: named buffers reused by its chunks, and what statistics leave for gradients."""

    def __init__(self, device: torch.device, dtype: torch.dtype, wanted: bool) -> None:
        self.device, self.dtype = device, dtype
        self.wanted = wanted
        """Gradients will be asked for."""
        self.buffers: dict[str, Tensor] = {}
        self.kept: Any = None

    def buffer(self, name: str, size: int, dtype: torch.dtype | None = None) -> Tensor:
        """At least ``size`` numbers, not cleared."""
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers.pop(name, None)  # the old one goes before the new one comes
            self.buffers[name] = torch.empty(size, dtype=dtype or self.dtype, device=self.device)
        return self.buffers[name]

    def new(self, shape: tuple[int, ...]) -> Tensor:
        """An uncleared tensor of its own."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

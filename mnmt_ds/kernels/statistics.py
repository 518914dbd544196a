"""What every implementation hands back of a chunk, and the buffers it keeps from chunk to chunk."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


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


class Store:
    """Scratch memory of one call: named buffers reused by its chunks, and what statistics leave for gradients."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.buffers: dict[str, Tensor] = {}
        self.kept: Any = None

    def buffer(self, name: str, size: int) -> Tensor:
        """At least ``size`` numbers, not cleared."""
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return self.buffers[name]

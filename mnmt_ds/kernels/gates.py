"""The three gates of LSSD, on probabilities that are already per sentence or per token."""

import torch
from torch import Tensor

from mnmt_ds.kernels.types import Gate

KINDS = ("whole", "selective", "adaptive")
LEVELS = ("sentence", "token")


def gate_value(gate: Gate, teacher: Tensor, student: Tensor) -> Tensor:
    """The gate for mean gold probabilities of teacher and student (broadcast to each other)."""
    teacher, student = torch.broadcast_tensors(teacher, student)  # type: ignore[no-untyped-call]
    if gate.kind == "whole":
        return torch.ones_like(student)
    if gate.kind == "selective":
        better = teacher > student if gate.strict else teacher >= student
        return torch.ones_like(student).where(better, gate.below)
    equal = teacher == student  # 0 / 0 included: neither is better
    return (teacher / student).where(~equal, 1.0).clamp(max=gate.cap)

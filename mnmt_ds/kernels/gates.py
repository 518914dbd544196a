"""The three gates of LSSD, on probabilities that are already per sentence or per token.

Shape letters: X any shape.
"""

import torch
from torch import Tensor

from mnmt_ds.kernels.types import Gate

GATE_KINDS = ("whole", "selective", "adaptive")
"""In the order of csrc/rows.h's numbers."""
GATE_LEVELS = ("sentence", "token")


def gate_value(gate: Gate, teacher_X: Tensor, student_X: Tensor) -> Tensor:
    """Computes a gate (types.Gate has the equations).

    Args:
        gate: kind and constants; its level is the caller's business.
        teacher_X: the teacher's mean gold probabilities.
        student_X: the student's; the two shapes are broadcast to each other.

    Returns:
        The gate, of the broadcast shape and the student's dtype.
    """
    teacher_X, student_X = torch.broadcast_tensors(teacher_X, student_X)  # type: ignore[no-untyped-call]
    if gate.kind == "whole":
        return torch.ones_like(student_X)
    if gate.kind == "selective":
        is_better = teacher_X > student_X if gate.strict else teacher_X >= student_X
        return torch.ones_like(student_X).where(is_better, gate.below)
    is_equal = teacher_X == student_X  # 0 / 0 included: neither is better
    return (teacher_X / student_X).where(~is_equal, 1.0).clamp(max=gate.cap)

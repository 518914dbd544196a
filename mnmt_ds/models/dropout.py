"""Dropout, with cheap random bits on a CPU, where drawing them costs more than using them."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 15
"""On a CPU a probability is a multiple of 1 / STEPS: four 15-bit draws are cut from each random 63-bit number."""


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """``torch.nn.functional.dropout``; on a CPU half its cost, from the same default generator."""
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability, training)
    threshold = round(probability * STEPS)
    count = x.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_().view(torch.int16)[:count].view(x.shape)
    kept = bits.bitwise_and_(STEPS - 1).ge(threshold)
    return x * kept.to(x.dtype).mul_(STEPS / (STEPS - threshold))

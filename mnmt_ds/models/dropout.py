"""Dropout, with cheap random bits on a CPU, where drawing them costs more than using them."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 15
"""On a CPU a probability is a multiple of 1 / STEPS: four 15-bit draws are cut from each random 63-bit number."""


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Sets numbers to 0 at random and scales the others by 1 / (1 - probability), as torch's own dropout.

    On a CPU at half the cost of ``torch.nn.functional.dropout``, from the same default generator; compiled code draws
    as torch's compiler does.

    Args:
        x: any shape.
        probability: of a number to become 0, in [0, 1).
        training: False: x is returned as it is.

    Returns:
        A tensor of x's shape and dtype.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability, training)
    threshold = round(probability * STEPS)
    count = x.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_().view(torch.int16)[:count].view(x.shape)
    mask = bits.bitwise_and_(STEPS - 1).ge(threshold)
    return x * mask.to(x.dtype).mul_(STEPS / (STEPS - threshold))

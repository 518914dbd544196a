"""Which gold tokens count, found once where the targets are made: on a GPU every such question is a wait for it.

Letters: see types.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class TargetRows(NamedTuple):
    """Positions of the tokens of (B, T) targets that count, in order."""

    rows_N: Tensor
    """int64, the index of each in the flattened (B, T)."""
    sentence_N: Tensor
    """int64, the sentence of each."""
    tokens_B: Tensor
    """int64, how many each sentence has."""
    counts: tuple[int, ...]
    """The same as numbers."""
    lowest: int
    """The least gold token; 0 where none is below."""
    highest: int
    """The greatest gold token; 0 where none is above."""
    shape: tuple[int, int]
    """(B, T)."""


def target_rows(target_BT: Tensor, pad: int) -> TargetRows:
    """Finds the tokens that count; on a GPU the host waits for it several times.

    Args:
        target_BT: int64 or int32 gold tokens.
        pad: target id that never counts.

    Returns:
        The rows, on the targets' device.
    """
    sentences, positions = target_BT.shape
    rows_N = (target_BT.reshape(-1) != pad).nonzero().squeeze(1)
    sentence_N = rows_N.div(max(positions, 1), rounding_mode="floor")
    tokens_B = torch.bincount(sentence_N, minlength=sentences)
    lowest = highest = 0
    if target_BT.numel():
        lowest, highest = (int(value) for value in target_BT.where(target_BT != pad, 0).aminmax())
    return TargetRows(rows_N, sentence_N, tokens_B, tuple(tokens_B.tolist()), lowest, highest, (sentences, positions))

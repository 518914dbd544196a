"""An endless walk through permutation after permutation of many items, of which any stretch is found at once.

For texts of a hundred million sentences, where a permutation in memory would cost what the text itself does not.
"""

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.distributed import seed_of

Ints = NDArray[np.int64]
ROUNDS = 6


def draw_items(size: int, count: int, offset: int, seed: int, name: str) -> Ints:
    """``count`` items of ``size`` from position ``offset`` of the walk: none comes twice before all came once."""
    position = np.arange(offset, offset + count, dtype=np.int64)
    lap, inside = np.divmod(position, size)
    found = np.empty(count, np.int64)
    for number in np.unique(lap):
        here = lap == number
        found[here] = permute_positions(inside[here], size, seed_of(seed, "walk", name, int(number)))
    return found


def permute_positions(position_N: Ints, size: int, seed: int) -> Ints:
    """Where a pseudo-random permutation of range(size) takes some positions; memory for these alone.

    A Feistel network on the next even number of bits, applied again to whatever falls outside (cycle walking).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = np.random.Generator(np.random.Philox(seed)).integers(0, 1 << 62, ROUNDS, np.uint64)
    result = position_N.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):
        left, right = result[outside] >> half, result[outside] & low
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & low)
        result[outside] = (left << half) | right
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finish."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

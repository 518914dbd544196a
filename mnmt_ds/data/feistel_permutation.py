"""Permutation after permutation of many items, of which any part is computed at once.

For texts of a hundred million sentences, where a permutation in memory would cost what the text itself does not.

Letters: N positions.
"""

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.distributed import seed_of

Ints = NDArray[np.int64]
ROUNDS = 6
"""Rounds of the Feistel network."""


def draw_items(size: int, count: int, offset: int, seed: int, name: str) -> Ints:
    """Draws items from an endless sequence of permutations of all of them.

    Args:
        size: how many items there are.
        count: how many to draw.
        offset: position in the sequence, that is how many were drawn before.
        seed: the run's seed.
        name: what the items are; another name, another sequence.

    Returns:
        ``count`` numbers below ``size``, (count,); none comes twice before all came once.
    """
    position = np.arange(offset, offset + count, dtype=np.int64)
    permutation_N, place_N = np.divmod(position, size)
    items_N = np.empty(count, np.int64)
    for number in np.unique(permutation_N):
        here_N = permutation_N == number
        items_N[here_N] = permute_positions(place_N[here_N], size, seed_of(seed, "walk", name, int(number)))
    return items_N


def permute_positions(position_N: Ints, size: int, seed: int) -> Ints:
    """Computes where a pseudo-random permutation of range(size) takes some positions; memory for these alone.

    A Feistel network on the next even number of bits, applied again to whatever falls outside (cycle walking).

    Args:
        position_N: numbers below ``size``.
        size: how many items are permuted.
        seed: another seed, another permutation.

    Returns:
        The item at each position; (N,).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = np.random.Generator(np.random.Philox(seed)).integers(0, 1 << 62, ROUNDS, np.uint64)
    result_N = position_N.astype(np.uint64)
    outside = np.arange(len(result_N))
    while len(outside):
        left, right = result_N[outside] >> half, result_N[outside] & low
        for key in keys:
            left, right = right, left ^ (_mix_bits(right + key) & low)
        result_N[outside] = (left << half) | right
        outside = outside[result_N[outside] >= size]
    return result_N.astype(np.int64)


def _mix_bits(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finish."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""Who is held out: dev, test and training sets by the hash of the normalised key; numpy arrays only.

Every pair takes as dev (test) set the first sentences, in hash order, of those keys whose top bit is 0 (1). A key that
is held out in ANY pair is in no pair's training set. A pair's choice depends on nothing but its own keys and the seed.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

TRAIN, DEV, TEST, DROPPED = 0, 1, 2, 3
SPLITS = ("train", "dev", "test")
TOP = np.uint64(1 << 63)


def first_occurrences(pair_N: np.ndarray) -> np.ndarray:
    """Mask of the rows whose hash did not occur before."""
    mask_N = np.zeros(len(pair_N), bool)
    mask_N[np.unique(pair_N, return_index=True)[1]] = True
    return mask_N


def apply_domain_cap(domain_N: np.ndarray, pair_N: np.ndarray, usable_N: np.ndarray, cap: int) -> np.ndarray:
    """Mask that keeps the ``cap`` usable rows of each domain whose hashes are lowest."""
    mask_N = usable_N.copy()
    for domain, count in zip(*np.unique(domain_N[usable_N], return_counts=True), strict=True):
        if count > cap:
            rows = np.flatnonzero(usable_N & (domain_N == domain))
            mask_N[rows[np.argpartition(pair_N[rows], cap)[cap:]]] = False
    return mask_N


def choose_held_out_rows(key_N: np.ndarray, usable_N: np.ndarray, dev: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the dev and of the test set, one a key; each at most a quarter of the pair's keys."""
    rows = np.flatnonzero(usable_N)
    keys, first = np.unique(key_N[rows], return_index=True)
    middle = int(np.searchsorted(keys, TOP))
    most = len(keys) // 4
    dev_rows = rows[first[: min(dev, most, middle)]]
    test_rows = rows[first[middle : middle + min(test, most)]]
    return np.sort(dev_rows), np.sort(test_rows)


def choose_training_rows(
    key_N: np.ndarray, pair_N: np.ndarray, usable_N: np.ndarray, kept_out: np.ndarray, limit: int | None
) -> tuple[np.ndarray, Counter[str]]:
    """Rows of the training set (``kept_out``: sorted keys of all pairs' dev and test sets), and counts of the rest."""
    free_N = usable_N & ~is_in_sorted(key_N, kept_out)
    counts = Counter({"held-out key": int(usable_N.sum() - free_N.sum())})
    rows = np.flatnonzero(free_N)
    if limit is not None and len(rows) > limit:
        counts["over limit"] = len(rows) - limit
        rows = np.sort(rows[np.argpartition(pair_N[rows], limit)[:limit]])
    return rows, counts


def is_in_sorted(values_N: np.ndarray, sorted_M: np.ndarray) -> np.ndarray:
    """Mask of values that occur in a sorted array."""
    if not len(sorted_M):
        return np.zeros(len(values_N), bool)
    places = np.minimum(np.searchsorted(sorted_M, values_N), len(sorted_M) - 1)
    return np.asarray(sorted_M[places] == values_N)


def union_of_keys(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Sorted distinct values of several arrays."""
    return np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.uint64)

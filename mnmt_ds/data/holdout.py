"""Which rows are held out: dev, test and training sets by the hash of the normalised key; numpy arrays only.

Every pair takes as dev (test) set the first sentences, in hash order, of those keys whose top bit is 0 (1). A pair's
choice depends on nothing but its own keys and the seed.

Letters: N rows of a pair's text, M hashes to look among.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mnmt_ds.data.settings import SyntheticText

Hashes = NDArray[np.uint64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
"""Row numbers, ascending."""

TRAIN, DEV, TEST, DROPPED = 0, 1, 2, 3
"""What becomes of a row: the number of its split, or that it is dropped."""
SPLITS = ("train", "dev", "test")
"""Names of the splits, by number."""
TOP_BIT = np.uint64(1 << 63)


class RowHashes(NamedTuple):
    """Hashes of the clean rows of a text, an element a row."""

    key: Hashes
    """Hash of the normalised key: of a side's text, or of a text in the key language that is neither side's."""
    source: Hashes
    """Hash of the normalised source."""
    target: Hashes
    """Hash of the normalised target."""
    pair: Hashes
    """Hash of both sides."""
    domain: NDArray[np.uint16]
    """Number of the row's domain."""
    synthetic: "Mapping[int, SyntheticText]" = {}  # noqa: RUF012 (never changed)
    """How text that a model translated is taken in, by the number of its domain."""

    @property
    def is_synthetic(self) -> Mask:
        """Mask of the rows that a model translated."""
        return np.isin(self.domain, list(self.synthetic))

    def of_rows(self, rows: Rows) -> "RowHashes":
        """Selects the hashes of some rows.

        Args:
            rows: their numbers, (M,).

        Returns:
            The hashes of these rows, in that order.
        """
        hashes = self.key[rows], self.source[rows], self.target[rows], self.pair[rows], self.domain[rows]
        return RowHashes(*hashes, self.synthetic)


def first_occurrences(pair_N: Hashes) -> Mask:
    """Marks the rows whose sentence pair did not occur before.

    Args:
        pair_N: hash of each row's two sides.

    Returns:
        Mask (N,) of the first row of every hash.
    """
    mask_N = np.zeros(len(pair_N), bool)
    mask_N[np.unique(pair_N, return_index=True)[1]] = True
    return mask_N


def apply_domain_cap(domain_N: NDArray[np.uint16], pair_N: Hashes, usable_N: Mask, cap: int) -> Mask:
    """Keeps the usable rows of each domain whose hashes are lowest.

    Args:
        domain_N: number of each row's domain.
        pair_N: hash of each row's two sides.
        usable_N: mask of the usable rows.
        cap: most rows of a domain.

    Returns:
        Mask (N,) of the rows that stay usable.
    """
    mask_N = usable_N.copy()
    for domain, count in zip(*np.unique(domain_N[usable_N], return_counts=True), strict=True):
        if count > cap:
            rows = np.flatnonzero(usable_N & (domain_N == domain))
            mask_N[rows[np.argpartition(pair_N[rows], cap)[cap:]]] = False
    return mask_N


def choose_held_out_rows(key_N: Hashes, usable_N: Mask, dev: int, test: int) -> tuple[Rows, Rows]:
    """Chooses the dev and the test set of a pair: one row a key, each set at most a quarter of the pair's keys.

    Args:
        key_N: hash of each row's normalised key.
        usable_N: mask of the usable rows.
        dev: sentence pairs wanted in the dev set.
        test: sentence pairs wanted in the test set.

    Returns:
        Rows of the dev set and rows of the test set.
    """
    rows = np.flatnonzero(usable_N)
    keys, first = np.unique(key_N[rows], return_index=True)
    middle = int(np.searchsorted(keys, TOP_BIT))
    max_size = len(keys) // 4
    dev_rows = rows[first[: min(dev, max_size, middle)]]
    test_rows = rows[first[middle : middle + min(test, max_size)]]
    return np.sort(dev_rows), np.sort(test_rows)


def choose_training_rows(
    pair_N: Hashes, usable_N: Mask, held_out: Mapping[str, Mask], limit: int | None
) -> tuple[Rows, Counter[str]]:
    """Chooses the training set: no row whose text is held out; of too many, those whose hashes are lowest.

    Args:
        pair_N: hash of each row's two sides.
        usable_N: mask of the usable rows.
        held_out: masks of the rows whose text is held out, by rule; a row is counted under the first one.
        limit: most sentence pairs; None: all.

    Returns:
        Rows of the training set, and how many usable rows were left out by which rule.
    """
    free_N = usable_N
    counts: Counter[str] = Counter()
    for rule, mask_N in held_out.items():
        counts[rule] = int((free_N & mask_N).sum())
        free_N = free_N & ~mask_N
    rows = np.flatnonzero(free_N)
    if limit is not None and len(rows) > limit:
        counts["over limit"] = len(rows) - limit
        rows = np.sort(rows[np.argpartition(pair_N[rows], limit)[:limit]])
    return rows, counts


def is_in_sorted(values_N: Hashes, sorted_M: Hashes) -> Mask:
    """Marks the values that occur in a sorted array.

    Args:
        values_N: values to look for.
        sorted_M: ascending values to look among.

    Returns:
        Mask (N,), True where a value occurs.
    """
    if not len(sorted_M):
        return np.zeros(len(values_N), bool)
    indices = np.minimum(np.searchsorted(sorted_M, values_N), len(sorted_M) - 1)
    return np.asarray(sorted_M[indices] == values_N)


def union_of_keys(keys: Sequence[Hashes]) -> Hashes:
    """Merges several arrays of keys.

    Args:
        keys: arrays of hashes.

    Returns:
        Their distinct values, sorted.
    """
    return np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.uint64)

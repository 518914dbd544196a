"""A pair's training set cut into blocks that never change: the unit in which a teacher's states are made and kept.

States are computed block by block, never in the batches of training, whose composition changes from epoch to epoch.
So they are a function of teacher and sentence alone, to the last bit: whether they were remembered, lost and made
again, or made by a resumed run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.batching import PairLengths, fixed_batches
from mnmt_ds.errors import UserError
from mnmt_ds.teachers.settings import TeacherSettings

Ints = NDArray[np.int64]


class PairBlocks(NamedTuple):
    """One pair's blocks; arrays indexed by a sentence's number have one entry for every sentence of its set."""

    sentences: list[Ints]
    """Numbers of each block's sentences."""
    block_of: Ints
    """A sentence's block."""
    row_of: Ints
    """Where a sentence's states begin among its block's."""
    length: Ints
    """A sentence's states: its target tokens, the end symbol included."""
    rows: Ints
    """States of each block."""


def blocks_of(lengths: PairLengths, max_tokens: int) -> PairBlocks:
    """Cuts a pair's usable sentences into blocks of like length under a budget of padded tokens."""
    sentences = fixed_batches(lengths, max_tokens)
    size = int(lengths.sentence.max()) + 1
    block_of, row_of, length = (np.full(size, -1, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64))
    length[lengths.sentence] = lengths.target
    for number, chosen in enumerate(sentences):
        block_of[chosen] = number
        row_of[chosen] = np.concatenate([[0], length[chosen].cumsum()[:-1]])
    rows = np.array([int(length[chosen].sum()) for chosen in sentences], np.int64)
    return PairBlocks(sentences, block_of, row_of, length, rows)


class CachePlan(NamedTuple):
    """What is remembered: decided before training, from sizes alone, so that every run and resume decides alike.

    Training walks through a pair's sentences in turn, so throwing out what rested longest would throw out just what
    comes next. Rather, as many blocks as fit are chosen once, of the pairs that come by most often first; a teacher
    that is replaced takes its states with it.
    """

    blocks: tuple[PairBlocks, ...]
    admitted: tuple[int, ...]
    """Of each pair, how many of its blocks (the first ones) are remembered."""
    bytes_a_row: int
    memory: int
    """Bytes of CPU memory on each rank."""
    disk: int
    """Bytes of disk on each rank."""

    def remembered(self) -> int:
        """Bytes of all states that are to be remembered, over all ranks."""
        return sum(int(b.rows[:n].sum()) for b, n in zip(self.blocks, self.admitted, strict=True)) * self.bytes_a_row

    def describe(self) -> str:
        """One line for the log."""
        whole = sum(int(b.rows.sum()) for b in self.blocks) * self.bytes_a_row
        kept = sum(n > 0 for n in self.admitted)
        room = f"{self.memory / 2**30:.1f} GiB memory" + (f" and {self.disk / 2**30:.1f} GiB disk" if self.disk else "")
        return (
            f"teacher states: {kept} of {len(self.blocks)} pairs remembered, {self.remembered() / 2**30:.3f} of"
            f" {whole / 2**30:.3f} GiB, in at most {room} a rank"
        )


def plan_cache(
    settings: TeacherSettings,
    lengths: Sequence[PairLengths],
    passes: Sequence[float],
    max_tokens: int,
    width: int,
    ranks: int,
) -> CachePlan | None:
    """What to remember; None where nothing is worth it.

    ``passes``: how often training comes by each pair's whole set between two validations, that is, in a teacher's
    shortest life. ``auto`` remembers the pairs that come by at least once.
    """
    if settings.cache == "off":
        return None
    if settings.cache == "disk" and settings.disk is None:
        raise UserError("teachers.cache: disk needs a place; set teachers.disk to a directory on each node's own disk")
    memory = 0 if settings.cache == "disk" else int(settings.memory_gib * 2**30)
    disk = int(settings.disk_gib * 2**30) if settings.disk is not None and settings.cache != "ram" else 0
    cut = tuple(blocks_of(known, max_tokens) for known in lengths)
    bytes_a_row = 2 * width if settings.cache_dtype == "half" else width + 4
    left = (memory + disk) * ranks
    admitted = [0] * len(cut)
    for pair in sorted(range(len(cut)), key=lambda k: -passes[k]):
        if settings.cache == "auto" and passes[pair] < 1 - 1e-6:
            continue
        sizes = cut[pair].rows.cumsum() * bytes_a_row
        admitted[pair] = int(np.searchsorted(sizes, left, side="right"))
        left -= int(sizes[admitted[pair] - 1]) if admitted[pair] else 0
    if not any(admitted):
        return None
    return CachePlan(cut, tuple(admitted), bytes_a_row, memory, disk)

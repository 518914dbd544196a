"""A pair's training set cut into blocks that never change: the unit in which teacher states are computed and cached.

States are computed block by block, never in the batches of training, whose composition changes from epoch to epoch. So
they are a function of teacher and sentence alone, to the last bit: whether they were cached, lost and computed again,
or computed by a resumed run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.batching import PairLengths, fixed_batches
from mnmt_ds.errors import UserError
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.state_codec import bytes_per_row

Ints = NDArray[np.int64]


class PairBlocks(NamedTuple):
    """Blocks of one pair's sentences; arrays indexed by sentence have an entry for every training sentence."""

    sentences: list[Ints]
    """Numbers of each block's sentences."""
    block_of: Ints
    """The block of each sentence; -1 where it is not used for training."""
    first_row: Ints
    """The row at which each sentence's states begin in its block."""
    length: Ints
    """Rows of each sentence: its target tokens, the end symbol included."""
    rows: Ints
    """Rows of each block."""


def cut_into_blocks(lengths: PairLengths, max_tokens: int) -> PairBlocks:
    """Cuts a pair's usable sentences into blocks of similar length.

    Args:
        lengths: lengths of the pair's usable sentences.
        max_tokens: most padded tokens of a block, as of a micro-batch.

    Returns:
        The blocks.
    """
    sentences = fixed_batches(lengths, max_tokens)
    size = int(lengths.sentence.max()) + 1
    block_of, first_row, length = (np.full(size, -1, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64))
    length[lengths.sentence] = lengths.target
    for number, members in enumerate(sentences):
        block_of[members] = number
        first_row[members] = np.concatenate([[0], length[members].cumsum()[:-1]])
    rows = np.array([int(length[members].sum()) for members in sentences], np.int64)
    return PairBlocks(sentences, block_of, first_row, length, rows)


class CachePlan(NamedTuple):
    """Plan of what is cached, made before training from sizes alone, so that every run and every resume agree.

    Training walks through a pair's sentences in turn; so least-recently-used eviction would drop just what comes next.
    Instead as many blocks as fit are chosen once, of the pairs that training goes through most often first. A teacher
    that is replaced takes its states with it.
    """

    blocks: tuple[PairBlocks, ...]
    """Blocks of each pair."""
    admitted: tuple[int, ...]
    """How many blocks of each pair (the first ones) are cached."""
    bytes_per_row: int
    memory_bytes: int
    """CPU memory for cached states on each rank."""
    disk_bytes: int
    """Disk for cached states on each rank."""

    def block_bytes(self, pair: int, block: int) -> int:
        """Computes the size of a block.

        Args:
            pair: number of the pair.
            block: number of the block.

        Returns:
            Its cached states, in bytes.
        """
        return int(self.blocks[pair].rows[block]) * self.bytes_per_row

    def cached_bytes(self) -> int:
        """Computes the size of all states that are to be cached.

        Returns:
            Bytes, over all ranks, of one teacher a pair.
        """
        rows = sum(int(b.rows[:n].sum()) for b, n in zip(self.blocks, self.admitted, strict=True))
        return rows * self.bytes_per_row

    def describe(self) -> str:
        """Describes in one line what is cached.

        Returns:
            A line for the log.
        """
        total = sum(int(b.rows.sum()) for b in self.blocks) * self.bytes_per_row
        pairs = sum(n > 0 for n in self.admitted)
        room = f"{self.memory_bytes / 2**30:.1f} GiB memory"
        if self.disk_bytes:
            room += f" and {self.disk_bytes / 2**30:.1f} GiB disk"
        return (
            f"teacher states: {pairs} of {len(self.blocks)} pairs cached, {self.cached_bytes() / 2**30:.3f} of"
            f" {total / 2**30:.3f} GiB, in at most {room} a rank"
        )


def plan_cache(
    settings: TeacherSettings,
    lengths: Sequence[PairLengths],
    passes: Sequence[float],
    max_tokens: int,
    width: int,
    ranks: int,
) -> CachePlan | None:
    """Decides which blocks are cached.

    Args:
        settings: the recipe's teacher settings. ``cache: auto`` admits the pairs that training goes through at least
            once in a teacher's shortest life.
        lengths: of each pair, the lengths of its usable sentences.
        passes: of each pair, how often training goes through its whole training set between two validations, that
            is, in a teacher's shortest life.
        max_tokens: most padded tokens of a block.
        width: of the decoder states.
        ranks: data-parallel ranks, each with the memory and disk of the settings.

    Returns:
        The plan; None where nothing is cached.

    Raises:
        UserError: when states are to be cached on disk and no directory is given.
    """
    if settings.cache == "off":
        return None
    if settings.cache == "disk" and settings.disk is None:
        raise UserError("teachers.cache: disk needs a place; set teachers.disk to a directory on each node's own disk")
    memory_bytes = 0 if settings.cache == "disk" else int(settings.memory_gib * 2**30)
    uses_disk = settings.disk is not None and settings.cache != "ram"
    disk_bytes = int(settings.disk_gib * 2**30) if uses_disk else 0
    blocks = tuple(cut_into_blocks(pair_lengths, max_tokens) for pair_lengths in lengths)
    row_size = bytes_per_row(width, settings.cache_dtype == "fp8")
    free_bytes = (memory_bytes + disk_bytes) * ranks
    admitted = [0] * len(blocks)
    for pair in sorted(range(len(blocks)), key=lambda k: -passes[k]):
        if settings.cache == "auto" and passes[pair] < 1 - 1e-6:
            continue
        sizes = blocks[pair].rows.cumsum() * row_size
        admitted[pair] = int(np.searchsorted(sizes, free_bytes, side="right"))
        free_bytes -= int(sizes[admitted[pair] - 1]) if admitted[pair] else 0
    if not any(admitted):
        return None
    return CachePlan(blocks, tuple(admitted), row_size, memory_bytes, disk_bytes)

"""From a plan to tensors: this rank's batches of every update, read ahead by worker processes where asked for.

Letters: B sentences, S source and T target positions.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mnmt_ds.batch import EOS, PAD, Batch
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.data.framing import Frame
from mnmt_ds.distributed import uses_gpu
from mnmt_ds.kernels.target_rows import target_rows

Item = TypeVar("Item")


class SentenceSource(Protocol):
    """A pair's sentences as pieces (``data.corpus.Split``, or a list in a test)."""

    def pieces(self, index: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Reads a sentence pair.

        Args:
            index: number of the sentence in the set.

        Returns:
            Ids of source (S,) and target (T,), without special symbols.
        """
        ...


def collate(
    sentences: SentenceSource, chosen: Sequence[int] | NDArray[np.int64], frame: Frame, pair: int, divisor: int
) -> Batch:
    """Makes a padded, framed batch of one pair's sentences.

    Args:
        sentences: the pair's sentences.
        chosen: numbers of those that the batch holds, (B,).
        frame: the pair's frame.
        pair: the pair's number.
        divisor: target tokens of the whole update.

    Returns:
        The batch; (B, S) and (B, T) tensors.
    """
    rows = [sentences.pieces(int(index)) for index in chosen]
    prefix, suffix = frame.source_prefix, frame.source_suffix
    extra, start = frame.source_extra, (frame.decoder_start, *frame.target_prefix)
    source = np.full((len(rows), max(len(s) for s, _ in rows) + extra), PAD, np.int64)
    decoder = np.full((len(rows), max(len(t) for _, t in rows) + len(start)), PAD, np.int64)
    target = decoder.copy()
    for row, (pieces, gold) in enumerate(rows):
        source[row, : len(prefix)] = prefix
        source[row, len(prefix) : len(prefix) + len(pieces)] = pieces
        source[row, len(prefix) + len(pieces) : len(pieces) + extra] = suffix
        decoder[row, : len(start)] = start
        decoder[row, len(start) : len(start) + len(gold)] = gold
        size = len(gold) + len(start) - 1
        target[row, :size] = decoder[row, 1 : size + 1]
        target[row, size] = EOS
    tokens = sum(len(gold) + frame.target_extra for _, gold in rows)
    target_BT = torch.from_numpy(target)
    return Batch(
        source_BS=torch.from_numpy(source),
        decoder_BT=torch.from_numpy(decoder),
        target_BT=target_BT,
        target_rows=target_rows(target_BT, PAD),
        pair=pair,
        sentence_B=torch.as_tensor(np.asarray(chosen, np.int64)),
        tokens=tokens,
        divisor=divisor,
    )


def empty_batch(pair: int, frame: Frame, divisor: int) -> Batch:
    """Makes a batch in which nothing counts: for a rank that has none left when the other ranks still do.

    Args:
        pair: the pair's number.
        frame: the pair's frame.
        divisor: target tokens of the whole update.

    Returns:
        A batch of one sentence whose only target is padding.
    """
    target_BT = torch.full((1, 1), PAD)
    return Batch(
        source_BS=torch.full((1, 1), EOS),
        decoder_BT=torch.full((1, 1), frame.decoder_start),
        target_BT=target_BT,
        target_rows=target_rows(target_BT, PAD),
        pair=pair,
        sentence_B=torch.tensor([-1]),
        tokens=0,
        divisor=divisor,
    )


class RankBatches(Dataset[Batch]):
    """This rank's micro-batches of an epoch: step j of an update takes its micro-batch j·world_size + rank."""

    def __init__(
        self,
        plan: EpochPlan,
        sentences: Sequence[SentenceSource],
        frames: Sequence[Frame],
        rank: int,
        world_size: int,
        make_denoising_batch: Callable[[int, NDArray[np.int64]], Batch] | None = None,
    ) -> None:
        """Binds a plan to its sentences.

        Args:
            plan: the epoch's micro-batches.
            sentences: sentences of each pair.
            frames: frame of each pair.
            rank: this rank's place among those with data of their own.
            world_size: number of these ranks.
            make_denoising_batch: makes the batch of a source numbered beyond the pairs from its number and those of its
                items; these batches name no divisor.
        """
        self.plan, self.sentences, self.frames = plan, sentences, frames
        self.make_denoising_batch = make_denoising_batch
        self.rank, self.world_size = rank, world_size
        self.steps = plan.batches_per_update // world_size

    def __len__(self) -> int:
        return self.plan.updates * self.steps

    def __getitem__(self, index: int) -> Batch:
        update, step = divmod(index, self.steps)
        number = update * self.plan.batches_per_update + step * self.world_size + self.rank
        divisor = self.plan.divisor(update)
        if number >= len(self.plan.pair):
            pair = min(int(self.plan.pair[-1]), len(self.frames) - 1)
            return empty_batch(pair, self.frames[pair], divisor)
        pair = int(self.plan.pair[number])
        chosen = self.plan.sentences_of(number)
        if pair >= len(self.frames) and self.make_denoising_batch is not None:
            return self.make_denoising_batch(pair, chosen)
        return collate(self.sentences[pair], chosen, self.frames[pair], pair, divisor)


def iterate_updates(batches: RankBatches, first: int = 0, workers: int = 0) -> Iterator[list[Batch]]:
    """Yields this rank's micro-batches update by update.

    Args:
        batches: this rank's micro-batches of an epoch.
        first: update to start with, from 0 (a resume skips nothing, it jumps).
        workers: processes that read ahead; 0: none.

    Yields:
        The micro-batches of an update.
    """
    loader: DataLoader[Batch] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first * batches.steps, len(batches)),
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=uses_gpu(),
        prefetch_factor=4 if workers else None,
    )
    group: list[Batch] = []
    for batch in loader:
        group.append(batch)
        if len(group) == batches.steps:
            yield group
            group = []


def _identity(batch: Item) -> Item:
    return batch

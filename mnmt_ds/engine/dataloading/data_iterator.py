"""A student's iterator over its updates: where it stands, what comes next, and what it was trained on so far."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.data.denoising import DenoisingSettings
from mnmt_ds.engine.dataloading.contents import RankContents, update_contents
from mnmt_ds.engine.dataloading.position import Cut, Position
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.samplers.sampler import Losses
from mnmt_ds.samplers.temperature import counts


class DataIterator:
    """Iterates over updates of the training data, epoch after epoch; can be set to any position in the run."""

    def __init__(self, training_data: TrainingData) -> None:
        """Starts at the beginning of the run.

        Args:
            training_data: of the student.
        """
        self.training_data = training_data
        self.trained = [0] * len(training_data.pairs)
        """Sentences that each pair was trained on."""
        self.losses = [[0.0, 0.0] for _ in training_data.pairs]
        """For each pair, since the last validation: sum of its cross-entropy in training (nats), and target tokens."""
        self._start(Position(training_data.whole_epoch(0), (training_data.cut,)))

    def start(self, position: Position) -> None:
        """Moves the iterator to a position, without reading up to it. A segment that was cut otherwise is cut anew.

        Args:
            position: where.
        """
        *before, last = position.cuts
        if last[:2] != self.training_data.cut[:2]:
            before += [last] if last.sentences else []
            position = position._replace(cuts=(*before, self.training_data.cut))
        self._start(position)

    def describe_cut(self) -> str:
        """Describes how a resumed run cuts the rest of an epoch anew.

        Returns:
            One line; empty where nothing is cut anew.
        """
        if len(self._position.cuts) == 1:
            return ""
        left_out = self.training_data.left_over(self._position.segment, self._position.cuts) - len(self.plan.sentence)
        longest = self.training_data.longest(self._position.cuts[-1].max_tokens)
        return (
            f"epoch {self.epoch + 1}: the {len(self.plan.sentence)} sentences that are left of it are batched anew"
            + (f"; {left_out} are longer than {longest} tokens and left out" if left_out else "")
        )

    def _start(self, position: Position) -> None:
        self._position = position
        self._updates_since = 0
        for name in ("plan", "_first_update"):
            self.__dict__.pop(name, None)
        self._updates: Iterator[list[Batch]] | None = None

    @cached_property
    def plan(self) -> EpochPlan:
        """The micro-batches of the present cut of the epoch's segment.

        Returns:
            The plan.
        """
        return self.training_data.plan(self._position.epoch, self._position.segment, self._position.cuts)

    @cached_property
    def _first_update(self) -> int:
        """The update of the plan that the iterator started from."""
        micro_batches = int(np.searchsorted(self.plan.start, self._position.cuts[-1].sentences))
        return -(-micro_batches // self.plan.batches_per_update)

    @property
    def update_in_plan(self) -> int:
        """Number of updates of the plan that are done."""
        return self._first_update + self._updates_since

    @property
    def update(self) -> int:
        """Number of updates done in the run."""
        return self._position.update + self._updates_since

    @property
    def position(self) -> Position:
        """The iterator's position in the training data."""
        *before, last = self._position.cuts
        batches_done = min(self.update_in_plan * self.plan.batches_per_update, len(self.plan.pair))
        cut = last._replace(sentences=int(self.plan.start[batches_done]))
        return self._position._replace(update=self.update, cuts=(*before, cut))

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0."""
        return self._position.epoch

    @property
    def epoch_ended(self) -> bool:
        """Whether every update of the epoch under way is done."""
        return self.update_in_plan >= self.plan.updates

    @property
    def epoch_end(self) -> int:
        """Updates that will be done at the end of the epoch under way."""
        return self.update - self.update_in_plan + self.plan.updates

    @property
    def epochs(self) -> float:
        """Epochs done, with the fraction of the one under way."""
        before = self._fraction_before
        fraction = self.update_in_plan / self.plan.updates if self.plan.updates else 1.0
        return self.epoch + before + (1 - before) * fraction

    @property
    def epoch_length(self) -> int:
        """Updates of an epoch, where all of it is like the plan under way."""
        left = 1 - self._fraction_before
        return round(self.plan.updates / left) if left else self.plan.updates

    @property
    def _fraction_before(self) -> float:
        """The fraction of the epoch that came before the plan under way."""
        segment, cuts = self._position.segment, self._position.cuts
        before = segment.fraction_before
        if len(cuts) > 1:
            taken = sum(cut.sentences for cut in cuts[:-1])
            before += (1 - before) * taken / (taken + len(self.plan.sentence))
        return before

    def next_update(self) -> list[Batch]:
        """Reads this rank's micro-batches of the coming update, going on to the next epoch where this one has ended.

        Returns:
            One batch a micro-batch.
        """
        if self.epoch_ended:
            self.next_epoch()
        if self._updates is None:
            self._updates = self.training_data.iterate_updates(self.plan, self.update_in_plan)
        return next(self._updates)

    def next_contents(self) -> list[RankContents]:
        """Lists what every rank holds in the micro-batches of the update that ``next_update`` gave.

        Returns:
            One entry a micro-batch.
        """
        return update_contents(self.plan, self.update_in_plan, self.training_data.layout)

    def sentences(self, updates: int) -> list[int]:
        """Counts sentences in the next updates of the epoch under way.

        Args:
            updates: how many.

        Returns:
            Sentences of each pair.
        """
        size = self.plan.batches_per_update
        first = self.update_in_plan * size
        sentences = [0] * len(self.training_data.pairs)
        for k in range(first, min(first + updates * size, len(self.plan.pair))):
            if self.plan.pair[k] < len(sentences):  # others are text of one language
                sentences[int(self.plan.pair[k])] += int(self.plan.start[k + 1] - self.plan.start[k])
        return sentences

    def update_done(self, losses: Losses = ()) -> None:
        """Records that the update was done with what ``next_update`` gave.

        Args:
            losses: as of ``add_losses``; none where they are not known yet.
        """
        self.trained = [before + new for before, new in zip(self.trained, self.sentences(1), strict=True)]
        self._updates_since += 1
        if losses:
            self.add_losses(losses)

    def add_losses(self, losses: Losses) -> None:
        """Adds the losses of an update that was done, also to what the sampler knows.

        Args:
            losses: of each pair: the sum of its cross-entropy in the update, and its target tokens.
        """
        for sums, (loss, tokens) in zip(self.losses, losses, strict=False):
            sums[0] += loss
            sums[1] += tokens
        self.training_data.sampler.on_update(losses)

    def next_epoch(self) -> None:
        """Moves to the beginning of the next epoch, after calling the sampler's ``on_epoch_end``."""
        sampler = self.training_data.sampler
        sampler.on_epoch_end()
        segment = self.training_data.next_epoch(self._position.segment, self.trained, sampler.probabilities)
        self._start(Position(segment, (self.training_data.cut,), self.update, self.epoch + 1))

    def replan(self) -> None:
        """Draws the rest of the epoch, if any, from the sampler's new distribution."""
        if self.epoch_ended:
            return
        shares = self.training_data.sampler.probabilities
        segment = self.training_data.rest_of_epoch(self._position.segment, self.trained, shares)
        if segment is not None:
            self._start(Position(segment, (self.training_data.cut,), self.update, self.epoch))


def position_from_updates(
    values: Sequence[Any], training_data: TrainingData, cut: Cut, denoising: DenoisingSettings | None
) -> Position:
    """Reads the position of a checkpoint of version 0.1.0, which counts updates.

    Args:
        values: updates done, epoch, updates done of its segment, and the segment: shares, sentences of each pair before
            it, its number, and the epoch's sentences before it. Without a segment: the epoch, in one.
        training_data: of the student.
        cut: how the run that wrote it cut its data.
        denoising: its ``denoising`` section.

    Returns:
        The position in sentences.
    """
    update, epoch, updates, *segments = values
    longest = training_data.longest(cut.max_tokens)
    sentences = sum(len(lengths.sentence) for lengths in training_data.lengths_within(longest))
    segment = training_data.whole_epoch(epoch)._replace(longest=longest, sentences=sentences)
    for shares, drawn, *number_and_done in segments:
        number, sentences_done = number_and_done or (0, 0)
        drawn_now = tuple(counts(shares, sentences - sentences_done))
        segment = segment._replace(counts=drawn_now, offsets=drawn, trained=drawn, number=number, done=sentences_done)
    if training_data.denoising is not None:
        whole = sum(counts(segments[0][0], sentences)) if segments else sum(segment.counts)
        segment = segment._replace(items=training_data.denoising.items_of_epoch(epoch, whole, denoising))
    plan = training_data.plan(epoch, segment, (cut,))
    batches_done = min(updates * cut.batches_per_update, len(plan.pair))
    return Position(segment, (cut._replace(sentences=int(plan.start[batches_done])),), update, epoch)

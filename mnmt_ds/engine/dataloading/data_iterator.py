"""A student's iterator over its updates: where it stands, what comes next, and what it was trained on so far."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.engine.dataloading.contents import RankContents, update_contents
from mnmt_ds.engine.dataloading.training_data import EpochSegment, TrainingData
from mnmt_ds.samplers.sampler import Losses


class Position(NamedTuple):
    """Where a student stands; all that the order of its data depends on, besides the seed."""

    update: int = 0
    """Updates done."""
    epoch: int = 0
    """The epoch under way, from 0."""
    update_in_segment: int = 0
    """Updates done of its present segment."""
    segment: EpochSegment | None = None
    """The segment; none: the epoch, in one, after as many like it (checkpoints from before samplers could change)."""


def position_of(values: Sequence[Any]) -> Position:
    """Reads a position from a checkpoint.

    Args:
        values: a position's JSON.

    Returns:
        The position.
    """
    update, epoch, update_in_segment, *segment = values
    return Position(update, epoch, update_in_segment, EpochSegment(*segment[0]) if segment else None)


class DataIterator:
    """Update after update, epoch after epoch of the training data, from any position on."""

    def __init__(self, training_data: TrainingData) -> None:
        """Starts at the beginning of the run.

        Args:
            training_data: of the student.
        """
        self.training_data = training_data
        self.trained = [0] * len(training_data.pairs)
        """Sentences that each pair was trained on."""
        self.losses = [[0.0, 0.0] for _ in training_data.pairs]
        """Of each pair since the last validation: sum of its cross-entropy in training, and target tokens."""
        self.start(Position(segment=training_data.whole_epoch(0)))

    def start(self, position: Position) -> None:
        """Goes on from a position; nothing is skipped, it jumps.

        Args:
            position: where.
        """
        self.position = position
        self._plan: EpochPlan | None = None
        self._updates: Iterator[list[Batch]] | None = None

    @property
    def plan(self) -> EpochPlan:
        """The micro-batches of the epoch's present segment."""
        if self._plan is None:
            self._plan = self.training_data.plan(self.position.epoch, self.position.segment)
        return self._plan

    @property
    def epoch_ended(self) -> bool:
        """Whether every update of the epoch under way is done."""
        return self.position.update_in_segment == self.plan.updates

    @property
    def epoch_end(self) -> int:
        """Updates that will be done at the end of the epoch under way."""
        return self.position.update - self.position.update_in_segment + self.plan.updates

    @property
    def epochs(self) -> float:
        """Epochs done, with the fraction of the one under way."""
        before = self._fraction_before
        return self.position.epoch + before + (1 - before) * (self.position.update_in_segment / self.plan.updates)

    @property
    def epoch_length(self) -> int:
        """Updates of an epoch, where all of it is like the segment under way."""
        return round(self.plan.updates / (1 - self._fraction_before))

    @property
    def _fraction_before(self) -> float:
        """The fraction of the epoch that came before the segment under way."""
        return self.position.segment.done / sum(self.training_data.sizes) if self.position.segment else 0.0

    def next_update(self) -> list[Batch]:
        """This rank's micro-batches of the coming update; of the next epoch where this one has ended.

        Returns:
            One batch a micro-batch.
        """
        if self.epoch_ended:
            self.next_epoch()
        if self._updates is None:
            self._updates = self.training_data.iterate_updates(self.plan, self.position.update_in_segment)
        return next(self._updates)

    def next_contents(self) -> list[RankContents]:
        """What every rank's micro-batches of the update that ``next_update`` gave hold.

        Returns:
            One entry a micro-batch.
        """
        return update_contents(self.plan, self.position.update_in_segment, self.training_data.layout)

    def sentences(self, updates: int) -> list[int]:
        """Counts sentences in the next updates of the epoch under way.

        Args:
            updates: how many.

        Returns:
            Sentences of each pair.
        """
        size = self.plan.batches_per_update
        first = self.position.update_in_segment * size
        sentences = [0] * len(self.training_data.pairs)
        for k in range(first, min(first + updates * size, len(self.plan.pair))):
            if self.plan.pair[k] < len(sentences):  # others are text of one language
                sentences[int(self.plan.pair[k])] += int(self.plan.start[k + 1] - self.plan.start[k])
        return sentences

    def update_done(self, losses: Losses = ()) -> None:
        """Takes note of the update that was done with what ``next_update`` gave.

        Args:
            losses: of each pair: the sum of its cross-entropy in the update, and its target tokens.
        """
        self.trained = [before + new for before, new in zip(self.trained, self.sentences(1), strict=True)]
        for sums, (loss, tokens) in zip(self.losses, losses, strict=False):
            sums[0] += loss
            sums[1] += tokens
        self.training_data.sampler.on_update(losses)
        self.position = self.position._replace(
            update=self.position.update + 1, update_in_segment=self.position.update_in_segment + 1
        )

    def next_epoch(self) -> None:
        """Goes to the beginning of the next epoch; the sampler hears of it."""
        sampler = self.training_data.sampler
        sampler.on_epoch_end()
        segment = EpochSegment(tuple(sampler.probabilities), tuple(self.trained))
        self.start(Position(self.position.update, self.position.epoch + 1, segment=segment))

    def replan(self) -> None:
        """Draws the rest of the epoch, if any, from the sampler's new distribution."""
        before = self.position.segment or self.training_data.whole_epoch(self.position.epoch)
        done = before.done + sum(self.trained) - sum(before.drawn)
        if not self.epoch_ended and done < sum(self.training_data.sizes):
            shares = tuple(self.training_data.sampler.probabilities)
            segment = EpochSegment(shares, tuple(self.trained), before.number + 1, done)
            self.start(self.position._replace(update_in_segment=0, segment=segment))

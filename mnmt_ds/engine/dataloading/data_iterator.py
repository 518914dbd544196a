"""A student's way through its data: where it stands, what comes next, and what it was trained on so far."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.engine.dataloading.training_data import EpochSegment, TrainingData
from mnmt_ds.samplers.sampler import Losses


class Position(NamedTuple):
    """Where a student stands; all that the order of its data depends on, besides the seed."""

    update: int = 0
    """Updates done."""
    epoch: int = 0
    """The epoch under way, from 0."""
    inside: int = 0
    """Updates done of its present part."""
    part: EpochSegment | None = None
    """The part; none: the epoch, in one, after as many like it (checkpoints from before samplers could change)."""


def position_of(values: Sequence[Any]) -> Position:
    """A position from a checkpoint's JSON."""
    update, epoch, inside, *part = values
    return Position(update, epoch, inside, EpochSegment(*part[0]) if part else None)


class DataIterator:
    """Update after update, epoch after epoch of a stream, from any position on."""

    def __init__(self, stream: TrainingData) -> None:
        self.stream = stream
        self.trained = [0] * len(stream.pairs)
        """Sentences that each pair was trained on."""
        self.losses = [[0.0, 0.0] for _ in stream.pairs]
        """Of each pair since the last validation: sum of its cross-entropy in training, and target tokens."""
        self.start(Position(part=stream.whole(0)))

    def start(self, position: Position) -> None:
        """Goes on from a position; nothing is skipped, it jumps."""
        self.position = position
        self._plan: EpochPlan | None = None
        self._groups: Iterator[list[Batch]] | None = None

    @property
    def plan(self) -> EpochPlan:
        """The micro-batches of the epoch under way."""
        if self._plan is None:
            self._plan = self.stream.plan(self.position.epoch, self.position.part)
        return self._plan

    @property
    def ended(self) -> bool:
        """Whether every update of the epoch under way is done."""
        return self.position.inside == self.plan.updates

    @property
    def ends(self) -> int:
        """Updates that will be done at the end of the epoch under way."""
        return self.position.update - self.position.inside + self.plan.updates

    @property
    def epochs(self) -> float:
        """Epochs done, with the fraction of the one under way."""
        before = self._before
        return self.position.epoch + before + (1 - before) * (self.position.inside / self.plan.updates)

    @property
    def updates(self) -> int:
        """Updates of an epoch, where all of it is like the part under way."""
        return round(self.plan.updates / (1 - self._before))

    @property
    def _before(self) -> float:
        """The fraction of the epoch that came before the part under way."""
        return self.position.part.done / sum(self.stream.sizes) if self.position.part else 0.0

    def next(self) -> list[Batch]:
        """This rank's micro-batches of the coming update; of the next epoch where this one has ended."""
        if self.ended:
            self.turn()
        if self._groups is None:
            self._groups = self.stream.updates(self.plan, self.position.inside)
        return next(self._groups)

    def sentences(self, updates: int) -> list[int]:
        """Sentences of each pair in the next so many updates of the epoch under way."""
        size, first = self.plan.batches_per_update, self.position.inside * self.plan.batches_per_update
        found = [0] * len(self.stream.pairs)
        for k in range(first, min(first + updates * size, len(self.plan.pair))):
            if self.plan.pair[k] < len(found):  # others are text of one language
                found[int(self.plan.pair[k])] += int(self.plan.start[k + 1] - self.plan.start[k])
        return found

    def count(self, losses: Losses = ()) -> None:
        """Takes note of the update that was done with what ``next`` gave."""
        self.trained = [before + new for before, new in zip(self.trained, self.sentences(1), strict=True)]
        for sums, (loss, tokens) in zip(self.losses, losses, strict=False):
            sums[0] += loss
            sums[1] += tokens
        self.stream.sampler.on_update(losses)
        self.position = self.position._replace(update=self.position.update + 1, inside=self.position.inside + 1)

    def turn(self) -> None:
        """The next epoch."""
        self.stream.sampler.on_epoch_end()
        part = EpochSegment(tuple(self.stream.sampler.probabilities), tuple(self.trained))
        self.start(Position(self.position.update, self.position.epoch + 1, part=part))

    def replan(self) -> None:
        """The rest of the epoch, if any, is drawn from the sampler's new distribution."""
        before = self.position.part or self.stream.whole(self.position.epoch)
        done = before.done + sum(self.trained) - sum(before.drawn)
        if not self.ended and done < sum(self.stream.sizes):
            part = EpochSegment(tuple(self.stream.sampler.probabilities), tuple(self.trained), before.number + 1, done)
            self.start(self.position._replace(inside=0, part=part))

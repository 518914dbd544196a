"""A student's way through its data: where it stands, what comes next, and what it was trained on so far."""

from collections.abc import Iterator
from typing import NamedTuple

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import Plan
from mnmt_ds.engine.stream import Stream


class Position(NamedTuple):
    """Where a student stands; all that the order of its data depends on, besides the seed."""

    update: int = 0
    """Updates done."""
    epoch: int = 0
    """The epoch under way, from 0."""
    inside: int = 0
    """Updates done of it."""


class Walk:
    """Update after update, epoch after epoch of a stream, from any position on."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.trained = [0] * len(stream.pairs)
        """Sentences that each pair was trained on."""
        self.start(Position())

    def start(self, position: Position) -> None:
        """Goes on from a position; nothing is skipped, it jumps."""
        self.position = position
        self._plan: Plan | None = None
        self._groups: Iterator[list[Batch]] | None = None

    @property
    def plan(self) -> Plan:
        """The micro-batches of the epoch under way."""
        if self._plan is None:
            self._plan = self.stream.plan(self.position.epoch)
        return self._plan

    @property
    def ended(self) -> bool:
        """Whether every update of the epoch under way is done."""
        return self.position.inside == self.plan.updates

    @property
    def epochs(self) -> float:
        """Epochs done, with the fraction of the one under way."""
        return self.position.epoch + self.position.inside / self.plan.updates

    def next(self) -> list[Batch]:
        """This rank's micro-batches of the coming update; of the next epoch where this one has ended."""
        if self.ended:
            self.turn()
        if self._groups is None:
            self._groups = self.stream.updates(self.plan, self.position.inside)
        return next(self._groups)

    def count(self) -> None:
        """Takes note of the update that was done with what ``next`` gave."""
        size, first = self.plan.batches_per_update, self.position.inside * self.plan.batches_per_update
        for k in range(first, min(first + size, len(self.plan.pair))):
            if self.plan.pair[k] < len(self.trained):  # others are text of one language
                self.trained[int(self.plan.pair[k])] += int(self.plan.start[k + 1] - self.plan.start[k])
        self.position = Position(self.position.update + 1, self.position.epoch, self.position.inside + 1)

    def turn(self) -> None:
        """The next epoch."""
        self.start(Position(self.position.update, self.position.epoch + 1, 0))

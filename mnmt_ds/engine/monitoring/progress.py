"""A run's time: its epochs, which are the first student's, and the seconds that it took."""

import time
from typing import NamedTuple

from mnmt_ds import metric_keys
from mnmt_ds.engine.students.student import Student


class RunProgress(NamedTuple):
    """The run's epochs, which are the first student's; equal on all ranks."""

    epoch: int
    """The epoch under way, from 0."""
    epochs: float
    """Epochs done, with the fraction of the one under way."""
    ends: int
    """Updates that will be done at its end."""
    length: int
    """Updates of an epoch like it."""
    since_better: int
    """Validations since some student's dev loss was last a better one."""

    @classmethod
    def of(cls, one: Student) -> "RunProgress":
        walk = one.walk
        return cls(walk.position.epoch, walk.epochs, walk.ends, walk.updates, one.best.since_better)


class TimeSpent:
    """Time that a run has taken, pauses between two legs left out."""

    def __init__(self, before: float = 0.0, search: float = 0.0, measuring: float = 0.0) -> None:
        self.search = search
        """Of these, in trials of weights."""
        self.measuring = measuring
        """Of the trials', on dev sets."""
        self._before, self._began = before, time.monotonic()

    def total(self) -> float:
        """Seconds of training so far, validations and searches with them."""
        return self._before + time.monotonic() - self._began

    def state(self) -> list[float]:
        """What goes into a checkpoint."""
        return [self.total(), self.search, self.measuring]

    def report(self) -> dict[str, float]:
        """The search's part of the time, and its trials' updates as a share of the training itself: paper 2's 0.3."""
        total = max(self.total(), 1e-9)
        on_top = (self.search - self.measuring) / max(total - self.search, 1e-9)
        return {metric_keys.SEARCH_SHARE: self.search / total, metric_keys.TRIALS_ON_TOP: on_top}

"""A run's progress in epochs, which are the first student's, and the seconds that it took."""

import time
from typing import NamedTuple

from mnmt_ds import metric_keys
from mnmt_ds.engine.dataloading.data_iterator import DataIterator


class EpochProgress(NamedTuple):
    """The run's progress in epochs, which are the first student's; equal on all ranks."""

    epoch: int
    """The epoch under way, from 0."""
    epochs: float
    """Epochs done, with the fraction of the one under way."""
    epoch_end: int
    """Updates that will be done at its end."""
    epoch_length: int
    """Updates of an epoch like it."""
    since_better: int
    """Validations since some student's dev loss was last a better one."""

    @classmethod
    def of(cls, data_iterator: DataIterator, since_better: int) -> "EpochProgress":
        """Reads the progress of one student.

        Args:
            data_iterator: its iterator over its updates.
            since_better: validations since its best dev loss.

        Returns:
            The progress.
        """
        return cls(
            data_iterator.epoch,
            data_iterator.epochs,
            data_iterator.epoch_end,
            data_iterator.epoch_length,
            since_better,
        )


class TimeSpent:
    """Seconds that a run has trained, without the pauses between a stop and a resume."""

    def __init__(self, before: float = 0.0, search: float = 0.0, measuring: float = 0.0) -> None:
        """Starts the clock.

        Args:
            before: seconds of the run's legs before this one.
            search: of these, seconds in trials of weights.
            measuring: of the trials', seconds on dev sets.
        """
        self.search, self.measuring = search, measuring
        self._before, self._began = before, time.monotonic()

    def total(self) -> float:
        """Computes the seconds of training so far, including validations and searches.

        Returns:
            Seconds.
        """
        return self._before + time.monotonic() - self._began

    def state(self) -> list[float]:
        """Returns what goes into a checkpoint: seconds in total, of searches and of measuring.

        Returns:
            Seconds, each.
        """
        return [self.total(), self.search, self.measuring]

    def report(self) -> dict[str, float]:
        """Computes the share of time that searches take, and their trial updates' time over that of other updates.

        The second is what paper 2 estimates as 0.3; the dev losses of trials are not counted in it.

        Returns:
            Values by metric key.
        """
        total = max(self.total(), 1e-9)
        on_top = (self.search - self.measuring) / max(total - self.search, 1e-9)
        return {metric_keys.SEARCH_SHARE: self.search / total, metric_keys.TRIALS_ON_TOP: on_top}

"""One teacher for all pairs: the overall best checkpoint so far (STSD, the ablation of paper 1)."""

from collections.abc import Mapping
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.best_values import NO_UPDATE, BestValue
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.teachers.teacher_source import DevResults


class OverallBest:
    """The checkpoint of the lowest mean dev loss; it teaches after a validation that was no better."""

    def __init__(self, pool: TeacherPool) -> None:
        """Starts without a teacher.

        Args:
            pool: holds the teacher.
        """
        self.pool = pool
        self.best = BestValue()
        """Lowest mean dev loss over pairs; its update is the teacher's version."""
        self.switch = False
        """Whether the pairs are distilled."""

    def teacher_of(self, pair: str) -> int | None:
        """Gives the teacher, the same for every pair.

        Args:
            pair: any pair.

        Returns:
            The teacher's version; None while the switch is off.
        """
        return self.best.update if self.switch else None

    def update(self, report: DevResults) -> None:
        """Takes a validation in: a better student becomes the teacher, and distillation pauses.

        Args:
            report: the validation's results.
        """
        mean = sum(report.dev.values()) / len(report.dev)
        if mean < self.best.value:
            self.best, self.switch = BestValue(mean, report.update), False
            self.pool.keep_only([report.update])
            self.pool.take_snapshot(report.update)
        else:
            self.switch = self.best.is_set

    def report(self, update: int) -> dict[str, float]:
        """Gives metrics of the pool and of the teacher.

        Args:
            update: updates done so far.

        Returns:
            Values by metric key; the teacher's age is in updates.
        """
        return {
            **self.pool.report(),
            metric_keys.TEACHER_ALL_SWITCH: float(self.switch),
            metric_keys.TEACHER_ALL_AGE: float(update - self.best.update if self.best.is_set else 0),
        }

    def snapshots(self) -> set[int]:
        """Lists the snapshots in use.

        Returns:
            The teacher's version, or nothing.
        """
        return {self.best.update} if self.best.is_set else set()

    def state(self) -> dict[str, Any]:
        """Gives the state for a checkpoint.

        Returns:
            ``best`` (mean dev loss, nats a token), ``version`` (None: no teacher) and ``switch``.
        """
        version = self.best.update if self.best.is_set else None
        return {"best": self.best.value, "version": version, "switch": self.switch}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's state.

        Args:
            state: what ``state`` gave.

        Raises:
            UserError: when the teacher's file is missing or altered.
        """
        version = state["version"]
        self.best, self.switch = BestValue(state["best"], NO_UPDATE if version is None else version), state["switch"]
        self.pool.restore(self.snapshots())

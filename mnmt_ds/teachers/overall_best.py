"""One teacher for all pairs: the overall best checkpoint so far (STSD, paper 1's ablation)."""

from collections.abc import Mapping
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.teachers.teacher_pool import TeacherPool


class OverallBest:
    """The checkpoint of the lowest mean dev loss, and whether it teaches: after a validation that was no better."""

    def __init__(self, pool: TeacherPool) -> None:
        self.pool = pool
        self.best = float("inf")
        self.version: int | None = None
        self.switch = False

    def teacher_of(self, pair: str) -> int | None:
        """The same for every pair."""
        return self.version if self.switch else None

    def update(self, report: Any) -> None:
        """Takes a validation in; a better model becomes the teacher of the ones that follow."""
        mean = sum(report.dev.values()) / len(report.dev)
        if mean < self.best:
            self.best, self.version, self.switch = mean, report.update, False
            self.pool.keep_only([report.update])
            self.pool.take_snapshot(report.update)
        else:
            self.switch = self.version is not None

    def report(self, update: int) -> dict[str, float]:
        age = 0 if self.version is None else update - self.version
        return {
            **self.pool.report(),
            metric_keys.TEACHER_ALL_SWITCH: float(self.switch),
            metric_keys.TEACHER_ALL_AGE: float(age),
        }

    def snapshots(self) -> set[int]:
        """The version in use: a checkpoint refers to it."""
        return set() if self.version is None else {self.version}

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "version": self.version, "switch": self.switch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.version, self.switch = state["best"], state["version"], state["switch"]
        self.pool.restore(self.snapshots())

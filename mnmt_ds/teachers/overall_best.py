"""One teacher for all pairs: the overall best checkpoint so far (STSD, the ablation of paper 1)."""

from collections.abc import Callable, Mapping
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.best_values import NO_UPDATE, BestValue, DevMetric
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.teachers.teacher_source import DevResults


class OverallBest:
    """Teacher source of STSD: the checkpoint of the lowest overall dev loss; it teaches after worse validations."""

    dev_metrics = (DevMetric.DEV_LOSS, DevMetric.OVERALL)
    """What it goes by."""

    def __init__(self, pool: TeacherPool, overall_loss: Callable[[Mapping[str, float]], float]) -> None:
        """Starts without a teacher.

        Args:
            pool: holds the teacher.
            overall_loss: from the pairs' dev losses to the one that checkpoints are selected by, nats a token.
        """
        self.pool = pool
        self.overall_loss = overall_loss
        self.best = BestValue()
        """Lowest overall dev loss; its update is the teacher's version."""
        self.switch = False
        """Whether the pairs are distilled."""

    def teacher_of(self, pair: str) -> int | None:
        """Returns the teacher, the same for every pair.

        Args:
            pair: any pair.

        Returns:
            The teacher's version; None while the switch is off.
        """
        return self.best.update if self.switch else None

    def update(self, report: DevResults) -> None:
        """Updates the teacher from a validation: a better student becomes the teacher, and distillation pauses.

        Args:
            report: the validation's results.
        """
        loss = self.overall_loss(report.dev)
        if loss < self.best.value:
            self.best, self.switch = BestValue(loss, report.update), False
            self.pool.keep_only([report.update])
            self.pool.take_snapshot(report.update)
        else:
            self.switch = self.best.is_set

    def report(self, update: int) -> dict[str, float]:
        """Collects metrics of the pool and of the teacher.

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

    def begin_anew(self) -> None:
        """Drops the lowest dev losses: teachers stay until the next validation replaces them."""
        self.best = self.best.without_value()

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint.

        Returns:
            ``best`` (overall dev loss, nats a token), ``version`` (None: no teacher), ``switch``, and ``mean`` (whether
            the overall loss is the mean over pairs whatever selects checkpoints, as in version 0.1.0).
        """
        version = self.best.update if self.best.is_set else None
        is_mean = self.overall_loss is mean_loss
        return {"best": self.best.value, "version": version, "switch": self.switch, "mean": is_mean}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint's state.

        Args:
            state: what ``state`` gave.

        Raises:
            UserError: when the teacher's file is missing or altered.
        """
        if state.get("mean", True):
            self.overall_loss = mean_loss
        version = state["version"]
        self.best, self.switch = BestValue(state["best"], NO_UPDATE if version is None else version), state["switch"]
        self.pool.restore(self.snapshots())


def mean_loss(dev: Mapping[str, float]) -> float:
    """Averages dev losses over pairs, by which version 0.1.0 selected the teacher.

    Args:
        dev: dev loss of each pair, nats a token.

    Returns:
        Nats a token.
    """
    return sum(dev.values()) / len(dev)

"""LSSD's teachers: the best checkpoint so far of each language pair, and the switch that lets it teach.

A teacher's version is the update of the validation at which it was the student. Pairs that improved at the same
validation share one. Source: paper 1 (LSSD), Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.best_values import NO_UPDATE, BestValue, BestValues, DevMetric
from mnmt_ds.errors import UserError
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.teachers.teacher_source import DevResults
from mnmt_ds.version_limit import VersionLimit


class TeacherBank:
    """Teacher source of LSSD: each pair's own best checkpoint, with the switches of Algorithm 1 (paper 1)."""

    dev_metrics = (DevMetric.DEV_LOSS,)
    """What it goes by."""

    def __init__(self, pairs: Sequence[str], pool: TeacherPool, max_versions: int = 0) -> None:
        """Starts without teachers.

        Args:
            pairs: names of the run's language pairs.
            pool: holds the teachers.
            max_versions: distinct teachers at most; 0: one a pair.
        """
        self.pool = pool
        self.best = BestValues(pairs)
        """Lowest dev loss of each pair; its update is the version of the pair's teacher."""
        self.limit = VersionLimit(max_versions)
        self.switch: dict[str, bool] = dict.fromkeys(pairs, False)
        """Whether the pair is distilled."""

    def teacher_of(self, pair: str) -> int | None:
        """Returns the pair's own best checkpoint, while its switch is on.

        Args:
            pair: such as ``de-en``.

        Returns:
            The teacher's version; None while the switch is off.
        """
        return self.best[pair].update if self.switch[pair] else None

    def update(self, report: DevResults) -> None:
        """Replaces the teachers of pairs that improved and stops distilling these; distils the others.

        Algorithm 1 of paper 1, lines 12-20.

        Args:
            report: the validation's results.
        """
        improved = self.best.update_lowest(report.dev, report.update)
        self.limit.apply(self.best, report.dev, report.update)
        for pair in report.dev:
            self.switch[pair] = pair not in improved and self.best[pair].is_set
        self.pool.keep_only(self.snapshots())
        if report.update in self.snapshots():
            self.pool.take_snapshot(report.update)

    def report(self, update: int) -> dict[str, float]:
        """Collects metrics of the pool and of every pair.

        Args:
            update: updates done so far.

        Returns:
            Values by metric key; a teacher's age is in updates.
        """
        metrics = self.pool.report()
        for pair, best in self.best.items():
            metrics[metric_keys.TEACHER_SWITCH.of(pair)] = float(self.switch[pair])
            metrics[metric_keys.TEACHER_VERSION.of(pair)] = float(best.update)
            metrics[metric_keys.TEACHER_AGE.of(pair)] = float(update - best.update if best.is_set else 0)
        return metrics

    def snapshots(self) -> set[int]:
        """Lists the snapshots in use.

        Returns:
            Versions of the pairs' teachers, whether their switches are on or not.
        """
        return self.best.updates()

    def begin_anew(self) -> None:
        """Drops the lowest dev losses: teachers stay until the next validation replaces them."""
        self.best.forget_values()
        self.limit.dev = {}

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint.

        Returns:
            Of each pair: ``best`` (dev loss, nats a token), ``switch`` and ``version`` (None: no teacher), and
            ``dev``, its dev losses under the teachers in use by version, where their number is bounded.
        """
        return {
            pair: {
                "best": best.value,
                "switch": self.switch[pair],
                "version": best.update if best.is_set else None,
                "dev": [[version, losses[pair]] for version, losses in self.limit.dev.items() if pair in losses],
            }
            for pair, best in self.best.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint's state.

        Args:
            state: what ``state`` gave.

        Raises:
            UserError: when the checkpoint has other pairs, or a teacher's file is missing or altered.
        """
        if state.keys() != self.best.keys():
            raise UserError(f"teachers: the checkpoint's pairs {sorted(state)} are not the run's {sorted(self.best)}")
        for pair, values in state.items():
            version = values["version"]
            self.best[pair] = BestValue(values["best"], NO_UPDATE if version is None else version)
            self.switch[pair] = values["switch"]
            for version, loss in values.get("dev", ()) if self.limit.most else ():
                self.limit.dev.setdefault(version, {})[pair] = loss
        self.pool.restore(self.snapshots())

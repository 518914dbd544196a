"""LSSD's teachers: of each language pair the best checkpoint so far, and the switch that lets it teach.

A teacher is named by its version, the update of the validation that made it. Pairs that improved at the same
validation share one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.errors import UserError
from mnmt_ds.teachers.teacher_pool import TeacherPool


class TeacherBank:
    """State of Algorithm 1 (paper 1): ``best[l]``, the teacher of l, and the switch of l."""

    def __init__(self, pairs: Sequence[str], pool: TeacherPool) -> None:
        self.pool = pool
        self.best: dict[str, float] = dict.fromkeys(pairs, float("inf"))
        self.switch: dict[str, bool] = dict.fromkeys(pairs, False)
        self.version: dict[str, int | None] = dict.fromkeys(pairs)

    def teacher_of(self, pair: str) -> int | None:
        """The pair's own best checkpoint, while its switch is on."""
        return self.version[pair] if self.switch[pair] else None

    def update(self, report: Any) -> None:
        """Algorithm 1, lines 12 to 20: a pair that improved gets a new teacher and no lesson; the others are taught."""
        for pair, dev in report.dev.items():
            if dev < self.best[pair]:
                self.switch[pair], self.best[pair], self.version[pair] = False, dev, report.update
            else:
                self.switch[pair] = self.version[pair] is not None
        self.pool.keep_only(self.snapshots())
        if report.update in self.snapshots():
            self.pool.take_snapshot(report.update)

    def report(self, update: int) -> dict[str, float]:
        """Metric keys of every pair; a teacher's age is in updates."""
        keys = self.pool.report()
        for pair, version in self.version.items():
            keys[metric_keys.TEACHER_SWITCH.of(pair)] = float(self.switch[pair])
            keys[metric_keys.TEACHER_VERSION.of(pair)] = float(-1 if version is None else version)
            keys[metric_keys.TEACHER_AGE.of(pair)] = float(0 if version is None else update - version)
        return keys

    def snapshots(self) -> set[int]:
        """Versions in use: a checkpoint refers to these."""
        return {version for version in self.version.values() if version is not None}

    def state(self) -> dict[str, Any]:
        return {
            pair: {"best": self.best[pair], "switch": self.switch[pair], "version": self.version[pair]}
            for pair in self.best
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if state.keys() != self.best.keys():
            raise UserError(f"teachers: the checkpoint's pairs {sorted(state)} are not the run's {sorted(self.best)}")
        for pair, values in state.items():
            self.best[pair], self.switch[pair], self.version[pair] = values["best"], values["switch"], values["version"]
        self.pool.restore(self.snapshots())

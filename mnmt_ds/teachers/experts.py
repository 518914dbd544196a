"""Teachers from other runs: a frozen expert for each pair, held against the student before training starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds.errors import UserError
from mnmt_ds.models.weights import describe_model
from mnmt_ds.teachers.faculty import Faculty


class Experts:
    """An expert teaches its pair until the student's dev loss is below the expert's by a margin."""

    def __init__(self, faculty: Faculty, paths: Mapping[str, Path], margin: float | None) -> None:
        """``margin``: in dev loss a token; None: the expert teaches to the end."""
        self.faculty, self.margin = faculty, margin
        self.paths = {pair: str(path) for pair, path in paths.items()}
        self.dev = {pair: expert_dev(pair, Path(path)) for pair, path in self.paths.items()} if margin else {}
        self.passed = dict.fromkeys(self.paths, False)
        faculty.restore(self.paths.values())

    def teacher_of(self, pair: str) -> str | None:
        """The pair's expert, for as long as the student has not passed it."""
        return self.paths[pair] if pair in self.paths and not self.passed[pair] else None

    def update(self, report: Any) -> None:
        """Takes a validation in: who has passed its expert."""
        for pair, dev in self.dev.items():
            assert self.margin is not None
            self.passed[pair] = report.dev[pair] < dev - self.margin

    def report(self, update: int) -> dict[str, float]:
        keys = self.faculty.report()
        return keys | {f"expert/{pair}/switch": float(not passed) for pair, passed in self.passed.items()}

    def snapshots(self) -> set[int]:
        """None of this run's: experts live elsewhere."""
        return set()

    def state(self) -> dict[str, Any]:
        return {"passed": self.passed, "paths": self.paths}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["paths"] != self.paths:
            raise UserError(f"experts: the checkpoint was taught by {state['paths']}, this run by {self.paths}")
        self.passed = dict(state["passed"])


def expert_dev(pair: str, path: Path) -> float:
    """An expert's own dev loss of its pair; UserError where its ``model.json`` has none."""
    dev = describe_model(path).get("dev", {})
    if pair not in dev:
        raise UserError(f"{path}/model.json: no dev loss of {pair} in it; give that pair's expert, or set rule: fix")
    return float(dev[pair])


def check_pairs(paths: Mapping[str, Path], pairs: Sequence[str]) -> None:
    """UserError where experts and pairs are not the same set."""
    if odd := sorted(set(paths) ^ set(pairs)):
        raise UserError(
            f"method.experts: {', '.join(odd)}: one expert a pair of data.pairs is wanted, no more, no less"
        )

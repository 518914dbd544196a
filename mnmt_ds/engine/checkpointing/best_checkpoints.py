"""The best checkpoints, overall and of each pair, and what lies between them: the performance deficit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mnmt_ds.methods.method import ValidationReport


class BestValue(NamedTuple):
    """A best value and the update at which it was reached."""

    value: float = math.inf
    update: int = -1


class BestCheckpoints:
    """Keeps paper 1's two kinds of best checkpoint; state of a run."""

    def __init__(self, pairs: Sequence[str], selection: Literal["pairs", "tokens"], tokens: Mapping[str, int]) -> None:
        self.selection = selection
        self.tokens = tokens
        self.overall = BestValue()
        self.dev_at_overall: dict[str, float] = {}
        self.pair: dict[str, BestValue] = {pair: BestValue() for pair in pairs}
        self.since_better = 0

    def update(self, report: ValidationReport) -> tuple[bool, list[str]]:
        """Takes a validation in; returns whether the overall best is new, and which pairs improved."""
        value = overall_loss(report.dev, self.selection, self.tokens)
        better = value < self.overall.value
        self.since_better = 0 if better else self.since_better + 1
        if better:
            self.overall, self.dev_at_overall = BestValue(value, report.update), dict(report.dev)
        improved = [pair for pair, dev in report.dev.items() if dev < self.pair[pair].value]
        for pair in improved:
            self.pair[pair] = BestValue(report.dev[pair], report.update)
        return better, improved

    def deficit(self) -> float:
        """sum_l [dev_l(overall best checkpoint) - dev_l(best checkpoint of l)], at least 0 (paper 1, Section 2)."""
        return sum(self.dev_at_overall[pair] - mark.value for pair, mark in self.pair.items() if self.dev_at_overall)

    def snapshots(self, per_pair: bool) -> set[int]:
        """Updates whose weights are some best checkpoint's."""
        marks = [self.overall, *(self.pair.values() if per_pair else ())]
        return {mark.update for mark in marks if mark.update >= 0}

    def state(self) -> dict[str, Any]:
        return {
            "overall": list(self.overall),
            "dev_at_overall": self.dev_at_overall,
            "pair": {pair: list(mark) for pair, mark in self.pair.items()},
            "since_better": self.since_better,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.overall = BestValue(*state["overall"])
        self.dev_at_overall = dict(state["dev_at_overall"])
        self.pair = {pair: BestValue(*mark) for pair, mark in state["pair"].items()}
        self.since_better = int(state["since_better"])


def overall_loss(dev: Mapping[str, float], selection: str, tokens: Mapping[str, int]) -> float:
    """Mean dev loss over pairs, or over all dev tokens."""
    if selection == "pairs":
        return sum(dev.values()) / len(dev)
    return sum(dev[pair] * tokens[pair] for pair in dev) / sum(tokens[pair] for pair in dev)

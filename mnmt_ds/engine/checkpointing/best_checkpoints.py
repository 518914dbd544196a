"""The best checkpoints, overall and of each pair, and what lies between them: the performance deficit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mnmt_ds.best_values import BestValue, BestValues, keep_lowest
from mnmt_ds.engine.settings import ValidationSettings
from mnmt_ds.methods.method import ValidationReport
from mnmt_ds.version_limit import Moved, VersionLimit

OVERALL = ""
"""Stands for the overall best among the names of pairs."""


class BestCheckpoints:
    """Tracks the overall best checkpoint and each pair's best one (paper 1); its state is in the run's checkpoints."""

    def __init__(self, pairs: Sequence[str], settings: ValidationSettings, tokens: Mapping[str, int]) -> None:
        """Starts without any.

        Args:
            pairs: names of language pairs.
            settings: what the bests go by, and how many are kept.
            tokens: dev tokens of each pair.
        """
        self.settings = settings
        self.tokens = tokens
        self.overall = BestValue()
        self.dev_at_overall: dict[str, float] = {}
        self.pair = BestValues(pairs)
        self.limit = VersionLimit(settings.max_best_versions)
        self.moved: list[Moved] = []
        """Pairs whose best was given up for another at the last validation."""
        self.since_better = 0
        """Validations since the overall best; where it goes by scores, those that took them."""
        self.lowest: dict[str, list[BestValue]] = {}
        """The ``average_k`` best values by pair, of the overall best under "": ascending."""

    def update(self, report: ValidationReport, scores: Mapping[str, Mapping[str, float]]) -> tuple[bool, list[str]]:
        """Updates the best values from a validation.

        Args:
            report: its dev losses.
            scores: its dev scores by pair and name; empty where none were taken.

        Returns:
            Whether the overall best is new, and which pairs improved.
        """
        values = dict(report.dev)
        is_better = False
        if (value := self._overall_value(report.dev, scores)) is not None:
            values[OVERALL] = value
            is_better = value < self.overall.value
            self.since_better = 0 if is_better else self.since_better + 1
        if is_better:
            self.overall, self.dev_at_overall = BestValue(values[OVERALL], report.update), dict(report.dev)
        for name, value in values.items() if self.settings.average_k else ():
            self.lowest[name] = keep_lowest(
                self.lowest.get(name, []), BestValue(value, report.update), self.settings.average_k
            )
        improved = self.pair.update_lowest(report.dev, report.update)
        self.moved = self.limit.apply(self.pair, report.dev, report.update)
        return is_better, improved

    def _overall_value(self, dev: Mapping[str, float], scores: Mapping[str, Mapping[str, float]]) -> float | None:
        """What the overall best goes by, the lower the better; None where it goes by scores that were not taken."""
        if self.settings.select_by == "loss":
            return self.overall_loss(dev)
        if not scores:
            return None
        return -sum(row[self.settings.select_by] for row in scores.values()) / len(scores)

    def selected(self) -> str:
        """Describes the overall best checkpoint.

        Returns:
            Such as ``best 3.9214 at 400``, or ``best by bleu 23.41 at 400``.
        """
        if not math.isfinite(self.overall.value):
            return "no best yet"
        if self.settings.select_by == "loss":
            return f"best {self.overall.value:.4f} at {self.overall.update}"
        return f"best by {self.settings.select_by} {-self.overall.value:.2f} at {self.overall.update}"

    def overall_loss(self, dev: Mapping[str, float]) -> float:
        """Computes the dev loss that the overall best checkpoint is selected by.

        Args:
            dev: dev loss of each pair, in nats a token.

        Returns:
            Nats a token.
        """
        return overall_loss(dev, self.settings.selection, self.tokens)

    def begin_anew(self, pairs: bool) -> None:
        """Drops values that are measured otherwise from here on; kept weights stay until the next validation.

        Args:
            pairs: the pairs' dev losses are; else the overall one alone.
        """
        self.overall, self.since_better = self.overall.without_value(), 0
        self.lowest = {} if pairs else {name: values for name, values in self.lowest.items() if name != OVERALL}
        if pairs:
            self.dev_at_overall, self.limit.dev = {}, {}
            self.pair.forget_values()

    def forget_weights_of_pairs(self) -> None:
        """Marks the weights of the pairs' best checkpoints as not kept so far."""
        self.pair = BestValues({pair: BestValue(best.value) for pair, best in self.pair.items()})

    def deficit(self) -> float:
        """Computes sum_l [dev_l(overall best checkpoint) - dev_l(best checkpoint of l)], at least 0.

        Source: paper 1, Section 2.

        Returns:
            Nats a token, summed over pairs.
        """
        return sum(self.dev_at_overall[pair] - best.value for pair, best in self.pair.items() if self.dev_at_overall)

    def snapshots(self, per_pair: bool) -> set[int]:
        """Lists the updates whose weights are those of a best checkpoint.

        Args:
            per_pair: the pairs' best ones are kept, too.

        Returns:
            Updates.
        """
        updates = {self.overall.update} if self.overall.is_set else set()
        updates |= self.pair.updates() if per_pair else set()
        averaged = [
            best.update for name, values in self.lowest.items() if per_pair or name == OVERALL for best in values
        ]
        return updates.union(averaged)

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint of the run holds, as JSON values.

        Returns:
            Values by name.
        """
        return {
            "overall": list(self.overall),
            "dev_at_overall": self.dev_at_overall,
            "pair": {pair: list(best) for pair, best in self.pair.items()},
            "since_better": self.since_better,
            "lowest": {name: [list(best) for best in values] for name, values in self.lowest.items()},
            "versions": self.limit.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the state from a checkpoint.

        Args:
            state: of ``state``.
        """
        self.overall = BestValue(*state["overall"])
        self.dev_at_overall = dict(state["dev_at_overall"])
        self.pair = BestValues({pair: BestValue(*best) for pair, best in state["pair"].items()})
        self.limit.restore(state.get("versions", ()))
        self.since_better = int(state["since_better"])
        if not self.settings.average_k:
            self.lowest = {}
            return
        bests = {OVERALL: self.overall, **self.pair}  # all that is known of a run that kept no more
        self.lowest = {name: [best] for name, best in bests.items() if best.is_set and math.isfinite(best.value)}
        for name, values in state.get("lowest", {}).items():
            self.lowest[name] = [BestValue(*best) for best in values[: self.settings.average_k]]


def overall_loss(dev: Mapping[str, float], selection: str, tokens: Mapping[str, int]) -> float:
    """Averages dev losses over pairs, or over all dev tokens.

    Args:
        dev: dev loss of each pair, in nats a token.
        selection: "pairs" or "tokens".
        tokens: dev tokens of each pair.

    Returns:
        Nats a token.
    """
    if selection == "pairs":
        return sum(dev.values()) / len(dev)
    return sum(dev[pair] * tokens[pair] for pair in dev) / sum(tokens[pair] for pair in dev)

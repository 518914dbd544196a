"""The best checkpoints, overall and of each pair, and what lies between them: the performance deficit."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mnmt_ds.best_values import BestValue, BestValues
from mnmt_ds.methods.method import ValidationReport


class BestCheckpoints:
    """Tracks the overall best checkpoint and each pair's best one (paper 1); its state is in the run's checkpoints."""

    def __init__(self, pairs: Sequence[str], selection: Literal["pairs", "tokens"], tokens: Mapping[str, int]) -> None:
        """Starts without any.

        Args:
            pairs: names of language pairs.
            selection: the overall dev loss is the mean over pairs, or over all dev tokens.
            tokens: dev tokens of each pair.
        """
        self.selection = selection
        self.tokens = tokens
        self.overall = BestValue()
        self.dev_at_overall: dict[str, float] = {}
        self.pair = BestValues(pairs)
        self.since_better = 0
        """Validations since the overall best."""

    def update(self, report: ValidationReport) -> tuple[bool, list[str]]:
        """Updates the best values from a validation.

        Args:
            report: its dev losses.

        Returns:
            Whether the overall best is new, and which pairs improved.
        """
        value = self.overall_loss(report.dev)
        is_better = value < self.overall.value
        self.since_better = 0 if is_better else self.since_better + 1
        if is_better:
            self.overall, self.dev_at_overall = BestValue(value, report.update), dict(report.dev)
        return is_better, self.pair.update_lowest(report.dev, report.update)

    def overall_loss(self, dev: Mapping[str, float]) -> float:
        """Computes the dev loss that the overall best checkpoint is selected by.

        Args:
            dev: dev loss of each pair, in nats a token.

        Returns:
            Nats a token.
        """
        return overall_loss(dev, self.selection, self.tokens)

    def begin_anew(self, pairs: bool) -> None:
        """Drops values that are measured otherwise from here on; kept weights stay until the next validation.

        Args:
            pairs: the pairs' dev losses are; else the overall one alone.
        """
        self.overall, self.since_better = self.overall.without_value(), 0
        if pairs:
            self.dev_at_overall = {}
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
        overall = {self.overall.update} if self.overall.is_set else set()
        return overall | self.pair.updates() if per_pair else overall

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
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the state from a checkpoint.

        Args:
            state: of ``state``.
        """
        self.overall = BestValue(*state["overall"])
        self.dev_at_overall = dict(state["dev_at_overall"])
        self.pair = BestValues({pair: BestValue(*best) for pair, best in state["pair"].items()})
        self.since_better = int(state["since_better"])


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

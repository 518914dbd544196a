"""What every sampler is: a distribution over language pairs, and what may move it.

A sampler hears of every update, of every validation and of every epoch's end, and may ask for measurements of the
student every so many updates. All of that is equal on every rank, so that all ranks draw the same.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from mnmt_ds import metric_keys
from mnmt_ds.samplers.temperature import probabilities

Losses = Sequence[tuple[float, float]]
"""Of each pair: the sum of its label-smoothed cross-entropy in an update over all ranks, and its target tokens."""


class Measurements(Protocol):
    """What can be asked of the student as it is; it is left as it was. Called by all ranks together."""

    def alignments(self, max_tokens: int) -> list[float]:
        """mean_i cos(gradient on dev data of pair i, gradient on training data of pair j), for every pair j."""
        ...

    def uncertainties(self, reward: str, passes: int, max_tokens: int) -> list[float]:
        """A reward of ``uncertainty.REWARDS`` on dev data of every pair, over passes with dropout."""
        ...


class Sampler:
    """Fixed shares. The dynamic samplers are made from it and move ``probabilities`` in place of its empty steps."""

    dynamic = False
    every = 0
    """Updates between two measurements; 0: it asks for none."""

    def __init__(self, settings: Any, pairs: Sequence[str], sizes: Sequence[int]) -> None:
        """Starts at p proportional to n^(1/T) of the pairs' ``sizes`` in sentences."""
        self.settings, self.pairs, self.sizes = settings, tuple(pairs), tuple(sizes)
        self.probabilities = probabilities(sizes, settings.temperature)
        self.changes = 0
        """How often the distribution was set anew."""

    def begin(self) -> None:
        """A run starts from its beginning; UserError where something is missing that only its state would hold."""

    def observe(self, losses: Losses) -> None:
        """Hears of an update."""

    def measure(self, student: Measurements) -> None:
        """Asks, every ``every`` updates."""

    def on_validated(self, competence: Sequence[float]) -> None:
        """Hears of a validation: of each pair 1 - nll / log V; 0 as a uniform guess, 1 when certain of every token."""

    def on_epoch(self) -> None:
        """An epoch has ended; the next one is drawn from what is set here."""

    def set(self, probabilities: Sequence[float]) -> None:
        """A new distribution."""
        self.probabilities = list(probabilities)
        self.changes += 1

    def scores(self) -> dict[str, Sequence[float]]:
        """What the distribution was last made from, by name, a number a pair."""
        return {}

    def report(self) -> dict[str, float]:
        """Metric keys: ``data/<pair>/prob`` and what it was made from."""
        named = {"prob": self.probabilities, **self.scores()}
        return {
            metric_keys.DATA_SCORE.of(pair, key): row[i]
            for key, row in named.items()
            for i, pair in enumerate(self.pairs)
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint must carry (JSON keeps every bit of a float)."""
        return {"probabilities": self.probabilities, "changes": self.changes}

    def restore(self, state: dict[str, Any]) -> None:
        """The state as it was."""
        self.probabilities, self.changes = list(state["probabilities"]), int(state["changes"])


class Fixed(Sampler):
    """Temperature sampling: the shares of the recipe for good, also where it was changed before a resume."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass

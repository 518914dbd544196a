"""What every sampler is: a distribution over language pairs, and the functions that may move it.

A sampler is called after every update, at every validation and at every epoch's end, and may measure the student every
so many updates. What it is given is equal on every rank, so that all ranks draw the same.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from mnmt_ds import metric_keys
from mnmt_ds.config import Settings
from mnmt_ds.requirements import Requirements, needs_nothing

Losses = Sequence[tuple[float, float]]
"""Of each pair: the sum over an update and all ranks of its label-smoothed cross-entropy, nats; its target tokens."""


class Measurements(Protocol):
    """Interface of what samplers can measure of a student, whose state stays as it was. All ranks call it together."""

    def alignments(self, max_tokens: int) -> list[float]:
        """Compares gradients on dev data with gradients on training data (MultiDDS-S).

        Args:
            max_tokens: padded tokens of a micro-batch; 0: ``train.max_tokens``.

        Returns:
            mean_i cos(gradient on dev data of pair i, gradient on training data of pair j), for every pair j.
        """
        ...

    def uncertainties(self, reward: str, passes: int, max_tokens: int) -> list[float]:
        """Measures how uncertain the student is on dev data, over passes with dropout (MultiUAT).

        Args:
            reward: a key of ``uncertainty.REWARDS``.
            passes: passes over each micro-batch, each with its own dropout masks.
            max_tokens: padded tokens of a micro-batch; 0: ``train.max_tokens``.

        Returns:
            The reward of every pair.
        """
        ...


@dataclass
class Distribution:
    """Probability of each language pair to be drawn, and how often it was changed."""

    pairs: tuple[str, ...]
    """Names of the pairs, such as fr-en."""
    probabilities: list[float]
    """One a pair; they sum to 1."""
    changes: int = 0
    """How often the distribution was set anew."""

    def set(self, probabilities: Sequence[float]) -> None:
        """Replaces the distribution; the next plan of an epoch is drawn from it.

        Args:
            probabilities: one a pair, sum 1.
        """
        self.probabilities = list(probabilities)
        self.changes += 1


@dataclass
class SamplerMemory:
    """Base of a sampler's state besides its distribution. Subclasses add fields of JSON values for checkpoints."""


def do_nothing(*values: Any) -> None:
    """Does nothing: the function of a sampler for an event that does not change it.

    Args:
        *values: whatever is given at that moment.
    """


class Sampler(NamedTuple):
    """A sampler of language pairs: its distribution, and functions that change it during training."""

    distribution: Distribution
    """The probabilities; the functions below move them with ``distribution.set``."""
    memory: SamplerMemory = SamplerMemory()
    """What the functions keep from one call to the next."""
    dynamic: bool = True
    """Whether anything moves the distribution. A fixed one is the recipe's also after a resume: it has no state."""
    every: int = 0
    """Updates between two calls of ``measure``; 0: it is never called."""
    start: Callable[[], None] = do_nothing
    """Called where a run starts from its beginning, not from a checkpoint; may raise UserError."""
    on_update: Callable[[Losses], None] = do_nothing
    """Called after every update with the pairs' losses in it."""
    measure: Callable[[Measurements], None] = do_nothing
    """Called every ``every`` updates, by all ranks together."""
    on_validation: Callable[[Sequence[float]], None] = do_nothing
    """Called with each pair's competence: 1 - nll / log V of its dev set; 0 as a uniform guess, 1 when certain."""
    on_epoch_end: Callable[[], None] = do_nothing
    """Called before the next epoch is drawn."""
    on_new_metric: Callable[[], None] = do_nothing
    """Called where a resumed run takes losses in other units than before."""
    scores: Callable[[], Mapping[str, Sequence[float]]] = dict
    """What the distribution was last made from, by name, a number a pair; for the logs."""

    @property
    def probabilities(self) -> list[float]:
        """Probability of each pair to be drawn, in order of the run's pairs."""
        return self.distribution.probabilities

    @property
    def changes(self) -> int:
        """How often the distribution was replaced."""
        return self.distribution.changes

    def report(self) -> dict[str, float]:
        """Collects metric keys: ``data/<pair>/prob`` and what the distribution was made from.

        Returns:
            Values by metric key.
        """
        named = {"prob": self.probabilities, **self.scores()}
        pairs = self.distribution.pairs
        return {
            metric_keys.DATA_SCORE.of(pair, key): row[i] for key, row in named.items() for i, pair in enumerate(pairs)
        }

    def state(self) -> dict[str, Any]:
        """Collects what a checkpoint must carry (JSON keeps every bit of a float).

        Returns:
            JSON values; empty where the distribution is fixed.
        """
        if not self.dynamic:
            return {}
        return {"probabilities": self.probabilities, "changes": self.changes, **dataclasses.asdict(self.memory)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: what ``state`` returned, as JSON gives it back.
        """
        if not self.dynamic:
            return
        self.distribution.probabilities = list(state["probabilities"])
        self.distribution.changes = int(state["changes"])
        for field in dataclasses.fields(self.memory):
            setattr(self.memory, field.name, state[field.name])


class SamplerEntry(NamedTuple):
    """A sampler's declaration: its settings, how it is built, what it needs."""

    settings: type[Settings]
    """Its section of the recipe, with a field ``name: Literal["..."]`` by which recipes ask for it."""
    build: Callable[[Any, Sequence[str], Sequence[int]], Sampler]
    """(settings, names of the pairs, their training sentences) -> Sampler."""
    requires: Callable[[Any], Requirements] = needs_nothing
    """What it needs of the run, by its settings."""
    example: Mapping[str, Any] = {}
    """Sections of a minimal recipe that uses it; empty where its ``name`` is enough. ``{plain_run}`` in a text stands
    for the directory of a finished plain run on the same data."""

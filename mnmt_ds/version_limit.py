"""A bound on how many versions the bests of all pairs may have, so that disk and memory do not grow with the pairs.

A validation adds one version at most. Where that is one too many, the version is given up whose pairs lose least: each
of them takes the other version under which its dev loss was lowest. With as many versions as pairs nothing is given up.

Letters: V versions, P pairs.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mnmt_ds.best_values import BestValues


class Moved(NamedTuple):
    """A pair whose best model was given up."""

    pair: str
    """Its name."""
    given_up: int
    """The update whose weights were its best."""
    update: int
    """The update whose weights stand in."""
    rise: float
    """By how much its dev loss is higher under these, in nats a token; negative where they are better than others that
    stood in before."""


class VersionLimit:
    """Keeps the versions of pairs' bests within a bound; equal reports give equal choices on every rank."""

    def __init__(self, most: int) -> None:
        """Starts without versions.

        Args:
            most: versions at most; 0: any number.
        """
        self.most = most
        self.dev: dict[int, dict[str, float]] = {}
        """Dev losses of all pairs under each version that is in use, nats a token."""

    def apply(self, best: BestValues, dev: Mapping[str, float], update: int) -> list[Moved]:
        """Gives versions up after a validation, until the bound holds; the lowest dev losses stay what they were.

        Args:
            best: bests of the pairs, with this validation's; those of pairs that move get another update.
            dev: this validation's dev losses by pair.
            update: of this validation.

        Returns:
            The pairs that moved, in the run's order.
        """
        if not self.most:
            return []
        moved: dict[str, Moved] = {}
        self.dev[update] = dict(dev)
        while len(best.updates()) > self.most and (moves := self._cheapest(best)):
            for move in moves:
                best[move.pair] = best[move.pair]._replace(update=move.update)
                earlier = moved.get(move.pair)
                if earlier is not None:
                    move = move._replace(given_up=earlier.given_up, rise=earlier.rise + move.rise)
                moved[move.pair] = move
        self.forget(best)
        return [moved[pair] for pair in best if pair in moved]

    def forget(self, best: BestValues) -> None:
        """Drops the dev losses of versions that no pair has.

        Args:
            best: bests of the pairs.
        """
        used = best.updates()
        self.dev = {version: losses for version, losses in self.dev.items() if version in used}

    def _cheapest(self, best: BestValues) -> list[Moved]:
        """The moves of the version whose pairs lose least, of equal ones the oldest; none where no loss is known."""
        versions, pairs = sorted(best.updates()), [pair for pair, value in best.items() if value.is_set]
        dev_VP = np.array([[self._loss(best, pair, version) for pair in pairs] for version in versions])
        own_P = np.array([versions.index(best[pair].update) for pair in pairs])
        others_VP = dev_VP.copy()
        others_VP[own_P, np.arange(len(pairs))] = np.inf
        target_P = len(versions) - 1 - others_VP[::-1].argmin(0)  # of equal ones the newest
        rise_P = others_VP.min(0) - dev_VP[own_P, np.arange(len(pairs))]
        cost_V = np.bincount(own_P, weights=rise_P, minlength=len(versions))
        given_up = int(cost_V.argmin())
        if not np.isfinite(cost_V[given_up]):
            return []
        return [
            Moved(pairs[i], versions[given_up], versions[target_P[i]], float(rise_P[i]))
            for i in np.flatnonzero(own_P == given_up)
        ]

    def _loss(self, best: BestValues, pair: str, version: int) -> float:
        """A pair's dev loss under a version; infinite where it is not known: of versions before there was a bound."""
        if version in self.dev:
            return self.dev[version].get(pair, np.inf)
        return best[pair].value if best[pair].update == version else np.inf

    def state(self) -> list[list[Any]]:
        """Returns the state for a checkpoint, as JSON values.

        Returns:
            Of each version its update and the dev losses by pair.
        """
        return [[version, losses] for version, losses in self.dev.items()]

    def restore(self, state: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Restores a checkpoint's state.

        Args:
            state: what ``state`` gave; empty where the run had no bound then.
        """
        self.dev = {int(version): dict(losses) for version, losses in state} if self.most else {}

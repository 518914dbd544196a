"""One student's distillation weights alpha_i[l], and the peers that teach it: state of paper 2's Algorithm 1."""

from collections.abc import Mapping
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.errors import UserError
from mnmt_ds.methods.alpha_rules import AlphaSearch, Weights


class PeerWeights:
    """One student's weight of distillation on each language pair."""

    def __init__(self, alpha: Weights, teachers: Mapping[str, list[str]], active: bool, searched: bool = True) -> None:
        """Starts from the first weights.

        Args:
            alpha: of each pair, in [0, 1].
            teachers: names of the peers that teach each pair.
            active: whether distillation has started.
            searched: whether alpha moves; else it is the recipe's, also after a resume.
        """
        self.alpha, self.active, self._searched = dict(alpha), active, searched
        self.teachers = {pair: list(names) for pair, names in teachers.items()}
        """The peers that teach each pair; alpha is shared evenly between them."""
        self.validations = 0
        """Validations so far."""
        self.seconds = 0.0
        """Time that the last validation's search or extra updates took."""
        self.search: AlphaSearch | None = None
        """The last validation's search."""

    def of(self, pair: str) -> tuple[float, list[str]]:
        """Looks up the present weights.

        Args:
            pair: name of a language pair.

        Returns:
            alpha and the names of the peers that share it; 0 and nobody where the pair is not taught.
        """
        names = self.teachers[pair]
        return (self.alpha[pair], names) if self.active and names and self.alpha[pair] > 0 else (0.0, [])

    def replace(self, alpha: Weights) -> None:
        """Replaces the weights.

        Args:
            alpha: of each pair, in [0, 1].
        """
        self.alpha = dict(alpha)

    def state(self) -> dict[str, Any]:
        """Collects what a checkpoint holds.

        Returns:
            JSON values.
        """
        return {
            "alpha": self.alpha, "teachers": self.teachers, "active": self.active, "validations": self.validations,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: what ``state`` returned, as JSON gives it back.

        Raises:
            UserError: where it is of other pairs.
        """
        if state["alpha"].keys() != self.alpha.keys():
            raise UserError(
                f"weights: the checkpoint's pairs {sorted(state['alpha'])} are not the run's {sorted(self.alpha)}"
            )
        if self._searched:
            self.alpha = dict(state["alpha"])
        self.teachers = {pair: list(names) for pair, names in state["teachers"].items()}
        self.active, self.validations = bool(state["active"]), int(state["validations"])

    def snapshots(self) -> set[int]:
        """Lists the weights that must not be deleted: none, since peers teach as they are.

        Returns:
            An empty set.
        """
        return set()

    def report(self, update: int) -> dict[str, float]:
        """Collects the weights in use from here on, the seconds that finding them took, and the search that did.

        Args:
            update: updates done.

        Returns:
            Values by metric key.
        """
        keys = {metric_keys.ALPHA.of(pair): self.of(pair)[0] for pair in self.alpha}
        if self.search is not None:
            keys |= _search_keys(self.search)
        return keys | {metric_keys.SEARCH_SECONDS: self.seconds}


def _search_keys(search: AlphaSearch) -> dict[str, float]:
    """A search by metric key."""
    keys: dict[str, float] = {metric_keys.SEARCH_MU: search.mu}
    for pair, action in search.actions.items():
        keys[metric_keys.SEARCH_BEFORE.of(pair)] = search.before[pair]
        keys |= {metric_keys.TRIAL_LOSS[name].of(pair): losses[pair] for name, losses in search.trials.items()}
        keys[metric_keys.SEARCH_ACTION.of(pair)] = metric_keys.ACTION_NUMBERS[action]
    return keys

"""The lowest value so far of each language pair, and the update at which it was reached."""

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

NO_UPDATE = -1
"""The update of a value that was never set."""


class DevMetric(StrEnum):
    """A metric of dev sets by which a run selects checkpoints and teachers."""

    DEV_LOSS = "dev loss"
    """Each pair's loss on its dev set."""
    OVERALL = "overall dev loss"
    """Their mean, by which the overall best is selected."""
    DEV_BLEU = "dev BLEU"
    """BLEU of dev sets."""


class BestValue(NamedTuple):
    """The lowest value so far of one quantity, such as a pair's dev loss, and when it was reached."""

    value: float = math.inf
    """Infinite where it was never set."""
    update: int = NO_UPDATE
    """The update at which it was reached."""

    @property
    def is_set(self) -> bool:
        """Whether there has been any value."""
        return self.update != NO_UPDATE

    def without_value(self) -> "BestValue":
        """Drops the value: the next one counts as better, and until then what was kept stays.

        Returns:
            The same update with an infinite value.
        """
        return self._replace(value=math.inf)


def keep_lowest(values: Sequence[BestValue], new: BestValue, count: int) -> list[BestValue]:
    """Adds a value to the lowest ones so far.

    Args:
        values: the lowest ones, ascending.
        new: the new one.
        count: how many stay.

    Returns:
        The lowest ones now, ascending, one an update; of equal ones the earlier.
    """
    return sorted([*(value for value in values if value.update != new.update), new])[:count]


class BestValues(dict[str, BestValue]):
    """The lowest value of each pair, by its name; pairs come in the order of the run's list."""

    def __init__(self, pairs: Iterable[str] | Mapping[str, BestValue]) -> None:
        """Starts without values, or from given ones.

        Args:
            pairs: names of the pairs, or their values.
        """
        super().__init__(pairs if isinstance(pairs, Mapping) else {pair: BestValue() for pair in pairs})

    def update_lowest(self, values: Mapping[str, float], update: int) -> list[str]:
        """Replaces the values that new ones are lower than; an equal one is no improvement.

        Args:
            values: such as dev losses in nats a token, by pair.
            update: the update at which they were measured.

        Returns:
            The pairs whose value is lower than all before.
        """
        improved = [pair for pair, value in values.items() if value < self[pair].value]
        for pair in improved:
            self[pair] = BestValue(values[pair], update)
        return improved

    def forget_values(self) -> None:
        """Drops all values, since later ones are measured otherwise; each pair's next one will be its lowest."""
        self.update({pair: best.without_value() for pair, best in self.items()})

    def updates(self) -> set[int]:
        """Lists when the lowest values were reached.

        Returns:
            Updates; none of a pair without a value.
        """
        return {best.update for best in self.values() if best.is_set}

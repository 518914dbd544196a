"""Where a student stands in its data, in sentences: whatever a resumed run cuts otherwise, the rest stays the rest.

An epoch is drawn in segments: one, or more where a sampler moves its distribution within it. What a segment draws is
settled when it begins. It is cut into updates by budget and number of micro-batches; where a resumed run has others,
what is left of it is cut anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mnmt_ds.data.monolingual import ItemRange


class Cut(NamedTuple):
    """How an epoch's segment (or what earlier cuts left of it) is cut into updates, and how many of these are done."""

    max_tokens: int
    """Padded tokens of a micro-batch; longer sentences are left to a later cut."""
    batches_per_update: int
    """Micro-batches of an update, on all ranks together."""
    sentences: int = 0
    """Sentences that were taken, items of text of one language included."""


class EpochSegment(NamedTuple):
    """The sentences that an epoch, or its rest under a new sampling distribution, draws."""

    counts: Sequence[int]
    """Sentences to draw of each pair."""
    offsets: Sequence[int]
    """Position of each pair in its endless sequence of permutations."""
    trained: Sequence[int]
    """Sentences of each pair that the run was trained on before."""
    longest: int
    """Tokens of the longest sentence among those that are permuted."""
    sentences: int
    """Sentences of the whole epoch, all pairs together."""
    number: int = 0
    """How often the epoch's rest was drawn anew."""
    done: int = 0
    """Sentences of the epoch that came before."""
    items: Mapping[str, ItemRange] = {}
    """Text of one language: what the whole epoch draws of each."""

    @property
    def fraction_before(self) -> float:
        """The fraction of the epoch that came before."""
        return self.done / self.sentences


class Position(NamedTuple):
    """A student's position in its training data; with the seed it determines the order of all that follows."""

    segment: EpochSegment
    """The segment under way."""
    cuts: tuple[Cut, ...]
    """Its cuts; the last one is under way."""
    update: int = 0
    """Updates done."""
    epoch: int = 0
    """The epoch under way, from 0."""

    def values(self) -> dict[str, Any]:
        """Returns the position as a checkpoint holds it.

        Returns:
            JSON values, of which ``position_of`` makes the position again.
        """
        return {**self._asdict(), "segment": self.segment._asdict()}


def position_of(values: Mapping[str, Any]) -> Position:
    """Reads a position from a checkpoint.

    Args:
        values: of ``Position.values``, as JSON gives them back.

    Returns:
        The position.
    """
    segment = EpochSegment(**values["segment"])
    items = {language: ItemRange(*numbers) for language, numbers in segment.items.items()}
    cuts = tuple(Cut(*numbers) for numbers in values["cuts"])
    return Position(segment._replace(items=items), cuts, values["update"], values["epoch"])


def updates_of(values: Any) -> int:
    """Reads the updates that were done at a checkpoint.

    Args:
        values: a position's JSON; version 0.1.0 has a list.

    Returns:
        Their number.
    """
    return int(values[0] if isinstance(values, list) else values["update"])

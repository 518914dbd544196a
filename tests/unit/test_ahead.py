"""How far ahead micro-batches may be announced: never past the validation, or the measurement, that comes first."""

from types import SimpleNamespace
from typing import Any

import pytest

from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.training import Training


def student(update: int, inside: int, measures: int = 0) -> Any:
    stream = SimpleNamespace(sampler=SimpleNamespace(every=measures))
    position = SimpleNamespace(update=update, inside=inside)
    return SimpleNamespace(walk=SimpleNamespace(position=position, stream=stream, plan=SimpleNamespace(updates=10)))


def ends(first: Any) -> int:
    """The clock is the first student's."""
    getter: Any = DataIterator.ends.fget
    return int(getter(first.walk))


@pytest.mark.parametrize(
    ("every", "first", "second", "wanted"),
    [
        (4, student(4, 4), student(3, 3), (8, 4)),  # the first has done its fourth update; the second is about to
        (4, student(4, 4), student(4, 4), (8, 8)),
        (0, student(10, 10), student(9, 9), (10, 10)),  # an epoch of ten updates
        (0, student(23, 3), student(22, 2), (30, 30)),
        (0, student(23, 3), student(23, 3, measures=8), (30, 24)),
        (6, student(8, 8, measures=8), student(7, 7, measures=8), (12, 8)),
    ],
)
def test_next_change(every: int, first: Any, second: Any, wanted: tuple[int, int]) -> None:
    work: Any = SimpleNamespace(
        recipe=SimpleNamespace(validation=SimpleNamespace(every=every)), clock=SimpleNamespace(ends=ends(first))
    )
    assert (Training.next_change(work, first), Training.next_change(work, second)) == wanted

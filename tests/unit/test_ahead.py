"""How far ahead micro-batches may be announced: never past the validation, or the measurement, that comes first."""

from types import SimpleNamespace
from typing import Any

import pytest

from mnmt_ds.engine.training import next_change


def student(update: int, measures: int = 0) -> Any:
    return SimpleNamespace(updates=update, sampler=SimpleNamespace(every=measures))


@pytest.mark.parametrize(
    ("every", "epoch_end", "first", "second", "wanted"),
    [
        (4, 10, student(4), student(3), (8, 4)),  # the first has done its fourth update; the second is about to
        (4, 10, student(4), student(4), (8, 8)),
        (0, 10, student(10), student(9), (10, 10)),  # an epoch of ten updates
        (0, 30, student(23), student(22), (30, 30)),
        (0, 30, student(23), student(23, measures=8), (30, 24)),
        (6, 10, student(8, measures=8), student(7, measures=8), (12, 8)),
    ],
)
def test_next_change(every: int, epoch_end: int, first: Any, second: Any, wanted: tuple[int, int]) -> None:
    assert (next_change(first, every, epoch_end), next_change(second, every, epoch_end)) == wanted

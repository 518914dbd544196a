"""How far ahead micro-batches are prefetched: never past the next validation or measurement of the sampler."""

from types import SimpleNamespace
from typing import Any

import pytest

from mnmt_ds.engine.training import next_evaluation


def data_iterator(updates: int, measure_every: int = 0) -> Any:
    """What ``next_evaluation`` reads of a student's data iterator."""
    return SimpleNamespace(updates=updates, sampler=SimpleNamespace(every=measure_every))


@pytest.mark.parametrize(
    ("every", "epoch_end", "first", "second", "expected"),
    [
        (
            4,
            10,
            data_iterator(4),
            data_iterator(3),
            (8, 4),
        ),  # the second is one update behind
        (4, 10, data_iterator(4), data_iterator(4), (8, 8)),
        (0, 10, data_iterator(10), data_iterator(9), (10, 10)),  # an epoch of ten updates
        (0, 30, data_iterator(23), data_iterator(22), (30, 30)),
        (0, 30, data_iterator(23), data_iterator(23, measure_every=8), (30, 24)),
        (6, 10, data_iterator(8, measure_every=8), data_iterator(7, measure_every=8), (12, 8)),
    ],
)
def test_next_change_by_hand(every: int, epoch_end: int, first: Any, second: Any, expected: tuple[int, int]) -> None:
    assert (next_evaluation(first, every, epoch_end), next_evaluation(second, every, epoch_end)) == expected

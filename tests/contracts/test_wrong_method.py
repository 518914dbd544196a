"""The contract can fail: a method whose loss is divided by the number of ranks does not pass it."""

from pathlib import Path

import pytest

from tests.contracts import checks
from tests.contracts.entries import Entry
from tests.contracts.runs import ALONE, EVERYDAY, train_entries
from tests.spawn import on_ranks

MODULE = "tests.contracts.wrong_method"


def test_a_loss_divided_by_the_world_size_fails(tiny_corpus: Path, tmp_path: Path) -> None:
    """Each run by itself is without fault, and what the method logs is right; only the comparison tells."""
    entries = [Entry("method", "wrong"), Entry("method", "translation")]
    alone, spread = (
        on_ranks(
            layout.ranks,
            train_entries,
            str(tiny_corpus),
            str(tmp_path),
            entries,
            layout,
            [MODULE],
            start_method="spawn",
        )[0]
        for layout in (ALONE, EVERYDAY[0])
    )
    checks.complete(alone[0])
    checks.complete(spread[0])
    with pytest.raises(AssertionError, match="on one rank"):
        checks.same_on_layouts(alone[0], spread[0])
    checks.same_on_layouts(alone[1], spread[1])

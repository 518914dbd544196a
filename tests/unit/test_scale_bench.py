"""``bench scale``: its growth by hand, its table, and one small run through all stages."""

from pathlib import Path

import pytest

from mnmt_ds.bench import scale


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_growth_through_three_points(exponent: float) -> None:
    counts = [10, 30, 100]
    grown = scale.growth(counts, [7 + 3 * count**exponent for count in counts])
    assert grown == pytest.approx((7, 3, exponent)) and grown.at(1000) == pytest.approx(7 + 3 * 1000**exponent)


def test_growth_of_less() -> None:
    assert scale.growth([10, 20], [5.0, 7.0]) == pytest.approx((3, 0.2, 1))
    assert scale.growth([10], [5.0]).at(1000) == 5.0
    assert scale.growth([10, 20, 40], [9.0, 8.0, 8.0]).at(1000) == 8.0, "what shrinks stays"


def test_the_table() -> None:
    results = {count: dict.fromkeys(scale.QUANTITIES, 2.0 + 0.5 * count) for count in (10, 30, 100)}
    lines = scale.table(results, 1000).splitlines()
    assert lines[0] == "|  | 10 pairs | 30 pairs | 100 pairs | growth | 1,000 pairs (reckoned) |"
    assert lines[2] == "| prepare, CPU s | 7 | 17 | 52 | P^1.0 | 502 |" and len(lines) == 2 + len(scale.QUANTITIES)


@pytest.mark.slow
def test_all_stages(tmp_path: Path) -> None:
    values = scale.measure(tmp_path, 3, 30)
    assert values.keys() == scale.QUANTITIES.keys() and all(value > 0 for value in values.values())

"""The run's time and its search's part of it, by hand."""

import pytest

from mnmt_ds.engine.monitoring.progress import TimeSpent


def test_shares_of_a_search():
    found = TimeSpent(before=1000.0, search=300.0, measuring=90.0).report()
    assert found["pareto/search_share"] == pytest.approx(300 / 1000, abs=1e-3)
    assert found["pareto/trials_on_top"] == pytest.approx((300 - 90) / (1000 - 300), abs=1e-3)


def test_time_goes_on_after_a_resume():
    first = TimeSpent(before=1000.0, search=300.0, measuring=90.0).state()
    assert first[0] >= 1000.0 and first[1:] == [300.0, 90.0]
    assert TimeSpent(*first).state()[0] >= first[0]
    assert TimeSpent(*first[:2]).report()["pareto/trials_on_top"] == pytest.approx(
        300 / 700, abs=1e-3
    )  # an older file's

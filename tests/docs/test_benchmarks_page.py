"""docs/benchmarks.md holds the tables of all result files, as the benchmarks print them."""

import pytest

from mnmt_ds.bench.results_page import BENCHMARKS, RESULTS, filled, section
from tests.docs.pages import ROOT, text_of


def test_tables_are_those_of_the_result_files() -> None:
    page = text_of(ROOT / "docs" / "benchmarks.md")
    assert filled(page) == page, "run python -m mnmt_ds.bench.results_page docs/benchmarks.md"


def test_every_result_file_is_on_the_page() -> None:
    page = text_of(ROOT / "docs" / "benchmarks.md")
    assert not [path.name for path in RESULTS.glob("*.json") if f"**{path.stem}**" not in page]


def test_a_changed_figure_is_noticed() -> None:
    page = text_of(ROOT / "docs" / "benchmarks.md")
    assert filled(page.replace("| plain loop |", "| plain loops |", 1)) == page


def test_unknown_benchmark_is_an_error() -> None:
    with pytest.raises(KeyError, match="throughput"):
        section("speed")
    assert all(section(name).strip() for name in BENCHMARKS)

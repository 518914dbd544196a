"""A page of many language pairs, experiments and validations stays small, and says what it leaves out."""

import json
from pathlib import Path

import numpy as np
import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.reporting import kept_bootstraps
from mnmt_ds.reporting.comparison import ComparedRuns, compare_groups, group_runs
from mnmt_ds.reporting.kept_bootstraps import BOOTSTRAPS
from mnmt_ds.reporting.many_pairs import deficit_of_others, drawn_points, notable_pairs, notable_runs, points_a_curve
from mnmt_ds.reporting.pair_table import pair_table
from mnmt_ds.reporting.runs import read_runs
from tests.evaluation.runs import curve_run, evaluated

PLAIN, LSSD = {"name": "translation"}, {"name": "lssd", "variant": "whole"}
SIZES = {f"l{number:02}-en": 100 + 40 * number for number in range(45)}


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> ComparedRuns:
    """45 pairs, 14 experiments."""
    folder = tmp_path_factory.mktemp("many")
    runs = [curve_run(folder / f"r{n}", f"r{n}", PLAIN, seed=n, epochs=12, sizes=SIZES) for n in range(14)]
    return compare_groups(group_runs(read_runs(runs)), ScoreSettings(samples=10))


def test_what_stands_out_is_drawn(part: ComparedRuns) -> None:
    deficits = [run.deficits() for run in part.runs]
    worst = max(part.sizes, key=lambda pair: max(values[pair] for values in deficits))
    pairs = notable_pairs(part, 7)
    assert len(pairs) == 7 and worst in pairs and pairs == [pair for pair in part.sizes if pair in pairs]
    assert notable_pairs(part, 45) == [*part.sizes]
    drawn = notable_runs(part)
    assert len(drawn.groups) == 12 and drawn.baseline is part.baseline and len(drawn.sizes) == 31
    losses = {group.label: group.runs[0].mean_dev_loss_V.min() for group in part.groups[1:]}
    left_out = {group.label for group in part.groups} - {group.label for group in drawn.groups}
    assert left_out == set(sorted(losses, key=lambda label: -losses[label])[:2])


def test_the_table_has_all(part: ComparedRuns) -> None:
    table = json.loads(pair_table(part))
    assert len(table["pairs"]) == 45 and len(table["groups"]) == 14 and table["left_out"] == 0
    assert table["sizes"] == [*part.sizes.values()] and "bleu" not in table["figures"]
    run, row = part.groups[3].runs[0], 20
    pair = [*part.sizes][row]
    assert table["figures"]["deficit"]["rows"][row][3] == round(run.deficits()[pair], 3)
    assert table["figures"]["dev"]["rows"][row][3] == round(run.dev_losses[pair][run.best_validation], 3)


def test_names_cannot_end_the_tables_script(part: ComparedRuns) -> None:
    group = part.groups[0]._replace(label="</script><b>")
    text = pair_table(part._replace(groups=[group]))
    assert "<" not in text and json.loads(text)["groups"] == ["</script><b>"]


def test_curves_are_thinned_to_what_is_seen() -> None:
    curve_V = np.sin(np.arange(5000) / 300)
    curve_V[1234], curve_V[77] = 9.0, np.nan
    drawn = drawn_points(curve_V, 100)
    assert 50 <= len(drawn) <= 102 and {0, 1234, 4999} <= {*drawn} and 77 not in drawn
    assert drawn_points(curve_V[:100], 100).tolist() == [*range(100)]
    assert (points_a_curve(1), points_a_curve(600), points_a_curve(10**6)) == (400, 100, 30)


def test_the_deficit_of_what_is_not_drawn() -> None:
    assert deficit_of_others({"a": 1.0, "b": 2.0, "c": 4.0}, ["b"]) == 5.0


def test_a_page_of_many_says_what_it_draws(tmp_path: Path) -> None:
    runs = [curve_run(tmp_path / name, name, PLAIN, epochs=16, sizes=SIZES) for name in "ab"]
    assert main(["compare", *map(str, runs), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "compare.html").read_text()
    assert "Charts draw the 31 pairs" in text and "all others" in text
    assert text.count("\\u2192 en") >= 45


def test_bootstraps_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second report makes none, unless a text or a setting is another."""
    texts = {"bs-en": [f"line {i} of many" for i in range(9)]}
    worse = {"bs-en": [line.replace("of", "off") for line in texts["bs-en"]]}
    runs = [curve_run(tmp_path / name, name, PLAIN, epochs=2) for name in "ab"]
    evaluated(runs[0], worse, texts)
    evaluated(runs[1], texts, texts)
    made: list[int] = []

    def count(kept: kept_bootstraps.KeptBootstraps, depends_on: object, make: object) -> object:
        found = kept_bootstraps.kept_or_new(kept, depends_on, make)  # type: ignore[arg-type]
        made.append(len(kept.used.keys() - kept.before.keys()))
        return found

    monkeypatch.setattr("mnmt_ds.reporting.comparison.kept_or_new", count)
    command = ["compare", *map(str, runs), "-o", str(tmp_path / "out"), "--samples"]
    pages = []
    for samples in ("50", "50", "60"):
        assert main([*command, samples]) == 0
        pages.append((tmp_path / "out" / "compare.md").read_text())
    assert made == [1, 0, 1] and pages[0] == pages[1] and "p = " in pages[0]
    kept = tmp_path / "out" / BOOTSTRAPS
    kept.write_text(kept.read_text().replace("100.0", "900.0", 1).replace("0.", "7.", 1))
    assert main([*command, "60"]) == 0 and made[-1] == 1, "what was altered is made anew"

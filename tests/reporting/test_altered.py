"""Results that were altered after they were written are refused by `compare`, or named."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation.report import read_lines, read_report, report_path
from mnmt_ds.reporting.runs import read_run
from mnmt_ds.run_files import METRICS, RECIPE, recipe_fault, write_recipe
from tests.evaluation.runs import curve_run, evaluated

REFERENCES = {"hi-en": ["the red house sees a small bird", "an old river likes the stone"]}
HYPOTHESES = {"hi-en": ["the red house sees a small bird", "the old river likes a stone"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with curves and an evaluation."""
    run = curve_run(tmp_path_factory.mktemp("made") / "run", "plain", {"name": "translation"})
    write_recipe(run, (run / RECIPE).read_text())
    evaluated(run, dict(HYPOTHESES), dict(REFERENCES))
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may alter."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "alter", "said"),
    [
        (
            "evaluation/best.test.json",
            lambda p: edit(p, '"bleu": ', '"bleu": 1'),
            "not a readable report (altered since",
        ),
        ("evaluation/best.test.json", lambda p: edit(p, "{", ""), "not a readable report ("),
        ("evaluation/best.test/hi-en.hyp", lambda p: edit(p, "the old", "an old"), "altered since it was evaluated"),
        ("evaluation/best.test/hi-en.ref", lambda p: edit(p, "an old", "the old"), "altered since it was evaluated"),
        ("evaluation/best.test/hi-en.hyp", Path.unlink, "is missing; evaluate again with --fresh"),
        ("evaluation/best.test/fr-en.hyp", lambda p: p.write_text("a\n"), "altered since it was evaluated"),
        (METRICS, lambda p: edit(p, '"valid/avg/macro": ', '"valid/avg/macro": 1'), "was altered, or lines above it"),
    ],
)
def test_an_altered_result_is_refused_by_name(
    run: Path, made: Path, capfd: pytest.CaptureFixture[str], name: str, alter: Callable[[Path], Any], said: str
) -> None:
    (run / METRICS).write_text(sealed(run / METRICS))
    alter(run / name)
    assert main(["compare", str(made), str(run), "-o", str(run / "out")]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mnmt-ds compare: ")]
    assert len(lines) == 1 and f"{run / name}:" in lines[0] and said in lines[0], lines


def sealed(path: Path) -> str:
    from mnmt_ds.record_lines import write_lines

    return write_lines(json.loads(line) for line in path.read_text().splitlines())


def test_an_altered_recipe_is_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_run(run)
    assert not caplog.records
    edit(run / RECIPE, "lr: 0.002", "lr: 0.003")
    with caplog.at_level(logging.WARNING):
        assert read_run(run).recipe["train"]["lr"] == 0.003
    assert [record.getMessage() for record in caplog.records] == [
        f"{run / RECIPE}: altered since the run wrote it; its settings may not be those that were trained with"
    ]
    (run / RECIPE).write_text("a: [\n")
    assert recipe_fault(run) == f"{run / RECIPE}: cannot be read; the run's settings are not known"
    (run / RECIPE).write_text("a: 1\n")  # of an earlier version
    assert recipe_fault(run) is None


def test_a_report_of_an_earlier_version_is_read(run: Path) -> None:
    path = report_path(run, "best", "test")
    path.write_text(json.dumps({key: value for key, value in read_report(path).items() if key != "files"}))
    (path.with_suffix("") / "hi-en.hyp").write_text("one\ntwo\n")
    assert read_lines(path.with_suffix(""), "hyp") == {"hi-en": ["one", "two"]}

"""Students in ``mnmt-ds compare``: their points, frontier and hypervolume by hand, searched weights, the page."""

import json
from pathlib import Path

import pytest
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation import report
from mnmt_ds.reporting.frontier import experiments, frontier, hypervolume
from mnmt_ds.reporting.runs import read_runs, student_directories
from tests.evaluation.runs import SIZES, curve_run, evaluated

REFERENCES = {pair: [f"the {pair} file {i} could not be opened here" for i in range(12)] for pair in SIZES}
WORSE = {pair: [line.replace("could not", "may") for line in lines] for pair, lines in REFERENCES.items()}


def test_frontier_and_hypervolume_by_hand() -> None:
    """Three steps of width 1 and heights 3, 2, 1; a beaten point, a repeated one and order change nothing."""
    points = [(2.0, 2.0), (1.5, 1.5), (3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (1.0, 2.5)]
    assert frontier(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    assert hypervolume(points) == 6.0
    assert hypervolume([(2.0, 5.0)]) == 10.0


def two_students(run: Path, good: dict[str, set[str]]) -> Path:
    """A run of two students; each is right on its own pairs and worse on the others."""
    for name, pairs in good.items():
        place = curve_run(run / "students" / name, f"{run.name}.{name}", {"name": "pareto", "rule": "auto"})
        log = place / "metrics.jsonl"
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            if record["kind"] == "valid":
                record |= {f"alpha/{pair}": 0.1 + record["epoch"] / 40 for pair in SIZES}
                record["runtime/search_seconds"] = 1.0
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        evaluated(place, {pair: (REFERENCES if pair in pairs else WORSE)[pair] for pair in SIZES}, REFERENCES)
        path = report.report_path(place, "best", "test")
        found = report.read_report(path)
        for pair, facts in found["pairs"].items():
            facts["class"] = "high" if SIZES[pair] >= 900 else "low"
        report.write_report(path, found)
    (run / "recipe.yaml").write_text(yaml.safe_dump({"name": run.name}))
    return run


def share_of(run: Path, share: float) -> None:
    """The run's own figure, which grows to this."""
    for log in run.glob("students/*/metrics.jsonl"):
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            if record["kind"] == "valid":
                record["pareto/search_share"] = share * record["epoch"] / records[-1]["epoch"]
        log.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_students_of_a_run_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    auto = two_students(tmp_path / "auto", {"model_1": {"el-en", "ko-en"}, "model_2": {"bs-en", "hi-en"}})
    both = two_students(tmp_path / "bi", {"model_1": set(SIZES), "model_2": set()})
    runs = read_runs([place for run in (auto, both) for place in student_directories(run)])
    found = {experiment.name: experiment for experiment in experiments(runs)}
    worse = found["bi"].points[1].high
    assert [(point.high, point.low) for point in found["auto"].points] == [
        (pytest.approx(100.0), pytest.approx(worse)), (pytest.approx(worse), pytest.approx(100.0)),
    ]  # fmt: skip
    assert found["bi"].hypervolume == pytest.approx(1e4)
    assert found["auto"].hypervolume == pytest.approx(worse * 100 + (100 - worse) * worse)
    assert found["auto"].search_share == pytest.approx(2 * 20 / runs[0].seconds)
    share_of(both, 0.21)
    runs = read_runs(student_directories(both))
    assert experiments(runs)[0].search_share == pytest.approx(0.21)
    assert runs[0].by_pair["bs-en"]["alpha"][-1] == pytest.approx(0.6)
    assert main(["compare", str(auto), str(both), "-o", str(tmp_path / "out"), "--samples", "50"]) == 0
    out = capsys.readouterr().out
    assert "hypervolume" in out and "auto.model_2" in out and "10000.0" in out
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Pareto frontier" in page and "Distillation weights" in page

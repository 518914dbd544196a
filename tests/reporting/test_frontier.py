"""Students in ``mnmt-ds compare``: their points, frontier and hypervolume by hand, searched weights, the page."""

import json
from pathlib import Path

import pytest
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation import report
from mnmt_ds.reporting.frontier import find_experiments, hypervolume, pareto_frontier
from mnmt_ds.reporting.runs import read_runs, student_directories
from mnmt_ds.run_files import METRICS, RECIPE
from tests.evaluation.runs import SIZES, curve_run, evaluated

REFERENCES = {pair: [f"the {pair} file {i} could not be opened here" for i in range(12)] for pair in SIZES}
WORSE = {pair: [line.replace("could not", "may") for line in lines] for pair, lines in REFERENCES.items()}


def test_frontier_and_hypervolume_by_hand() -> None:
    """Three steps of width 1 and heights 3, 2, 1; a beaten point, a repeated one and order change nothing."""
    points = [(2.0, 2.0), (1.5, 1.5), (3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (1.0, 2.5)]
    assert pareto_frontier(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    assert hypervolume(points) == 6.0
    assert hypervolume([(2.0, 5.0)]) == 10.0


def two_students(run: Path, good: dict[str, set[str]]) -> Path:
    """A run of two students; each is right on its own pairs and worse on the others."""
    for name, pairs in good.items():
        student = curve_run(run / "students" / name, f"{run.name}.{name}", {"name": "pareto", "rule": "auto"})
        log = student / METRICS
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            if record["kind"] == "valid":
                record |= {f"alpha/{pair}": 0.1 + record["epoch"] / 40 for pair in SIZES}
                record["runtime/search_seconds"] = 1.0
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        evaluated(student, {pair: (REFERENCES if pair in pairs else WORSE)[pair] for pair in SIZES}, REFERENCES)
        path = report.report_path(student, "best", "test")
        evaluation = report.read_report(path)
        for pair, scores in evaluation["pairs"].items():
            scores["class"] = "high" if SIZES[pair] >= 900 else "low"
        report.write_report(path, evaluation)
    (run / RECIPE).write_text(yaml.safe_dump({"name": run.name}))
    return run


def log_search_share(run: Path, share: float) -> None:
    """Lets the run log a share of searching that grows to this."""
    for log in run.glob(f"students/*/{METRICS}"):
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            if record["kind"] == "valid":
                record["pareto/search_share"] = share * record["epoch"] / records[-1]["epoch"]
        log.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_students_of_a_run_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    auto = two_students(tmp_path / "auto", {"model_1": {"el-en", "ko-en"}, "model_2": {"bs-en", "hi-en"}})
    both = two_students(tmp_path / "bi", {"model_1": set(SIZES), "model_2": set()})
    runs = read_runs([student for run in (auto, both) for student in student_directories(run)])
    experiments = {experiment.name: experiment for experiment in find_experiments(runs)}
    worse = experiments["bi"].points[1].high
    assert [(point.high, point.low) for point in experiments["auto"].points] == [
        (pytest.approx(100.0), pytest.approx(worse)), (pytest.approx(worse), pytest.approx(100.0)),
    ]  # fmt: skip
    assert experiments["bi"].hypervolume == pytest.approx(1e4)
    assert experiments["auto"].hypervolume == pytest.approx(worse * 100 + (100 - worse) * worse)
    assert experiments["auto"].search_share == pytest.approx(2 * 20 / runs[0].seconds)
    log_search_share(both, 0.21)
    runs = read_runs(student_directories(both))
    assert find_experiments(runs)[0].search_share == pytest.approx(0.21)
    assert runs[0].pair_metrics["bs-en"]["alpha"][-1] == pytest.approx(0.6)
    assert main(["compare", str(auto), str(both), "-o", str(tmp_path / "out"), "--samples", "50"]) == 0
    out = capsys.readouterr().out
    assert "hypervolume" in out and "auto.model_2" in out and "10000.0" in out
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Pareto frontier" in page and "Distillation weights" in page

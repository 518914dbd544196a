"""Several students on wandb, seen in the files that wandb writes: a run each, comparable with those of one student."""

import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from mnmt_ds.tracking import Tracker, TrackingSettings, read_records, run_and_student_settings
from tests.spawn import on_ranks
from tests.tiny import recipe
from tests.wandb_files import wandb_runs


def test_a_student_has_the_figures_of_a_single_run(tmp_path: Path) -> None:
    """Two at once in one process; the group is the run's name, or the one that is given; a resumed one goes on."""
    for group in ("", "study"):
        settings = TrackingSettings(wandb="offline", wandb_runs="students", group=group)
        own, each = run_and_student_settings(settings, "pareto")
        assert own.wandb == "off" and each.group == (group or "pareto")
    assert run_and_student_settings(TrackingSettings(wandb="offline"), "pareto")[0].wandb == "offline"
    _, each = run_and_student_settings(TrackingSettings(wandb="offline", wandb_runs="students"), "pareto")
    for update in (5, 6):
        time.sleep(update - 5)  # directories are named by seconds
        trackers = {}
        for name in ("a", "b"):
            trackers[name] = Tracker(tmp_path / name, each, True, f"pareto.{name}")
            (tmp_path / name).mkdir(exist_ok=True)
            trackers[name].start_dashboards({"name": f"pareto.{name}"}, update - 5)
        for name, tracker in trackers.items():
            tracker.records = update - 5
            tracker.log("train", update, 0.5, {"train/loss": float(ord(name) + update)})
        for tracker in trackers.values():
            tracker.close()
    wandb.teardown()  # of several runs the last one's file is written behind its end, at the latest here
    for name in ("a", "b"):
        first, second = wandb_runs(tmp_path / name)
        assert (first.name, first.group, first.project) == (f"pareto.{name}", "pareto", "mnmt_ds")
        assert first.config["name"] == f"pareto.{name}" and first.id == second.id
        figures = [(row["update"], row["train/loss"], row["_step"]) for row in [*first.history, *second.history]]
        assert figures == [(5, ord(name) + 5.0, 1), (6, ord(name) + 6.0, 2)]
    assert wandb_runs(tmp_path / "a")[0].id != wandb_runs(tmp_path / "b")[0].id


def train(corpus: str, run: str, sections: dict[str, Any]) -> None:
    from mnmt_ds.engine import loop

    loop.train(recipe(Path(corpus), Path(run), **sections))
    wandb.teardown()  # ranks of tests end without what Python does at an end


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["together", "split"])
def test_students_and_a_single_run_are_comparable(placement: str, tiny_corpus: Path, tmp_path: Path) -> None:
    """The same keys and axes; every figure is that of the student's metrics.jsonl; the run itself has no third one."""
    tracking = {"wandb": "offline", "wandb_runs": "students", "log_every": 2}
    budget = {"train": {"max_steps": 4, "batches_per_update": 4}, "validation": {"every": 2}}
    sections = {**budget, "tracking": tracking, "method": {"name": "pareto"}, "placement": placement,
                "students": [{}, {}], "simultaneous": placement == "split"}  # fmt: skip
    on_ranks(2, train, str(tiny_corpus), str(tmp_path / "pareto"), sections)
    on_ranks(1, train, str(tiny_corpus), str(tmp_path / "plain"), {**budget, "tracking": tracking})
    [plain] = wandb_runs(tmp_path / "plain")
    assert plain.name == "plain" and plain.group == ""
    assert wandb_runs(tmp_path / "pareto") == []
    for name in ("model_1", "model_2"):
        directory = tmp_path / "pareto" / "students" / name
        [seen] = wandb_runs(directory)
        assert (seen.name, seen.group) == (f"pareto.{name}", "pareto")
        assert seen.config["train"]["seed"] != 0 and seen.config["run"]["parameters"] > 0
        keys = {key for row in plain.history for key in row if key.startswith(("train/loss", "valid/", "data/"))}
        assert keys and keys <= {key for row in seen.history for key in row}
        records = [record for record in read_records(directory / "metrics.jsonl") if "valid/avg/macro" in record]
        shown = [(row["update"], row["valid/avg/macro"]) for row in seen.history if "valid/avg/macro" in row]
        assert shown == [(record["update"], record["valid/avg/macro"]) for record in records] and len(shown) == 2

"""TensorBoard's event files, read by its own reader: what a killed run did beyond its checkpoint is hidden."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnmt_ds.tracking import Tracker, TrackingSettings


def tracker(run: Path, update: int) -> Tracker:
    made = Tracker(run, TrackingSettings(tensorboard=True), True, "run")
    made.start_dashboards({"train": {"lr": 0.1}}, update)
    return made


def test_figures_beyond_the_checkpoint_are_hidden(tmp_path: Path) -> None:
    killed = tracker(tmp_path, 0)
    for update in (10, 20, 30):
        killed.log("train", update, update / 10, {"train/loss": float(update)})
    resumed = tracker(tmp_path, 20)
    resumed.log("train", 30, 3.0, {"train/loss": 0.5})
    resumed.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("train/loss")] == [(10, 10.0), (20, 20.0), (30, 0.5)]


def test_many_pairs_are_histograms(tmp_path: Path) -> None:
    made = tracker(tmp_path, 0)
    made.log("valid", 10, 1.0, {f"valid/l{i:03}-en/loss": float(i) for i in range(250)})
    made.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert (
        shown.Tags()["histograms"] == ["valid/pairs/loss"]
        and shown.Histograms("valid/pairs/loss")[0].histogram_value.num == 250
    )
    assert shown.Tags()["scalars"] == ["epoch"]


def test_a_dashboard_that_fails_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    made = tracker(tmp_path, 0)
    made.log("train", 1, 0.1, {"train/loss": 1.0})
    assert made.dashboards == [] and made.records == 1
    assert caplog.text.count("WARNING") == 1 and "going on without it" in caplog.text

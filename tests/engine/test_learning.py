"""A tiny task is learned, through the whole of it: training, wandb offline, best checkpoints, offload, NaN."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnmt_ds.models.weights import load_model
from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import PAIRS, ROOT, recipe


def train(corpus: str, run: str, sections: dict[str, Any]) -> str:
    from mnmt_ds.engine import loop

    try:
        loop.train(recipe(Path(corpus), Path(run), **sections))
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_run_learns_and_leaves_what_people_look_at(tiny_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sections = {
        "method": {"name": "lssd"},
        "model": {"d_model": 64, "ffn": 128},
        "train": {"max_epochs": 14, "batches_per_update": 2, "lr": 8e-3},
        "tracking": {"wandb": "offline", "tensorboard": True, "log_every": 20},
    }
    assert on_ranks(2, train, str(tiny_corpus), str(run), sections) == ["", ""]
    valid = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "valid"]
    assert len(valid) == 14
    assert valid[-1]["valid/best/overall"] < valid[0]["valid/avg/macro"] - 0.5
    assert valid[-1]["valid/deficit"] >= 0
    for pair, size in PAIRS.items():
        assert valid[-1][f"data/{pair}/share"] == pytest.approx(size / sum(PAIRS.values()))
        assert valid[-1][f"data/{pair}/passes"] == pytest.approx(14)
        best = min(record[f"valid/{pair}/loss"] for record in valid)
        description = json.loads((run / f"best_{pair}" / "model.json").read_text())
        assert description["dev"][pair] == best
    model, about = load_model(run / "best")
    assert about["dev"].keys() == PAIRS.keys()
    assert sum(about["dev"].values()) / 3 == min(record["valid/avg/macro"] for record in valid)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert {p.name for p in (run / "snapshots").iterdir()} >= {str(about["update"])}
    assert list((run / "wandb").glob("offline-run-*")), "wandb wrote nothing"
    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("valid/avg/macro")] == [
        (record["update"], pytest.approx(record["valid/avg/macro"])) for record in valid
    ]
    text = shown.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "trained_parameters: " in text and f"torch: {version('torch')}" in text and "bs-en: 60" in text
    train_record = next(record for record in read_records(run / "metrics.jsonl") if record["kind"] == "train")
    assert {"train/loss", "train/nll_loss", "train/lr", "runtime/tokens_per_sec", "memory/cpu"} <= train_record.keys()


@pytest.mark.parametrize("name", [pytest.param("zero2_offload", marks=pytest.mark.slow), "zero3_offload"])
def test_offload_to_the_cpu_changes_nothing(tiny_corpus: Path, tmp_path: Path, name: str) -> None:
    losses = {}
    for config in ("zero1", name):
        sections = {"deepspeed": str(ROOT / "ds_configs" / f"{config}.json"), "train": {"max_steps": 6}}
        assert on_ranks(2, train, str(tiny_corpus), str(tmp_path / config), sections)[0] == ""
        records = read_records(tmp_path / config / "metrics.jsonl")
        losses[config] = [record["train/loss"] for record in records if record["kind"] == "train"]
    assert losses[name] == pytest.approx(losses["zero1"], rel=1e-5)


def test_bf16_trains_close_to_fp32(tiny_corpus: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        sections = {
            "method": {"name": "lssd"},
            "train": {"max_steps": 12, "precision": precision},
            "validation": {"every": 4},
        }
        assert on_ranks(1, train, str(tiny_corpus), str(tmp_path / precision), sections)[0] == ""
        records = read_records(tmp_path / precision / "metrics.jsonl")
        losses[precision] = [record["train/loss"] for record in records if record["kind"] == "train"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)


def test_a_loss_that_is_not_finite_stops_every_rank_before_it_is_applied(tiny_corpus: Path, tmp_path: Path) -> None:
    failures = on_ranks(2, _poisoned, str(tiny_corpus), str(tmp_path / "run"))
    for failure in failures:
        assert "update 3: the loss is not finite" in failure and "nothing was updated" in failure


def _poisoned(corpus: str, run: str) -> str:
    """The second rank's third update meets a NaN in its hidden states."""
    from mnmt_ds.distributed import rank
    from mnmt_ds.engine.parallel.zero_engine import ZeroEngine

    honest = ZeroEngine.forward_backward

    def poison(engine: Any, update: Any) -> Any:
        *others, metrics = honest(engine, update)
        if update.number == 3 and rank() == 1:
            metrics = {**metrics, "loss": metrics["loss"] * float("nan")}
        return [*others, metrics]

    ZeroEngine.forward_backward = poison  # type: ignore[method-assign]
    return train(corpus, run, {})

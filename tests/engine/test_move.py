"""A run goes on at another number of ranks or another ZeRO stage: same order, same losses, same teachers."""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.errors import UserError
from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

LEGS = {1: [(2, 1), (3, 2)], 3: [(2, 3), (1, 3)]}  # (ranks, ZeRO stage), leg after leg
STEPS = 8


def leg(corpus: str, run: str, stage: int, until: int) -> list[int]:
    """Trains on to an update; returns the sizes of the teachers' shards."""
    from mnmt_ds.engine.loop import Training, stopping, train_epochs

    training = Training(made(corpus, run, stage, until), resume=True)
    with stopping() as stop:
        train_epochs(training, stop)
    training.tracker.close()
    return [training.first.method.state["teachers"].pool.teachers.shard_storage.memory_bytes()]


def made(corpus: str, run: str, stage: int, until: int) -> Any:
    return recipe(
        Path(corpus),
        Path(run),
        deepspeed=zero(stage, run),
        method={"name": "lssd", "variant": "adaptive"},
        model={"dropout": 0.1},
        validation={"every": 3},
        train={"max_steps": until, "max_epochs": 9, "lr": 2e-2, "warmup_steps": 2, "batches_per_update": 6},
    )


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.slow] if family == 3 else []) for family in LEGS]
)
def test_a_run_moves_between_layouts(family: int, tiny_corpus: Path, tmp_path: Path) -> None:
    on_ranks(1, leg, str(tiny_corpus), str(tmp_path / "whole"), family, STEPS * 2)
    for number, (ranks, stage) in enumerate(LEGS[family]):
        on_ranks(ranks, leg, str(tiny_corpus), str(tmp_path / "moved"), stage, STEPS * (number + 1))
    whole, moved = (
        {
            (r["kind"], r["update"]): {k: v for k, v in r.items() if k.startswith(("train/", "valid/", "teacher/"))}
            for r in read_records(tmp_path / name / "metrics.jsonl")
            if r["kind"] in ("train", "valid")
        }
        for name in ("whole", "moved")
    )
    assert moved.keys() >= whole.keys()
    taught = 0
    for key, record in whole.items():
        for name, value in record.items():
            if name != "train/gnorm":
                assert moved[key][name] == pytest.approx(value, rel=5e-5, abs=1e-6), (key, name)
        taught += "train/kd_loss" in record
    assert taught > 2


def test_families_of_stages_keep_apart(tmp_path: Path) -> None:
    from mnmt_ds.distributed import ALONE
    from mnmt_ds.engine.checkpointing.checkpoint import JobLayout, load

    with pytest.raises(UserError, match=r"2 rank\(s\) at ZeRO-0, this is 1 rank\(s\) at ZeRO-2"):
        load(tmp_path, {}, JobLayout(2, 0), JobLayout(1, 2), lambda: ALONE)

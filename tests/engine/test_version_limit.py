"""A run whose pairs' bests are bounded: links, teachers and files agree, and it is resumed bit for bit."""

import os
from pathlib import Path
from typing import Any

from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import PAIRS, recipe, zero

UPDATES, HALF = 24, 11


def settings(corpus: str, directory: str, most: int, updates: int = UPDATES) -> Any:
    return recipe(
        Path(corpus), Path(directory), deepspeed=zero(2, directory), method={"name": "lssd", "variant": "adaptive"},
        validation={"every": 1, "max_best_versions": most}, model={"dropout": 0.1},
        train={"max_steps": updates, "max_epochs": 9, "lr": 0.04, "warmup_steps": 2},
    )  # fmt: skip


def train(run: Any, resume: bool = False) -> list[tuple[dict[str, int], set[int], set[int]]]:
    """Trains; after each validation the pairs' bests, the snapshots on disk, the teachers in memory."""
    from mnmt_ds.engine import validation_round
    from mnmt_ds.engine.loop import Training, stopping, train_epochs
    from mnmt_ds.engine.students import records

    seen = []
    keep = records.keep_weights

    def watched(*arguments: Any) -> None:
        keep(*arguments)
        bank = student.method.state["teachers"]
        bests = {pair: value.update for pair, value in student.best.pair.items() if value.is_set}
        assert bests == {pair: value.update for pair, value in bank.best.items() if value.is_set}
        there = {int(path.name) for path in (student.directory / "snapshots").iterdir()}
        assert all(
            os.readlink(student.directory / f"best_{pair}") == f"snapshots/{update}" for pair, update in bests.items()
        )
        seen.append((bests, there, set(bank.pool.teachers.shard_storage._in_memory)))

    training = Training(run, resume)
    student = training.first
    validation_round.records.keep_weights = watched  # type: ignore[attr-defined]
    try:
        with stopping() as stop:
            train_epochs(training, stop)
    finally:
        validation_round.records.keep_weights = keep  # type: ignore[attr-defined]
    training.close()
    if training.lock is not None:
        training.lock.close()
    return seen


def run_all(corpus: str, folder: str) -> dict[str, Any]:
    found = {}
    for most in (0, 2):
        found[f"{most}"] = train(settings(corpus, f"{folder}/{most}", most))
    train(settings(corpus, f"{folder}/again", 2, HALF))
    found["again"] = train(settings(corpus, f"{folder}/again", 2), resume=True)
    train(settings(corpus, f"{folder}/later", 0, HALF))
    found["later"] = train(settings(corpus, f"{folder}/later", 2), resume=True)
    return found


def test_bests_are_bounded(tiny_corpus: Path, tmp_path: Path) -> None:
    """Two models at most beside the overall best; teachers are the same ones; without a bound there are three."""
    first, second = on_ranks(2, run_all, str(tiny_corpus), str(tmp_path))
    assert first == second
    assert max(len(set(bests.values())) for bests, _, _ in first["0"]) == len(PAIRS) == 3
    for bests, there, taught in first["2"]:
        assert len(set(bests.values())) <= 2 and taught == set(bests.values()) <= there
    assert [(bests, taught) for bests, _, taught in first["2"][HALF:]] == [
        (bests, taught) for bests, _, taught in first["again"]
    ]
    assert any(len(set(bests.values())) == 3 for bests, _, _ in first["0"][:HALF])
    assert len(set(first["later"][-1][0].values())) <= 2
    for file in ("best/model.safetensors", "last/model.safetensors", "best_fr-en/model.safetensors"):
        assert (tmp_path / "2" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    values, again = (
        [{k: v for k, v in r.items() if k.startswith(("train/loss", "train/kd", "valid/", "teacher/"))}
         for r in read_records(tmp_path / name / "metrics.jsonl") if r["kind"] in ("train", "valid")]
        for name in ("2", "again")
    )  # fmt: skip
    assert values == again and any(record.get("train/kd_loss", 0) > 0 for record in values)

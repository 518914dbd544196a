"""Two hundred updates with the fused loss and with its definition: the same curve, but for rounding."""

from pathlib import Path

import pytest

from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import recipe

UPDATES = 200


def curve(corpus: str, directory: str, implementation: str, updates: int) -> list[float]:
    from mnmt_ds.engine.loop import train

    run_recipe = recipe(
        Path(corpus),
        Path(directory),
        method={"name": "lssd", "variant": "adaptive"},
        model={"dropout": 0.1},
        validation={"every": 2},
        train={
            "max_steps": updates,
            "max_epochs": 99,
            "lr": 5e-3,
            "warmup_steps": 20,
            "loss_implementation": implementation,
        },
    )
    train(run_recipe)
    records = [r for r in read_records(Path(directory) / "metrics.jsonl") if r["kind"] == "train"]
    assert sum("train/kd_loss" in record for record in records) > updates // 10
    return [record["train/loss"] for record in records]


@pytest.mark.slow
def test_curves_are_those_of_the_definition(tiny_corpus: Path, tmp_path: Path) -> None:
    results = {
        name: on_ranks(1, curve, str(tiny_corpus), str(tmp_path / name), name, UPDATES)[0]
        for name in ("cpu", "chunked", "reference")
    }
    for name in ("cpu", "chunked"):
        assert len(results[name]) == UPDATES
        apart = [abs(a - b) / b for a, b in zip(results[name], results["reference"], strict=True)]
        print(f"{name}: largest relative distance from the reference's loss {max(apart):.1e}")
        assert max(apart) < 1e-3  # rounding, and what two hundred updates make of it
        assert results[name][0] > 1.5 * min(results[name])

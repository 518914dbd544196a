"""One process, two ranks, and two ranks with accumulation see the same losses at ZeRO 0 to 3 (fp32, 1e-5)."""

from pathlib import Path

import pytest

from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import ROOT, recipe

METHODS = {
    "translation": {"name": "translation"},
    "lssd": {"name": "lssd", "variant": "adaptive"},
    "lssd_quiet_gate": {"name": "lssd", "variant": "selective", "gate_student": "eval"},
    "lssd_released": {"name": "lssd", "variant": "adaptive", "profile": "released", "teacher_vocabulary": "language"},
}


def run(corpus: str, directory: str, stage: int, method: dict[str, str]) -> list[dict[str, float]]:
    from mnmt_ds.engine.loop import train

    made = recipe(
        Path(corpus),
        Path(directory),
        deepspeed=str(ROOT / "ds_configs" / f"zero{stage}.json"),
        method=method,
        model={"dropout": 0.1},
        validation={"every": 5},
        train={"max_steps": 14, "lr": 2e-2, "warmup_steps": 2},
    )
    train(made)
    return read_records(Path(directory) / "metrics.jsonl")


def losses(records: list[dict[str, float]], key: str) -> list[float]:
    return [record[key] for record in records if key in record]


@pytest.fixture(scope="module")
def alone(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Each method on one process at ZeRO 0: four micro-batches an update, accumulated."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        name: on_ranks(1, run, str(tiny_corpus), str(folder / name), 0, method)[0] for name, method in METHODS.items()
    }


@pytest.mark.parametrize(("stage", "ranks"), [(0, 2), (1, 2), (2, 2), (3, 2), (0, 4), (3, 1)])
def test_lssd_losses_do_not_depend_on_the_layout(
    alone: dict[str, list[dict[str, float]]], tiny_corpus: Path, tmp_path: Path, stage: int, ranks: int
) -> None:
    """4 micro-batches an update: 1 rank accumulates 4, 2 ranks 2, 4 ranks none."""
    _compare(alone["lssd"], on_ranks(ranks, run, str(tiny_corpus), str(tmp_path / "run"), stage, METHODS["lssd"])[0])


@pytest.mark.parametrize("name", ["translation", "lssd_quiet_gate", "lssd_released"])
@pytest.mark.parametrize("stage", [1, 3])
def test_other_methods(
    alone: dict[str, list[dict[str, float]]], tiny_corpus: Path, tmp_path: Path, name: str, stage: int
) -> None:
    _compare(alone[name], on_ranks(2, run, str(tiny_corpus), str(tmp_path / "run"), stage, METHODS[name])[0])


def _compare(expected: list[dict[str, float]], found: list[dict[str, float]]) -> None:
    for key in ("train/loss", "train/nll_loss", "train/kd_loss", "train/kd_gate", "valid/avg/macro", "valid/fr-en/nll"):
        assert losses(found, key) == pytest.approx(losses(expected, key), rel=1e-5, abs=1e-5), key
    assert len(losses(found, "train/loss")) == 14
    assert len(losses(found, "valid/avg/macro")) == 2


def test_lssd_did_distil(alone: dict[str, list[dict[str, float]]]) -> None:
    """The comparison above means something: in these runs switches were on."""
    for name in ("lssd", "lssd_quiet_gate", "lssd_released"):
        assert losses(alone[name], "train/kd_loss"), name
    assert not losses(alone["translation"], "train/kd_loss")

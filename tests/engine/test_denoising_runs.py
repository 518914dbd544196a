"""Runs that mix translation with denoising: the same losses on every layout, and a resume that leaves no trace."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

PASSES = {"name": "intra_distillation", "passes": 2}
RUNS: dict[str, dict[str, Any]] = {
    "id_cd": {  # ID(LSSD) for translation, ID(CD) beside it, a projection of its own
        "method": {
            "name": "by_task",
            "divisor": "task",
            "tasks": {
                "translation": {**PASSES, "base": {"name": "lssd"}},
                "cd": {**PASSES, "alpha": 2.0, "base": {"name": "denoising"}},
            },
        },
        "denoising": {"tasks": [{"name": "cd"}], "unit": "block", "block_tokens": 30},
        "model": {"dropout": 0.1, "encoder_projection": "own"},
    },
    "dae_mlm": {
        "profile": "released",
        "method": {
            "name": "by_task",
            "tasks": {
                "translation": {"name": "translation"},
                "dae": {"name": "denoising"},
                "mlm": {"name": "denoising"},
            },
            "weights": {"mlm": 0.5},
        },
        "denoising": {"tasks": [{"name": "dae"}, {"name": "mlm"}], "ratio": 0.5},
    },
}
KEYS = {
    "id_cd": ("train/loss", "train/kd_loss", "train/id_loss", "train/cd_encoder_loss", "train/cd_decoder_id_loss"),
    "dae_mlm": ("train/loss", "train/nll_loss", "train/dae_decoder_loss", "train/mlm_encoder_loss"),
}
CASES = {1: [("id_cd", 0), ("dae_mlm", 0)], 2: [*(("id_cd", stage) for stage in range(1, 4)), ("dae_mlm", 2)]}
Records = list[dict[str, float]]


def settings(corpus: str, directory: str, name: str, stage: int, updates: int) -> Any:
    return recipe(
        Path(corpus),
        Path(directory),
        deepspeed=zero(stage, directory),
        framing={"encoder_langtok_position": "end"},
        validation={"every": 2},
        train={"max_steps": updates, "lr": 4e-2, "warmup_steps": 2, "save_every": 4},
        **RUNS[name],
    )


def run_all(corpus: str, directory: str, cases: list[tuple[str, int]]) -> dict[tuple[str, int], Records]:
    from mnmt_ds.engine.loop import train

    results = {}
    for name, stage in cases:
        run = f"{directory}/{name}{stage}"
        train(settings(corpus, run, name, stage, 8))
        results[name, stage] = read_records(Path(run) / "metrics.jsonl")
    if ("id_cd", 1) in cases:  # the same run, stopped after 6 updates and resumed from the fourth's checkpoint
        run = f"{directory}/resumed"
        train(settings(corpus, run, "id_cd", 1, 6))
        train(settings(corpus, run, "id_cd", 1, 8), resume=True)
    return results


@pytest.fixture(scope="module")
def runs(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("denoising")
    results: dict[str, Any] = {"folder": folder}
    for ranks, cases in CASES.items():
        results[str(ranks)] = on_ranks(ranks, run_all, str(tiny_corpus), str(folder / str(ranks)), cases)[0]
    return results


def values(records: Records, key: str) -> list[float]:
    return [record[key] for record in records if key in record]


@pytest.mark.parametrize("case", CASES[2], ids=lambda case: "-".join(map(str, case)))
def test_losses_do_not_depend_on_the_layout(runs: dict[str, Any], case: tuple[str, int]) -> None:
    for key in (*KEYS[case[0]], "valid/avg/macro"):
        alone = values(runs["1"][case[0], 0], key)
        assert alone, key
        assert values(runs["2"][case], key) == pytest.approx(alone, rel=2e-5, abs=2e-5), key


def test_resumed_is_bit_identical(runs: dict[str, Any]) -> None:
    whole, resumed = (
        load_file(runs["folder"] / "2" / name / "last" / "model.safetensors") for name in ("id_cd1", "resumed")
    )
    assert "encoder_projection.weight" in whole
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_every_update_has_both_tasks(runs: dict[str, Any]) -> None:
    records = [record for record in runs["1"]["id_cd", 0] if record["kind"] == "train"]
    assert len(records) == 8
    assert all(
        {"train/cd_encoder_loss", "train/cd_decoder_loss", "train/nll_loss"} <= record.keys() for record in records
    )

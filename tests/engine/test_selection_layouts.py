"""Selection by scores and averages of the best checkpoints along stages, with adapters, of students, in studies."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.models.weights import read_weights
from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import PAIRS, recipe, zero

SELECTION = {"bleu_every": 1, "bleu_sentences": 6, "bleu_beam": 1, "select_by": "chrf", "average_k": 2}
LORA = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj", "fc2"]}
STUDENTS = [{"sampler": {"temperature": 1}}, {"sampler": {"temperature": 5}}]
UNI = {"name": "pareto", "rule": "uni"}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "stages": (2, {"pipeline": {"stages": 2}}),
    "staged_adapters": (2, {"pipeline": {"stages": 2}, "model": {"lora": LORA}}),
    "staged_students": (2, {"pipeline": {"stages": 2}, "method": UNI, "students": STUDENTS}),
    "students": (2, {"method": {"name": "pareto", "rule": "bi"}, "students": STUDENTS}),
    "adapters": (1, {"model": {"lora": LORA}}),
    "frozen": (1, {"model": {"freeze": {"embeddings": True, "encoder_layers": 1}}}),
    "adapters_of_students": (
        1, {"model": {"lora": LORA}, "method": UNI, "students": STUDENTS},
    ),
}  # fmt: skip
"""Ranks and what is special."""


def train_cases(corpus: str, folder: str, names: list[str]) -> None:
    from mnmt_ds.engine.loop import train

    for name in names:
        train(_recipe(Path(corpus), Path(folder) / name, CASES[name][1]))


def _recipe(corpus: Path, run: Path, special: dict[str, Any]) -> Any:
    shape = {"encoder_layers": 2, "decoder_layers": 2, **special.get("model", {})}
    train = {"max_epochs": 4, "batches_per_update": 2, "lr": 8e-3}
    return recipe(
        corpus, run, **{**special, "model": shape, "train": train, "validation": SELECTION, "deepspeed": zero(1, run)}
    )


@pytest.fixture(scope="module")
def runs(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for ranks in (1, 2):
        names = [name for name, (count, _) in CASES.items() if count == ranks]
        on_ranks(ranks, train_cases, str(tiny_corpus), str(folder), names)
    return folder


def check_selection(run: Path) -> None:
    """``best`` is of the best mean chrF, ``average`` the mean of the two best; pairs go by their losses."""
    valid = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "valid"]
    assert len(valid) == 4
    scored = sorted((-record["valid/avg/chrf"], record["update"]) for record in valid)
    assert os.readlink(run / "best") == f"snapshots/{scored[0][1]}"
    chosen = {"average": scored[:2]}
    for pair in PAIRS:
        losses = sorted((record[f"valid/{pair}/loss"], record["update"]) for record in valid)
        assert os.readlink(run / f"best_{pair}") == f"snapshots/{losses[0][1]}"
        chosen[f"average_{pair}"] = losses[:2]
    for name, values in chosen.items():
        one, two = (open_translator(run / "snapshots" / str(update)).model.state_dict() for _, update in values)
        mean = open_translator(run / name).model.state_dict()
        assert mean.keys() == one.keys() and read_weights(run / name)
        for key, value in mean.items():
            torch.testing.assert_close(value, (one[key].float() + two[key].float()) / 2, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_selection_and_averages_on_every_layout(runs: Path, name: str) -> None:
    run = runs / name
    for student in sorted(run.glob("students/*")) or [run]:
        check_selection(student)


@pytest.mark.slow
def test_rows_of_a_study_select_and_average(tiny_corpus: Path, tmp_path: Path) -> None:
    base = dump(_recipe(tiny_corpus, tmp_path / "run", {}))
    (tmp_path / "base.yaml").write_text(base)
    study = {
        "directory": str(tmp_path / "runs"), "recipe": "base.yaml", "prepare": False, "cap": {"max_epochs": 4},
        "rows": {
            "plain": {}, "adapters": {"set": {"model": {"lora": LORA}}},
            "students": {"set": {"method": UNI, "students": STUDENTS}},
        },
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    assert main(["study", str(tmp_path / "study.yaml"), "-j", "1"]) == 0
    directories = {path.parent for path in (tmp_path / "runs").glob("**/average/model.json")}
    directories = {path.parent for path in directories}
    assert len(directories) == 4, directories
    for directory in directories:
        check_selection(directory)
        report = json.loads((directory / "evaluation" / "best.test.json").read_text())
        assert set(report["pairs"]) == set(PAIRS)

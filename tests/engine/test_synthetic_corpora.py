"""Runs on corpora with synthetic text: planned like any other, and resumed bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.models.weights import describe_model
from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import WORDS, recipe, zero


def write_corpus(folder: Path, share: float | None, tag: str = "<bt>") -> dict[str, Any]:
    """The ``data`` section of a pair with real and synthetic text, prepared."""
    for name, count, shift in (("real", 120, 0), ("made", 90, 3)):
        rows = []
        for number in range(count):
            first, step = number * 7 + number // 9, shift + 3
            words = [WORDS[(first + place * step) % len(WORDS)] for place in range(3 + number % 6)]
            rows.append(" ".join(f"{word[::-1]}bo" for word in words) + "\t" + " ".join(words) + f" {name}")
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    synthetic = {"tag": tag} | ({"share": share} if share else {})
    entries = [
        {"format": "tsv", "path": str(folder / "real.tsv")},
        {"format": "tsv", "path": str(folder / "made.tsv"), "synthetic": synthetic},
    ]
    data = {
        "directory": str(folder / "data"), "pairs": ["bs-en"], "corpora": {"bs-en": {"train": entries}},
        "clean": {"min_script": 0.0}, "split": {"dev": 8, "test": 8}, "tokenizer": {"size": 100, "hard_limit": False},
    }  # fmt: skip
    prepare(DataSettings.model_validate(data), processes=1)
    return data


def _recipe(data: dict[str, Any], run: Path, steps: int) -> Any:
    return recipe(
        Path(data["directory"]), run, data=data, deepspeed=zero(1, run), validation={"every": 3},
        train={"max_steps": steps, "max_epochs": 9, "save_every": 2, "lr": 1e-2, "max_tokens": 96},
    )  # fmt: skip


def train_legs(data: dict[str, Any], run: str, legs: list[int]) -> str:
    from mnmt_ds.engine.loop import train
    from mnmt_ds.errors import UserError

    try:
        for steps in legs:
            train(_recipe(data, Path(run), steps), resume=True)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_run_on_synthetic_text_resumes_bit_for_bit(tmp_path: Path) -> None:
    data = write_corpus(tmp_path, 0.3)
    for name, legs in (("whole", [14]), ("cut", [5, 14])):
        assert on_ranks(1, train_legs, data, str(tmp_path / name), legs) == [""]
    digests = [describe_model(tmp_path / name / "last")["sha256"] for name in ("whole", "cut")]
    assert digests[0] == digests[1]
    losses = [
        [record["train/loss"] for record in read_records(tmp_path / name / "metrics.jsonl") if "train/loss" in record]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]
    other = write_corpus(tmp_path, 0.1)
    (message,) = on_ranks(1, train_legs, other, str(tmp_path / "cut"), [16])
    assert str(tmp_path / "data") in message and "other" in message, message


@pytest.mark.slow
def test_a_recipe_with_synthetic_text_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the sentences that its shares leave."""
    path, sizes = tmp_path / "recipe.yaml", {}
    for share in (0.3, 0.1):
        data = write_corpus(tmp_path, share)
        path.write_text(dump(_recipe(data, tmp_path / "run", 10)))
        assert yaml.safe_load(path.read_text())["data"]["corpora"]["bs-en"]["train"][1]["synthetic"]["share"] == share
        capsys.readouterr()
        assert main(["plan", str(path), "--devices", "1", "--memory", "8", "--no-probe"]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bs-en ")]
        sizes[share] = int(row.split()[1])
        assert sizes[share] == Corpus.open(data["directory"]).manifest["pairs"]["bs-en"]["splits"]["train"]["sentences"]
    assert sizes[0.3] > sizes[0.1]

"""Reckoned against measured memory: real runs, one process a rank, their peak resident bytes from their own logs."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mnmt_ds.config import dump
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.distributed import free_port
from mnmt_ds.planning.plan import make
from mnmt_ds.tracking import read_records
from tests.tiny import ROOT, recipe

PAIRS = ("bs-en", "fr-en")
MEDIUM = dict(d_model=384, ffn=1536, heads=6, encoder_layers=3, decoder_layers=3)
WIDE = dict(d_model=512, ffn=2048, heads=8, encoder_layers=3, decoder_layers=3)
DEEP = dict(d_model=256, ffn=1024, heads=4, encoder_layers=6, decoder_layers=6)


class Case(NamedTuple):
    """A run to be measured."""

    config: str
    ranks: int
    model: dict[str, Any]
    max_tokens: int
    method: str = "translation"
    stages: int = 1
    """Of a pipeline; each has as many micro-batches an update as there are ranks."""


CASES = [
    Case("zero0", 1, MEDIUM, 1024),
    Case("zero0", 2, MEDIUM, 512),
    Case("zero1", 1, WIDE, 512),
    Case("zero1", 2, MEDIUM, 1024),
    Case("zero2", 1, DEEP, 2048),
    Case("zero2", 2, MEDIUM, 512),
    Case("zero3", 1, MEDIUM, 512),
    Case("zero3", 2, MEDIUM, 1024),
    Case("zero1", 1, MEDIUM, 1024, "lssd"),
    Case("zero2", 2, MEDIUM, 1024, "lssd"),
    Case("zero1", 2, DEEP, 1024, stages=2),
    Case("zero1", 2, WIDE, 512, "lssd", stages=2),
    Case("zero0", 2, MEDIUM, 1024, stages=2),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of longer sentences and a thousand pieces."""
    directory, maker = tmp_path_factory.mktemp("words"), random.Random(3)
    lexicon = [
        "".join(maker.choice("bdfgklmnprstvz") + maker.choice("aeiou") for _ in range(maker.randint(1, 3)))
        for _ in range(1500)
    ]
    corpora: dict[str, Any] = {}
    for pair in PAIRS:
        rows = [[maker.choice(lexicon) for _ in range(maker.randint(4, 30))] for _ in range(700)]
        text = "".join(f"{' '.join(w[::-1] for w in row)}\t{' '.join(row)}\n" for row in rows)
        (directory / f"{pair}.tsv").write_text(text)
        corpora[pair] = {"train": [{"format": "tsv", "path": str(directory / f"{pair}.tsv")}]}
    settings = DataSettings.model_validate(
        {
            "directory": str(directory / "data"),
            "pairs": list(PAIRS),
            "corpora": corpora,
            "clean": {"min_script": 0.0},
            "split": {"dev": 20, "test": 20},
            "tokenizer": {"size": 1000, "hard_limit": False},
        }
    )
    prepare(settings, processes=1)
    return directory / "data"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.method}-{c.config}-{c.ranks}-{c.max_tokens}-{c.stages}")
def test_reckoned_memory_is_within_a_tenth_of_what_a_run_takes(
    case: Case, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lssd = case.method == "lssd"
    made = recipe(
        words,
        tmp_path / "run",
        data={"pairs": list(PAIRS)},
        method={"name": case.method},
        model=case.model,
        train={
            "max_tokens": case.max_tokens, "batches_per_update": case.ranks, "max_steps": 10, "warmup_steps": 1,
            "lr": 3e-2 if lssd else 2e-3,
        },
        validation={"every": 2 if lssd else 5},
        pipeline={"stages": case.stages, "balance": "parameters"} if case.stages > 1 else None,
        deepspeed=str(ROOT / "ds_configs" / f"{case.config}.json"),
    )  # fmt: skip
    path = tmp_path / "r.yaml"
    path.write_text(dump(made), encoding="utf-8")
    plan = make(made, path, [], case.ranks, gpu=False, measure=True, calibrate=False)
    for number, (measured, memory) in enumerate(zip(peaks(path, tmp_path / "run", case), plan.memories, strict=True)):
        reckoned, base = memory.device, memory.base
        with capsys.disabled():
            own = (reckoned - base) / (measured - base) - 1
            place = f" (stage {number} of {case.stages})" if case.stages > 1 else ""
            print(
                f"\n| {case.method}{place} | {plan.stages[number].parameters / 1e6:.1f}M | {case.config} |"
                f" {case.ranks} | {case.max_tokens:,} |"
                f" {base / 2**20:.0f} | {reckoned / 2**20:.0f} | {measured / 2**20:.0f} |"
                f" {reckoned / measured - 1:+.1%} | {own:+.1%} |"
            )
        assert reckoned == pytest.approx(measured, rel=0.1), number
    if lssd:
        records = read_records(tmp_path / "run" / "metrics.jsonl")
        assert any(record.get("train/kd_loss", 0) > 0 for record in records), "no teacher taught"


def peaks(path: Path, run: Path, case: Case) -> list[float]:
    """Bytes at the last record: the first rank's, or each stage's."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(case.ranks), "--master_port"]
    command += [str(free_port()), str(ROOT / "launchers" / "train.py"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    keys = [f"memory/cpu/stage_{number}" for number in range(case.stages)] if case.stages > 1 else ["memory/cpu"]
    records = [record for record in read_records(run / "metrics.jsonl") if keys[0] in record]
    return [max(float(record[key]) for record in records) for key in keys]

"""Planned against measured memory: real runs, one process a rank, their peak resident bytes from their own logs."""

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
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.planning.plan import make_plan
from mnmt_ds.tracking import read_records
from tests.tiny import ROOT, recipe

PAIRS = ("bs-en", "fr-en")
MEDIUM = dict(d_model=384, ffn=1536, heads=6, encoder_layers=3, decoder_layers=3)
WIDE = dict(d_model=512, ffn=2048, heads=8, encoder_layers=3, decoder_layers=3)
DEEP = dict(d_model=256, ffn=1024, heads=4, encoder_layers=6, decoder_layers=6)
SHALLOW = dict(d_model=512, ffn=1024, heads=8, encoder_layers=2, decoder_layers=2)
SEARCH = {"rule": "auto", "initial": 0.3, "trials": {"rho": 0.2}}
METHODS: dict[str, dict[str, Any]] = {
    "translation": {"name": "translation"},
    "lssd": {"name": "lssd"},
    "bi": {"name": "pareto", "rule": "bi"},
    "auto": {"name": "pareto", **SEARCH},
    "auto around lssd": {"name": "pareto", **SEARCH, "base": {"name": "lssd"}},
}


class Case(NamedTuple):
    """A run to be measured."""

    config: str
    ranks: int
    model: dict[str, Any]
    max_tokens: int
    method: str = "translation"
    stages: int = 1
    """Of a pipeline; each has as many micro-batches an update as there are ranks."""
    vocabulary: int = 1
    """Ranks that share one, of six thousand pieces."""
    placement: str = ""
    """Of two students; empty: there is one."""


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
    Case("zero1", 2, SHALLOW, 512, vocabulary=2),
    Case("zero0", 4, SHALLOW, 512, vocabulary=2),
    Case("zero1", 2, SHALLOW, 1024, "lssd", vocabulary=2),
    Case("zero1", 4, SHALLOW, 512, stages=2, vocabulary=2),
    Case("zero1", 2, MEDIUM, 512, "bi", placement="split"),
    Case("zero0", 2, MEDIUM, 1024, "auto", placement="split"),
    Case("zero2", 4, MEDIUM, 512, "auto", placement="split"),
    Case("zero3", 2, MEDIUM, 512, "auto around lssd", placement="split"),
    Case("zero1", 1, MEDIUM, 512, "auto", placement="together"),
    Case("zero2", 2, MEDIUM, 1024, "bi", placement="together"),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of longer sentences and a thousand pieces."""
    return corpus(tmp_path_factory.mktemp("words"), 1500, 700, 1000)


@pytest.fixture(scope="module")
def many_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of six thousand pieces."""
    return corpus(tmp_path_factory.mktemp("many_words"), 9000, 2500, 6000)


def corpus(directory: Path, words: int, sentences: int, pieces: int) -> Path:
    """Made-up sentences of a lexicon of made-up words, prepared."""
    maker = random.Random(3)
    lexicon = [
        "".join(maker.choice("bdfgklmnprstvz") + maker.choice("aeiou") for _ in range(maker.randint(1, 3)))
        for _ in range(words)
    ]
    corpora: dict[str, Any] = {}
    for pair in PAIRS:
        rows = [[maker.choice(lexicon) for _ in range(maker.randint(4, 30))] for _ in range(sentences)]
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
            "tokenizer": {"size": pieces, "hard_limit": False},
        }
    )
    prepare(settings, processes=1)
    return directory / "data"


def recipe_of(case: Case, data: Path, run: Path) -> Recipe:
    """Its recipe: ten updates, of which teachers teach the later ones, with searches at validations."""
    has_teachers = "lssd" in case.method
    two_students = {"students": [{"sampler": {"temperature": t}} for t in (1, 5)], "placement": case.placement}
    return recipe(
        data,
        run,
        data={"pairs": list(PAIRS)},
        method=METHODS[case.method],
        model=case.model,
        train={
            "max_tokens": case.max_tokens, "batches_per_update": case.ranks, "max_steps": 10, "warmup_steps": 1,
            "lr": 3e-2 if has_teachers else 2e-3,
        },
        validation={"every": 2 if has_teachers else 5},
        pipeline={"stages": case.stages, "balance": "parameters"} if case.stages > 1 else None,
        tensor={"vocabulary": case.vocabulary} if case.vocabulary > 1 else None,
        deepspeed=str(ROOT / "ds_configs" / f"{case.config}.json"),
        **(two_students if case.placement else {}),
    )  # fmt: skip


def name(case: Case) -> str:
    """Method and layout."""
    parts = [f"{case.stages}st"] * (case.stages > 1) + [f"{case.vocabulary}voc"] * (case.vocabulary > 1)
    return "-".join([case.method.replace(" ", "_"), case.config, str(case.ranks), str(case.max_tokens), *parts,
                     *([case.placement] if case.placement else [])])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name)
def test_planned_memory_is_within_a_tenth_of_what_a_run_takes(
    case: Case, words: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each stage; of split students, of the one whose first rank takes most."""
    data = request.getfixturevalue("many_words") if case.vocabulary > 1 else words
    run_recipe, path = recipe_of(case, data, tmp_path / "run"), tmp_path / "r.yaml"
    path.write_text(dump(run_recipe), encoding="utf-8")
    plan = make_plan(run_recipe, path, [], case.ranks, gpu=False, measure=True, calibrate=False)
    measured = peaks(path, tmp_path / "run", case)
    for number, (measured_peak, memory) in enumerate(zip(measured, plan.memories, strict=True)):
        planned, base, stage = memory.device, memory.base, plan.stages[number]
        with capsys.disabled():
            error_without_base = (planned - base) / (measured_peak - base) - 1
            layout_text = f", stage {number} of {case.stages}" if case.stages > 1 else ""
            layout_text += f", vocabulary over {case.vocabulary}" if case.vocabulary > 1 else ""
            layout_text += f", students {case.placement}" if case.placement else ""
            print(
                f"\n| {case.method}{layout_text} | {stage.parameters / 1e6:.1f}M | {case.config} |"
                f" {case.ranks} | {case.max_tokens:,} |"
                f" {base / 2**20:.0f} | {planned / 2**20:.0f} | {measured_peak / 2**20:.0f} |"
                f" {planned / measured_peak - 1:+.1%} | {error_without_base:+.1%} |"
            )
        assert planned == pytest.approx(measured_peak, rel=0.1), number
    records = [record for file in logs(tmp_path / "run", case) for record in read_records(file)]
    if "lssd" in case.method:
        assert any(record.get("train/kd_loss", 0) > 0 for record in records), "no teacher taught"
    if case.placement:
        assert any(record.get("train/peer_loss", 0) > 0 for record in records), "no student taught"
    if "auto" in case.method:
        assert any(record.get("runtime/search_seconds", 0) > 0.1 for record in records), "nothing was searched"


def peaks(path: Path, run: Path, case: Case) -> list[float]:
    """Bytes at the last record: the first rank's, each stage's, or those of the first rank of the largest student."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(case.ranks), "--master_port"]
    command += [str(free_port()), str(ROOT / "launchers" / "train.py"), str(path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    keys = [f"memory/cpu/stage_{number}" for number in range(case.stages)] if case.stages > 1 else ["memory/cpu"]
    records = [record for file in logs(run, case) for record in read_records(file) if keys[0] in record]
    return [max(float(record[key]) for record in records) for key in keys]


def logs(run: Path, case: Case) -> list[Path]:
    """The run's records, or its students'."""
    return sorted(run.glob("students/*/metrics.jsonl")) if case.placement else [run / "metrics.jsonl"]

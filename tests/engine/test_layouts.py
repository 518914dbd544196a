"""One process, two ranks, and ranks with accumulation see the same losses at ZeRO 0 to 3 (fp32, 1e-5)."""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

METHODS: dict[str, dict[str, Any]] = {
    "translation": {"name": "translation"},
    "lssd": {"name": "lssd", "variant": "adaptive"},
    "lssd_quiet_gate": {"name": "lssd", "variant": "selective", "gate_student": "eval"},
    "lssd_released": {"name": "lssd", "variant": "adaptive", "profile": "released", "teacher_vocabulary": "language"},
    "id_lssd": {"name": "intra_distillation", "base": {"name": "lssd", "variant": "adaptive"}},
}
LAYOUTS = {  # by number of ranks: 4 micro-batches an update, so that 1 rank accumulates 4, 2 ranks 2, 4 ranks none
    2: [
        *(("lssd", stage) for stage in range(4)),
        ("id_lssd", 2),
        ("translation", 1),
        ("lssd_quiet_gate", 3),
        ("lssd_released", 3),
    ],
    1: [("lssd", 1), ("lssd", 3)],
    4: [("lssd", 0)],
}  # fmt: skip
CASES = [(ranks, *case) for ranks, cases in LAYOUTS.items() for case in cases]
Records = list[dict[str, float]]


def run_all(corpus: str, directory: str, cases: list[tuple[str, int]]) -> list[Records]:
    """Trains every (method, stage) one after another on these ranks."""
    return [run(corpus, f"{directory}/{method}{stage}", method, stage) for method, stage in cases]


def run(corpus: str, directory: str, method: str, stage: int) -> Records:
    from mnmt_ds.engine.loop import train

    made = recipe(
        Path(corpus),
        Path(directory),
        deepspeed=zero(stage, directory),
        method=METHODS[method],
        model={"dropout": 0.1},
        validation={"every": 2},
        train={"max_steps": 14, "lr": 4e-2, "warmup_steps": 2},
    )
    train(made)
    return read_records(Path(directory) / "metrics.jsonl")


@pytest.fixture(scope="module")
def alone(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Records]:
    """Each method on one process at ZeRO 0."""
    folder = tmp_path_factory.mktemp("alone")
    runs = on_ranks(1, run_all, str(tiny_corpus), str(folder), [(method, 0) for method in METHODS])[0]
    return dict(zip(METHODS, runs, strict=True))


@pytest.fixture(scope="module")
def spread(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, int], Records]:
    """Every case of LAYOUTS, as rank 0 logged it."""
    found = {}
    for ranks, cases in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        runs = on_ranks(ranks, run_all, str(tiny_corpus), str(folder), cases)[0]
        found |= {(ranks, *case): records for case, records in zip(cases, runs, strict=True)}
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize(
    "key", ["train/loss", "train/nll_loss", "train/kd_loss", "train/kd_gate", "train/id_loss", "valid/avg/macro"]
)
def test_losses_do_not_depend_on_the_layout(
    alone: dict[str, Records], spread: dict[tuple[int, str, int], Records], case: tuple[int, str, int], key: str
) -> None:
    assert losses(spread[case], key) == pytest.approx(losses(alone[case[1]], key), rel=1e-5, abs=1e-5)


def test_lssd_did_distil(alone: dict[str, Records]) -> None:
    """The comparison above means something: all updates were taken, and in LSSD's runs switches were on."""
    for name, records in alone.items():
        assert len(losses(records, "train/loss")) == 14
        assert len(losses(records, "valid/avg/macro")) == 7
        assert bool(losses(records, "train/kd_loss")) == (name != "translation"), name
        assert bool(losses(records, "train/id_loss")) == name.startswith("id"), name


def losses(records: Records, key: str) -> list[float]:
    return [record[key] for record in records if key in record]

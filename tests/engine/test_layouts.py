"""One process, two ranks, and ranks with accumulation see the same numbers at ZeRO 0 to 3 (fp32, 1e-5).

Variants of LSSD at many layouts; every method by itself, at fewer, is in tests/contracts.
"""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.tracking import read_records
from tests.contracts import checks
from tests.contracts.runs import Outcome, Record
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

VARIANTS: dict[str, dict[str, Any]] = {
    "adaptive": {"name": "lssd", "variant": "adaptive"},
    "eval_gate": {"name": "lssd", "variant": "selective", "gate_student": "eval"},
    "released": {
        "name": "lssd",
        "variant": "adaptive",
        "profile": "released",
        "gate_level": "token",
        "teacher_vocabulary": "language",
    },
    "two_passes": {"name": "intra_distillation", "base": {"name": "lssd", "variant": "adaptive"}},
}
KEYS = ("train/loss", "train/nll_loss", "train/kd_loss", "train/kd_gate", "valid/avg/macro")
"""What every variant logs; ``two_passes`` has train/id_loss, too."""
LAYOUTS = {  # by number of ranks: 4 micro-batches an update, so that 1 rank accumulates 4, 2 ranks 2, 4 ranks none
    2: [*(("adaptive", stage) for stage in range(4)), ("two_passes", 2), ("eval_gate", 3), ("released", 3)],
    1: [("adaptive", 0), ("adaptive", 3)],
    4: [("adaptive", 0)],
}
CASES = [(ranks, *case) for ranks, cases in LAYOUTS.items() for case in cases]
UPDATES = 14


def run_all(corpus: str, directory: str, cases: list[tuple[str, int]]) -> list[list[Record]]:
    """Trains every (variant, stage) one after another on these ranks."""
    return [run(corpus, f"{directory}/{variant}{stage}", variant, stage) for variant, stage in cases]


def run(corpus: str, directory: str, variant: str, stage: int) -> list[Record]:
    """Trains a variant at a ZeRO stage; what it logged."""
    from mnmt_ds.engine.loop import train

    made = recipe(
        Path(corpus),
        Path(directory),
        deepspeed=zero(stage, directory),
        method=VARIANTS[variant],
        model={"dropout": 0.1},
        validation={"every": 2},
        train={"max_steps": UPDATES, "lr": 4e-2, "warmup_steps": 2},
    )
    train(made)
    return read_records(Path(directory) / "metrics.jsonl")


@pytest.fixture(scope="module")
def alone(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    """Each variant on one process at ZeRO 1, where DeepSpeed tells the gradient's norm."""
    folder = tmp_path_factory.mktemp("alone")
    runs = on_ranks(1, run_all, str(tiny_corpus), str(folder), [(variant, 1) for variant in VARIANTS])[0]
    return dict(zip(VARIANTS, runs, strict=True))


@pytest.fixture(scope="module")
def spread(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, int], list[Record]]:
    """Every case of LAYOUTS, as rank 0 logged it."""
    results = {}
    for ranks, cases in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        runs = on_ranks(ranks, run_all, str(tiny_corpus), str(folder), cases)[0]
        results |= {(ranks, *case): records for case, records in zip(cases, runs, strict=True)}
    return results


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_losses_do_not_depend_on_the_layout(
    alone: dict[str, list[Record]], spread: dict[tuple[int, str, int], list[Record]], case: tuple[int, str, int]
) -> None:
    checks.same_on_layouts(Outcome(alone[case[1]]), Outcome(spread[case]))


def test_every_variant_did_distil(alone: dict[str, list[Record]]) -> None:
    """The comparison above means something: all updates were taken, switches were on, every key has values."""
    for variant, records in alone.items():
        values = {key: [record[key] for record in records if key in record] for key in (*KEYS, "train/id_loss")}
        assert len(values["train/loss"]) == UPDATES
        assert len(values["valid/avg/macro"]) == UPDATES // 2
        assert all(values[key] for key in KEYS), (variant, {key: len(values[key]) for key in KEYS})
        assert bool(values["train/id_loss"]) == (variant == "two_passes")

"""A run goes on with other settings: what has effect, what is said, what begins anew, what is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.errors import UserError
from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import ROOT, recipe, zero

LSSD = {"name": "lssd", "variant": "adaptive", "teachers": {"memory_gib": 1}}
Leg = dict[str, Any]


def made(corpus: str, run: str, stage: int | str, leg: Leg) -> Any:
    """A recipe of the run with a leg's settings; ``stage`` of ZeRO, or the name of a DeepSpeed configuration."""
    base: dict[str, Any] = {
        "method": LSSD,
        "validation": {"every": 3},
        "train": {"lr": 2e-2, "warmup_steps": 2, "max_epochs": 9, "save_every": 1},
    }
    sections = {**base, **{name: {**base.get(name, {}), **values} for name, values in leg.items()}}
    config = zero(stage, run) if isinstance(stage, int) else str(ROOT / "ds_configs" / stage)
    return recipe(Path(corpus), Path(run), deepspeed=config, **sections)


def train_legs(corpus: str, run: str, legs: list[tuple[int | str, Leg]]) -> list[list[str]]:
    """Trains leg after leg; the lines of each, or its refusal."""
    from mnmt_ds.engine.loop import train

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mnmt_ds").addHandler(handler)
    logging.getLogger("mnmt_ds").setLevel(logging.INFO)
    said = []
    for stage, leg in legs:
        try:
            train(made(corpus, run, stage, leg), resume=True)
        except UserError as error:
            lines.append(f"refused: {error}")
        said.append(list(lines))
        lines.clear()
    return said


def state(run: Path) -> dict[str, Any]:
    return checkpoint.read_state(checkpoint.complete(run)[0])


def test_legs_of_one_run(tiny_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    legs: list[Leg] = [
        {"train": {"max_steps": 7}},
        {"train": {"max_steps": 9, "seed": 5}, "model": {"d_model": 64}},
        {"train": {"max_steps": 8, "label_smoothing": 0.6, "patience": 3}},
        {"train": {"max_steps": 0, "max_epochs": 1, "max_tokens": 400, "label_smoothing": 0.6},
         "method": {"alpha": 0.3, "teachers": {"cache": "off"}}, "validation": {"every": 0}},
    ]  # fmt: skip
    legs.append({**legs[-1], "validation": {"every": 0, "average_k": 2}})  # once it has ended
    first, refused, anew, larger, averages = on_ranks(
        1, train_legs, str(tiny_corpus), str(run), [(1, leg) for leg in legs]
    )[0]
    assert "starting from the beginning" in " ".join(first)
    assert "model.d_model: 32 -> 64: the weights" in refused[-1] and "train.seed: 1 -> 5: dropout" in refused[-1]
    assert "train.label_smoothing: 0.1 -> 0.6: dev losses have other units; bests and patience begin anew" in anew
    assert "train.max_steps: 7 -> 8: from here on" in anew
    for line in (
        "train.max_tokens: 96 -> 400: from here on",
        "method.teachers.cache: auto -> 'off': from here on",
        "validation.every: 3 -> 0: from here on",
    ):
        assert line in larger
    assert any("sentences that are left of it are batched anew" in line for line in larger)
    assert any("average, average_" in line and "fewer than two checkpoints" in line for line in averages), averages
    records = read_records(run / "metrics.jsonl")
    changed = [record["changed"] for record in records if record["kind"] == "run" and "changed" in record]
    assert [sorted(names)[-2:] for names in changed] == [
        ["train.max_steps", "train.patience"], ["train.patience", "validation.every"], ["validation.average_k"],
    ]  # fmt: skip
    assert changed[0]["train.label_smoothing"] == [0.1, 0.6]
    last = state(run)
    assert sum(last["trained"]) == 420 and last["position"]["epoch"] == 1
    best = last["best"]["overall"]
    assert best[1] == last["update"] > 8, "the first validation in the new unit is the best"
    assert best[0] > min(record["valid/avg/macro"] for record in records if record["kind"] == "valid"), (
        "the units differ"
    )
    assert {teacher["version"] for teacher in last["method"]["teachers"].values()} == {last["update"]}


def options_after(corpus: str, run: str, stage: int | str, leg: Leg) -> list[Any]:
    """Goes on; what the optimizer then has for options."""
    from mnmt_ds.engine.loop import Training

    training = Training(made(corpus, run, stage, leg), resume=True)
    engine = training.first.engine.deepspeed_engine  # type: ignore[attr-defined]
    group = engine.optimizer.param_groups[0]
    # in fp32 at ZeRO 0 our own code clips, and DeepSpeed does not
    clip = getattr(engine.optimizer, "clip_grad", engine.gradient_clipping()) or training.first.engine._clip_norm  # type: ignore[attr-defined]
    values = [list(group["betas"]), group["eps"], group["weight_decay"], clip, training.update]
    training.close()
    training.lock.close() if training.lock is not None else None
    return values


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages", [(0, 0), (1, 1), (2, 2), (3, 3), (1, 2), (2, "zero2_offload.json"), (3, "zero3_offload.json")], ids=str
)
def test_options_of_the_optimizer_are_the_recipes(
    stages: tuple[int | str, int | str], tiny_corpus: Path, tmp_path: Path
) -> None:
    """DeepSpeed restores the checkpoint's; ranks and accumulation differ, too, and offloading may begin."""
    run, (before, after) = str(tmp_path / "run"), stages
    on_ranks(1, train_legs, str(tiny_corpus), run, [(before, {"train": {"max_steps": 3}})])
    leg = {
        "train": {"adam_betas": [0.8, 0.9], "adam_eps": 1e-3, "weight_decay": 0.1, "clip_norm": 0.5,
                  "batches_per_update": 6, "max_steps": 5},
    }  # fmt: skip
    for ranks in (1, 2):
        values = on_ranks(ranks, options_after, str(tiny_corpus), run, after, leg)[0]
        assert values == [[0.8, 0.9], 1e-3, 0.1, 0.5, 3]
    (said,) = on_ranks(2, train_legs, str(tiny_corpus), run, [(after, leg)])[0]
    assert not [line for line in said if line.startswith("refused")]
    assert state(Path(run))["update"] == 5

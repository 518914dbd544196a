"""A checkpoint is written before each validation: a crash in one loses nothing, and it is made up for exactly once."""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.tracking import read_records
from tests.contracts.checks import same_after_resume
from tests.spawn import on_ranks
from tests.tiny import recipe

LAST = 7
CRASHES = {
    "in the dev losses": ("mnmt_ds.engine.validation_round:validate", 2),
    "as weights are kept": ("mnmt_ds.engine.checkpointing.snapshots:link", 2),
    "after it": ("mnmt_ds.engine.checkpointing.checkpoint:replace_state", 2),
    "at the end": ("mnmt_ds.engine.checkpointing.checkpoint:replace_state", 3),
}
"""Functions that fail, and at which call: in the second validation, or in the third, which is the run's end."""


def made(corpus: str, run: Path, steps: int = LAST) -> Any:
    return recipe(
        Path(corpus),
        run,
        method={"name": "lssd", "variant": "adaptive"},
        validation={"every": 3},
        train={"max_steps": steps, "lr": 2e-2, "warmup_steps": 2, "keep_checkpoints": 9},
    )


def trainings(corpus: str, folder: str, crashes: list[str]) -> None:
    """A run without a pause, one for each crash, and one that was meant to be shorter."""
    import importlib

    from mnmt_ds.engine.loop import train

    train(made(corpus, Path(folder) / "whole"))
    for name in crashes:
        place, number = CRASHES[name]
        module, function = place.split(":")
        holder, left = importlib.import_module(module), [number]
        honest = getattr(holder, function)

        def failing(*arguments: Any, honest: Any = honest, left: Any = left) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return honest(*arguments)

        run = made(corpus, Path(folder) / name)
        setattr(holder, function, failing)
        try:
            with pytest.raises(KeyboardInterrupt):
                train(run)
        finally:
            setattr(holder, function, honest)
        train(run, resume=True)
        train(run, resume=True)  # nothing is left to do
    for steps in (5, LAST):
        train(made(corpus, Path(folder) / "longer", steps), resume=steps == LAST)
        if steps == 5:
            assert [
                r["update"] for r in read_records(Path(folder) / "longer" / "metrics.jsonl") if r["kind"] == "valid"
            ] == [3, 5]
            assert (Path(folder) / "longer" / "best").resolve().exists()


@pytest.mark.parametrize("crashes", [["in the dev losses"], pytest.param([*CRASHES][1:], marks=pytest.mark.slow)])
def test_crashes_in_validations(crashes: list[str], tiny_corpus: Path, tmp_path: Path) -> None:
    on_ranks(1, trainings, str(tiny_corpus), str(tmp_path), crashes)
    whole = tmp_path / "whole"
    records = read_records(whole / "metrics.jsonl")
    assert [record["update"] for record in records if record["kind"] == "valid"] == [3, 6, LAST]
    assert [path.name for path in checkpoint.complete(whole)] == ["step_7", "step_6", "step_3"]
    lowest = min((r for r in records if r["kind"] == "valid"), key=lambda record: record["valid/avg/macro"])
    assert (whole / "best").resolve().name == str(lowest["update"])
    for name in (*crashes, "longer"):
        same_after_resume(whole, tmp_path / name)
        links = {path.name: path.resolve().name for path in whole.iterdir() if path.is_symlink()}
        assert links == {path.name: path.resolve().name for path in (tmp_path / name).iterdir() if path.is_symlink()}

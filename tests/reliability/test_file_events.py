"""At every file event of a save: killed there, the disk full from there on, that one event failing. Nothing is lost."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.checks import same_after_resume
from tests.reliability.file_events import MODES, build, die, going_wrong, is_dead, preloaded, struck
from tests.spawn import on_ranks
from tests.tiny import ROOT, recipe, zero


def test_every_file_event_of_a_save(tmp_path: Path) -> None:
    """The small form: one process, a stand-in for the training state."""
    with preloaded(build(tmp_path)):
        done = subprocess.run(
            [sys.executable, "-m", "tests.reliability.events_of_a_save", str(tmp_path)],
            cwd=ROOT, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts.keys() == MODES.keys() and min(counts.values()) > 40, counts


LAYOUTS = {"ZeRO 1": (1, 0), "ZeRO 2": (2, 0), "ZeRO 3": (3, 0), "pipeline": (1, 2)}
"""ZeRO stage and pipeline stages, on two ranks."""
LAST, WRONG_AT, BEFORE = 6, 4, 2
"""Updates of the run; of the save that goes wrong; of the save before it."""
RESUMED, SAVED_AGAIN = 20, 10
"""Of so many cases one is resumed to the end of the run; after one the next save is tried."""


def made(corpus: str, run: Path, stage: int, stages: int) -> Any:
    sections: dict[str, Any] = {"pipeline": {"stages": stages, "balance": "parameters"}} if stages else {}
    return recipe(
        Path(corpus), run, deepspeed=zero(stage, run.parent / "run"),
        method={"name": "lssd", "variant": "adaptive"}, validation={"every": 2},
        train={"max_steps": LAST, "lr": 2e-2, "warmup_steps": 2, "batches_per_update": 4}, **sections,
    )  # fmt: skip


def all_events(corpus: str, folder: str, stage: int, stages: int) -> dict[str, Any]:
    """On each rank: a run as it should be; one with a save that first goes wrong in every way; those resumed."""
    from mnmt_ds.engine.loop import train
    from mnmt_ds.engine.training import Training

    home, honest = Path(folder), Training.save
    train(made(corpus, home / "whole", stage, stages))
    cases: dict[str, Any] = {}

    def save(training: Training) -> None:
        if training.update == WRONG_AT:
            cases.update(every_case(training, honest, home))
        honest(training)

    Training.save = save  # type: ignore[method-assign]
    train(made(corpus, home / "run", stage, stages))
    Training.save = honest  # type: ignore[method-assign]
    for name in cases["sampled"]:
        train(made(corpus, home / name, stage, stages), resume=True)
    return cases


def every_case(training: Any, honest: Callable[[Any], None], home: Path) -> dict[str, Any]:
    """Saves with each file event of each rank going wrong in each way; checks the disk each time."""
    from mnmt_ds import private_apis
    from mnmt_ds.distributed import job_ranks

    ranks, run, before = job_ranks(), home / "run", home / "before"
    original, counts, sampled = private_apis.save_checkpoint, dict.fromkeys(MODES, 0), []

    def write(*arguments: Any) -> Any:
        """Where ranks meet next, they learn that one was killed: nothing of theirs reaches the disk either."""
        share_death(ranks)
        error = original(*arguments)
        share_death(ranks)
        return error

    ranks.on_main_first(replace_contents, run, before)
    private_apis.save_checkpoint = write
    for rank, mode in itertools.product(range(ranks.size), MODES):
        for number in itertools.count(1):
            ranks.on_main_first(replace_contents, before, run)
            said, came = "", False
            with going_wrong(run, number if ranks.rank == rank else 0, mode):
                try:
                    honest(training)
                    training.replace_state(training.state())
                except Exception as error:
                    said = str(error)
                came = any(ranks.gather(struck()))
            if not came:
                break
            case = f"{mode} at event {number} of rank {rank}"
            counts[mode] += 1
            lines = set(ranks.gather(said))
            if mode == "killed" and number % RESUMED == 0:
                sampled.append(f"resumed-{rank}-{number}")
                ranks.on_main_first(shutil.copytree, run, home / sampled[-1], True)
            ranks.on_main_first(check, run, case, lines if mode != "killed" else None)
            if number % SAVED_AGAIN == 0:
                honest(training)
                ranks.on_main_first(check, run, case + ", then saved", {""})
    private_apis.save_checkpoint = original
    ranks.on_main_first(replace_contents, before, run)
    return {"counts": counts, "sampled": sampled}


def share_death(ranks: Any) -> None:
    if any(ranks.gather(is_dead())):
        die()


def replace_contents(source: Path, target: Path) -> None:
    """Makes a run's directory what it was; its lock stays the one that is held."""
    target.mkdir(exist_ok=True)
    for path in target.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in source.iterdir():
        if path.is_symlink():
            (target / path.name).symlink_to(os.readlink(path))
        elif path.is_dir():
            shutil.copytree(path, target / path.name, symlinks=True)
        elif path.name != "lock":
            shutil.copy2(path, target / path.name)


def check(run: Path, case: str, said: set[str] | None) -> None:
    """The newest good checkpoint is the old one or the new one; an error is one line, the same on all ranks.

    Args:
        run: its directory.
        case: for messages.
        said: of all ranks; None: of killed ones.
    """
    from mnmt_ds.distributed import ALONE
    from mnmt_ds.engine.checkpointing import checkpoint
    from mnmt_ds.engine.checkpointing.verification import fault_of

    newest = checkpoint.newest(run, lambda line: None, ALONE)
    assert newest is not None and newest[1]["update"] in (BEFORE, WRONG_AT), case
    if said is not None:
        assert len(said) == 1, (case, said)
        (line,) = said
        assert not line or (line.startswith(f"{run}/") and "\n" not in line), (case, line)
        assert line or newest[1]["update"] == WRONG_AT, case
    assert newest[1]["update"] == WRONG_AT or fault_of(run / "checkpoints" / f"step_{BEFORE}") is None
    for name in ("best", "best_bs-en"):
        assert (run / name / "model.safetensors").exists(), (case, name)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_event_on_two_ranks(layout: str, tiny_corpus: Path, tmp_path: Path) -> None:
    """Real engines; a sample is resumed and ends, bit for bit, as the run that nothing disturbed."""
    with preloaded(build(tmp_path)):
        cases, *_ = on_ranks(2, all_events, str(tiny_corpus), str(tmp_path), *LAYOUTS[layout])
    for name in ("run", *cases["sampled"]):
        same_after_resume(tmp_path / "whole", tmp_path / name)
    print(f"{layout}: {cases['counts']}, {len(cases['sampled'])} resumed to the end")
    assert min(cases["counts"].values()) > 60 and len(cases["sampled"]) > 2

"""Runs killed at random moments end, bit for bit, as the run that nothing disturbed.

A study's runs are killed in ``tests/study/test_study.py``; the everyday form is in ``tests/engine/test_resume.py``.
``RANDOM_KILLS`` is the number of runs of each layout (10), ``KILL_SEED`` where their moments are drawn from.
"""

import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.distributed import free_port
from tests.contracts.checks import same_after_resume
from tests.spawn import PATIENCE
from tests.tiny import recipe, zero

LSSD: dict[str, Any] = {"name": "lssd", "variant": "adaptive", "teachers": {"cache": "ram"}}
PARETO: dict[str, Any] = {
    "method": {"name": "pareto", "rule": "auto", "trials": {"rho": 0.2}},
    "students": [{"sampler": {"temperature": 1}}, {"sampler": {"temperature": 5}}],
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"stage": 0, "method": LSSD},
    "ZeRO 1": {"stage": 1, "method": LSSD},
    "ZeRO 2": {"stage": 2, "method": LSSD},
    "ZeRO 3": {"stage": 3, "method": LSSD},
    "pipeline": {"stage": 1, "method": LSSD, "pipeline": {"stages": 2, "balance": "parameters"}},
    "split students": {"stage": 1, **PARETO, "placement": "split"},
}
RANKS, LONGEST = 2, 600.0 * PATIENCE


def made(corpus: Path, run: Path, stage: int, **sections: Any) -> Any:
    base: dict[str, Any] = {
        "model": {"dropout": 0.1},
        "validation": {"every": 5},
        "train": {"max_steps": 14, "lr": 2e-2, "warmup_steps": 2, "save_every": 3, "batches_per_update": 4},
    }
    return recipe(corpus, run, deepspeed=zero(stage, run), **{**base, **sections})


class Job:
    """Two ranks, forked from a process that has imported all they need."""

    def __init__(self, made_recipe: Any, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.reliability.test_random_kills", "mnmt_ds.engine.loop", "deepspeed"])
        port = free_port()
        self.ranks = [
            context.Process(target=train_rank, args=(rank, port, made_recipe, str(log))) for rank in range(RANKS)
        ]
        for process in self.ranks:
            process.start()

    def wait(self, seconds: float) -> bool:
        """Waits for the end, at most so long; whether it has come."""
        end = time.monotonic() + seconds
        for process in self.ranks:
            process.join(max(0.0, end - time.monotonic()))
        return all(process.exitcode is not None for process in self.ranks)

    def kill(self) -> None:
        """SIGKILL to all ranks, as close together as the system does it."""
        for process in self.ranks:
            process.kill()
        for process in self.ranks:
            process.join()


def train_rank(rank: int, port: int, made_recipe: Any, log: str) -> None:
    """Trains as a rank of a job; goes on where the run has begun."""
    import sys

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    import torch

    torch.set_num_threads(1)
    from mnmt_ds.distributed import job
    from mnmt_ds.engine.loop import train
    from mnmt_ds.log import set_up

    set_up()
    with job(timeout_minutes=5):
        train(made_recipe, resume=True)
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_random_moments(layout: str, tiny_corpus: Path, tmp_path: Path) -> None:
    runs, seed = int(os.environ.get("RANDOM_KILLS", "10")), os.environ.get("KILL_SEED", str(time.time_ns()))
    draw, whole = random.Random(f"{seed}/{layout}"), tmp_path / "whole"
    length, kills, late = 0.0, 0, 0
    for run in (tmp_path / "first", whole):  # the first may compile
        began = time.monotonic()
        job = Job(made(tiny_corpus, run, **LAYOUTS[layout]), run.with_suffix(".log"))
        assert job.wait(LONGEST), run.with_suffix(".log").read_text()
        length = time.monotonic() - began
    for number in range(runs):
        run, log = tmp_path / f"run-{number}", tmp_path / f"run-{number}.log"
        made_recipe = made(tiny_corpus, run, **LAYOUTS[layout])
        for _ in range(draw.choice((1, 1, 2))):
            job = Job(made_recipe, log)
            late += job.wait(draw.uniform(0.1, 0.95) * length)
            job.kill()
            kills += 1
        job = Job(made_recipe, log)
        assert job.wait(LONGEST), (seed, log.read_text())
        assert all(process.exitcode == 0 for process in job.ranks), (seed, log.read_text())
        same_after_resume(whole, run)
    print(f"{layout}: {runs} runs, {kills} kills ({late} after the end), seed {seed}")
    assert late < kills

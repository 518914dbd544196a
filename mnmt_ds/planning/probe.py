"""What cannot be counted is measured, in a process of its own: bytes of the process itself, and tokens a second."""

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mnmt_ds import metric_keys
from mnmt_ds.engine.recipe import Recipe, load_recipe
from mnmt_ds.errors import UserError
from mnmt_ds.run_files import METRICS

MARK = "probed: "
"""Begins the line by which the child process reports."""
MINIMAL_MODEL = (
    "model.preset=tiny", "model.d_model=16", "model.ffn=16", "model.heads=1", "model.encoder_layers=1",
    "model.decoder_layers=1",
)  # fmt: skip
"""A model whose own bytes hardly count beside the process's."""
ONE_RANK = (
    "tracking.wandb=off", "tracking.log_every=1", "validation.every=0", "train.save_every=0", "train.patience=0",
    "pipeline=null", "placement=together",
)  # fmt: skip
"""Settings of a run on one rank that keeps nothing."""


class ProbeResult(NamedTuple):
    """Memory and speed that were measured in a few updates on one rank."""

    peak: int
    """Peak bytes: of the process on a CPU, of its tensors on a GPU."""
    tokens_per_second: float
    """Target tokens of all students; median over updates, the first left out."""


def run_probe(recipe_path: Path, overrides: Sequence[str], updates: int) -> ProbeResult:
    """Trains some updates in a child process; no file of it stays.

    Args:
        recipe_path: the recipe's file.
        overrides: settings that replace the file's.
        updates: how many to train.

    Returns:
        Its peak memory and speed.

    Raises:
        UserError: when it fails, with its last line.
    """
    has_vocabulary_shards = load_recipe(recipe_path, overrides).tensor is not None
    with tempfile.TemporaryDirectory() as directory:
        settings = [*overrides, *ONE_RANK, f"directory={directory}/run", f"train.max_steps={updates}"]
        settings += ["tensor.vocabulary=1"] if has_vocabulary_shards else []
        command = [sys.executable, "-m", "mnmt_ds.cli.main", "plan", str(recipe_path), *settings, "--probe"]
        process = subprocess.run(command, capture_output=True, text=True)
    line = next((line for line in process.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        last_line = (process.stderr.strip() or process.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"{recipe_path}: a trial of {updates} updates failed: {last_line}")
    return ProbeResult(**json.loads(line.removeprefix(MARK)))


def train_and_report(recipe: Recipe) -> str:
    """Trains in the child process.

    Args:
        recipe: the recipe with all overrides.

    Returns:
        The line that the parent process reads.
    """
    from mnmt_ds.distributed import job
    from mnmt_ds.engine import loop
    from mnmt_ds.engine.monitoring.meter import memory
    from mnmt_ds.tracking import read_records

    if recipe.tensor is not None:
        importlib.import_module("megatron.core.parallel_state")  # whose code is most of 200 MiB of the real run's ranks
    with job():
        loop.train(recipe)
    speed_of_update: dict[int, float] = defaultdict(float)
    for record in read_records(recipe.directory / METRICS):  # of several students one each, under its name
        speed_of_update[record["update"]] += sum(
            v for key, v in record.items() if key.endswith(metric_keys.TOKENS_PER_SEC)
        )
    speeds = [speed for speed in speed_of_update.values() if speed]
    used = memory()
    peak = int(used.get(metric_keys.MEMORY_GPU, used[metric_keys.MEMORY_CPU]))
    return MARK + json.dumps(ProbeResult(peak, statistics.median(speeds[1:] or speeds))._asdict())

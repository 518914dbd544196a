"""A run's directory: one run at a time in it, its recipe and DeepSpeed configuration beside its results."""

import fcntl
import json
from pathlib import Path
from typing import IO, Any

from mnmt_ds.config import dump
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError

STARTED = "metrics.jsonl"


def claim(directory: Path) -> IO[str]:
    """Locks a run's directory for this process; held until the file is closed or the process ends."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{directory}: another run is at work here; wait for it, or set another directory") from None
    return lock


def refuse_used(directory: Path) -> None:
    """UserError where the directory holds a run already."""
    if (directory / STARTED).exists():
        raise UserError(f"{directory}: holds a run already; add --resume to go on with it, or set another directory")


def describe(directory: Path, recipe: Recipe, ds_config: dict[str, Any]) -> None:
    """Writes the resolved recipe and DeepSpeed JSON beside the results."""
    (directory / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    (directory / "ds_config.json").write_text(json.dumps(ds_config, indent=2), encoding="utf-8")

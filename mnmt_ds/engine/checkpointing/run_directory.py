"""A run's directory: one run at a time in it, its recipe and DeepSpeed configuration beside its results."""

from pathlib import Path
from typing import IO, Any

from mnmt_ds import files
from mnmt_ds.config import dump
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError
from mnmt_ds.run_files import LOCK, METRICS, write_recipe


def claim(directory: Path) -> IO[str]:
    """Locks a run's directory for this process.

    Args:
        directory: of the run; it is made where it is missing.

    Returns:
        The lock; held until it is closed or the process ends.

    Raises:
        UserError: where another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return files.lock(directory / LOCK)
    except BlockingIOError:
        raise UserError(f"{directory}: another run is at work here; wait for it, or set another directory") from None


def refuse_used(directory: Path) -> None:
    """Checks that a directory holds no run yet.

    Args:
        directory: of the run.

    Raises:
        UserError: where it does.
    """
    if (directory / METRICS).exists():
        raise UserError(f"{directory}: holds a run already; add --resume to go on with it, or set another directory")


def describe(directory: Path, recipe: Recipe, ds_config: dict[str, Any]) -> None:
    """Writes the resolved recipe and DeepSpeed JSON beside the results.

    Args:
        directory: of the run or of one of its students.
        recipe: resolved.
        ds_config: without "auto".
    """
    write_recipe(directory, dump(recipe))
    files.write_json(directory / "ds_config.json", ds_config, indent=2)

"""What of a run is done: told from its own files, so that a study may be killed at any moment and started again."""

import json
import os
from pathlib import Path
from typing import Any

from mnmt_ds.engine.checkpointing.checkpoint import readable_states, student_state
from mnmt_ds.engine.dataloading.position import updates_of
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.report import report_path
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from mnmt_ds.reporting.run_settings import flatten_settings
from mnmt_ds.reporting.runs import student_directories
from mnmt_ds.run_files import read_recipe
from mnmt_ds.study.plan import TrainingJob

MARK = "study.json"
"""In a run's directory: the recipe that it was trained by to the end, and the options that it was evaluated with."""
BUDGET = ("train.max_epochs", "train.max_steps", "train.patience")
"""What may grow when a study goes on."""
FREE = ("directory", "tracking", "deepspeed", "train.workers", "train.timeout_minutes", "train.keep_checkpoints")
"""What may differ between a run's beginning and its end."""


def is_trained(job: TrainingJob) -> bool:
    """Says whether the run was trained to the end by just this recipe; a setting that came later had its default then.

    Args:
        job: the run.

    Returns:
        True where nothing is left to train.
    """
    recipe = read_mark(job.directory).get("recipe")
    if recipe is None:
        return False
    try:
        return recipe_values(Recipe.model_validate(recipe)) == recipe_values(job.recipe)
    except ValueError:  # written by another version
        return False


def is_evaluated(job: TrainingJob, options: str) -> bool:
    """Says whether the run's test sets were translated since it was trained.

    Args:
        job: the run.
        options: of ``mnmt-ds evaluate``; other options want another evaluation.

    Returns:
        True where nothing is left to evaluate.
    """
    reports = [report_path(place, "best", "test") for place in student_directories(job.directory)]
    return read_mark(job.directory).get("evaluate") == options and all(path.exists() for path in reports)


def has_ended(run: Path) -> bool:
    """Says whether training ended by its own budget: the newest checkpoint is of the update that was kept as ``last``.

    Args:
        run: the run's directory.

    Returns:
        False also where there is no checkpoint.
    """
    newest = next(readable_states(run), None)
    if newest is None:
        return False
    parts = [student_state(newest, place.name) for place in student_directories(run)]
    return all(part["last"] == updates_of(part["position"]) for part in parts)


def check_same_run(job: TrainingJob) -> None:
    """Refuses a directory that holds a run by another recipe, or one of a larger budget.

    Args:
        job: the run that the study wants there.

    Raises:
        UserError: names the setting that differs, with both values.
    """
    written = flatten_settings(_resolved(read_recipe(job.directory)))
    wanted = flatten_settings(recipe_values(job.recipe))
    if not written:
        return
    for key in [key for key in wanted if key not in written]:
        written[key] = wanted[key]  # a setting that came later
    differing = [key for key in sorted({*written, *wanted}) if written.get(key) != wanted.get(key)]
    differing = [
        key for key in differing if key not in BUDGET and not any(key == f or key.startswith(f + ".") for f in FREE)
    ]
    if differing:
        first = differing[0]
        raise UserError(
            f"{job.directory}: begun with {first} {written.get(first)!r}, the study says {wanted.get(first)!r};"
            " move that run away, or name the row anew"
        )
    for key in BUDGET[:2]:
        before, now = (float(values.get(key) or "inf") for values in (written, wanted))
        if now < before:
            raise UserError(
                f"{job.directory}: begun with {key} {written[key]}, the study says {wanted[key]};"
                " a run can be continued, not shortened: raise the cap, or move that run away"
            )


def _resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    """A run's recipe with all that an older version left to be decided later; as it is where it is not known here."""
    try:
        return recipe_values(Recipe.model_validate(recipe)) if recipe else {}
    except ValueError:
        return recipe


def write_mark(run: Path, **facts: Any) -> None:
    """Adds to what the run's mark says.

    Args:
        run: the run's directory.
        facts: JSON values by name; those that stand there already are replaced.
    """
    write_checked_json(run / MARK, {**read_mark(run), **facts})


def read_mark(run: Path) -> dict[str, Any]:
    """Reads the run's mark.

    Args:
        run: the run's directory.

    Returns:
        Its values; empty where there is no mark that can be read.
    """
    try:
        return read_checked_json(run / MARK)
    except (OSError, ValueError):
        return {}


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Turns a recipe into JSON values.

    Args:
        recipe: the recipe.

    Returns:
        Plain values by section.
    """
    return json.loads(json.dumps(recipe.model_dump(mode="json")))


def clear_mark(run: Path) -> None:
    """Removes the run's mark: the run is about to change.

    Args:
        run: the run's directory.
    """
    if (run / MARK).exists():
        os.unlink(run / MARK)

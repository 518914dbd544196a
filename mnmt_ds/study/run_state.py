"""What of a run is done: told from its own files, so that a study may be killed at any moment and started again."""

import json
import math
import os
from pathlib import Path
from typing import Any

from mnmt_ds.config import format_value
from mnmt_ds.engine.checkpointing.checkpoint import readable_states, student_state
from mnmt_ds.engine.checkpointing.resume_changes import ResumeChange, recipe_changes
from mnmt_ds.engine.checkpointing.resume_classes import ResumeClass
from mnmt_ds.engine.dataloading.position import updates_of
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import FaultList, UserError
from mnmt_ds.evaluation.report import report_path
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from mnmt_ds.reporting.runs import student_directories
from mnmt_ds.run_files import read_recipe
from mnmt_ds.study.plan import TrainingJob

MARK = "study.json"
"""In a run's directory: the recipe that it was trained by to the end, and the options that it was evaluated with."""


def is_trained(job: TrainingJob) -> bool:
    """Returns whether the run was trained to the end as this recipe says; a setting that came later had its default.

    Args:
        job: the run.

    Returns:
        True where nothing is left to train.
    """
    before = _recipe_of(read_mark(job.directory).get("recipe"))
    return before is not None and not _changes(before, job)


def is_evaluated(job: TrainingJob, options: str) -> bool:
    """Returns whether the run's test sets were translated since it was trained.

    Args:
        job: the run.
        options: of ``mnmt-ds evaluate``; other options want another evaluation.

    Returns:
        True where nothing is left to evaluate.
    """
    reports = [
        report_path(student_directory, "best", "test") for student_directory in student_directories(job.directory)
    ]
    return read_mark(job.directory).get("evaluate") == options and all(path.exists() for path in reports)


def has_ended(run: Path) -> bool:
    """Returns whether training ended by its own budget: the newest checkpoint is of the update kept as ``last``.

    Args:
        run: the run's directory.

    Returns:
        False also where there is no checkpoint.
    """
    newest = next(readable_states(run), None)
    if newest is None:
        return False
    states = [student_state(newest, student_directory.name) for student_directory in student_directories(run)]
    return all(state["last"] == updates_of(state["position"]) for state in states)


def check_same_run(job: TrainingJob) -> None:
    """Refuses a directory that holds a run by another recipe, or one of a larger budget.

    Args:
        job: the run that the study wants there.

    Raises:
        UserError: names every setting that differs, with both values.
    """
    written = read_recipe(job.directory)
    if not written:
        return
    before = _recipe_of(written)
    if before is None:
        raise UserError(f"{job.directory}: begun by a recipe that this version does not take; move that run away")
    FaultList(
        f"{job.directory}: begun with {change.name} {format_value(change.before)}, the study says"
        f" {format_value(change.now)}; move that run away, or name the row anew"
        for change in _changes(before, job)
        if change.kind is not ResumeClass.BUDGET
    ).raise_any()
    for key in ("max_epochs", "max_steps"):
        was, now = (getattr(recipe.train, key) for recipe in (before, job.recipe))
        if (now or math.inf) < (was or math.inf):
            raise UserError(
                f"{job.directory}: begun with train.{key} {was}, the study says {now};"
                " a run can be continued, not shortened: raise the cap, or move that run away"
            )


def _changes(before: Recipe, job: TrainingJob) -> list[ResumeChange]:
    """What the study has otherwise than a run of it, but for what no result depends on."""
    return [change for change in recipe_changes(before, job.recipe) if change.kind is not ResumeClass.NO_EFFECT]


def _recipe_of(values: Any) -> Recipe | None:
    """A recipe as a run wrote it, with all that an older version left to be decided later; None where it is no recipe
    of this version.
    """
    try:
        return Recipe.model_validate(values) if values else None
    except ValueError:
        return None


def write_mark(run: Path, **facts: Any) -> None:
    """Adds values to the mark that the study keeps in the run's directory.

    Args:
        run: the run's directory.
        facts: JSON values by name; those that stand there already are replaced.
    """
    write_checked_json(run / MARK, {**read_mark(run), **facts})


def read_mark(run: Path) -> dict[str, Any]:
    """Reads the mark that the study keeps in the run's directory.

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
    """Converts a recipe to JSON values.

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

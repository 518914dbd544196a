"""What of a run is done: told from its own files, so that a study may be killed at any moment and started again."""

import json
import os
from pathlib import Path
from typing import Any

from mnmt_ds.engine.checkpointing.checkpoint import complete, read_state, student_state
from mnmt_ds.engine.dataloading.data_iterator import Position
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.report import report_path, write_report
from mnmt_ds.reporting.runs import flat, student_directories
from mnmt_ds.run_files import read_recipe
from mnmt_ds.study.plan import TrainingJob

MARK = "study.json"
"""In a run's directory: the recipe that it was trained by to the end, and the options that it was evaluated with."""
BUDGET = ("train.max_epochs", "train.max_steps", "train.patience")
"""What may grow when a study goes on."""
FREE = ("directory", "tracking", "deepspeed", "train.workers", "train.timeout_minutes", "train.keep_checkpoints")
"""What may differ between a run's beginning and its end."""


def trained(job: TrainingJob) -> bool:
    """Whether the run was trained to the end by just this recipe; a setting that came later had its default then."""
    found = read_mark(job.directory).get("recipe")
    if found is None:
        return False
    try:
        return values_of(Recipe.model_validate(found)) == values_of(job.recipe)
    except ValueError:  # written by another version
        return False


def evaluated(job: TrainingJob, options: str) -> bool:
    """Whether its test sets were translated since, with these options."""
    reports = [report_path(place, "best", "test") for place in student_directories(job.directory)]
    return read_mark(job.directory).get("evaluate") == options and all(path.exists() for path in reports)


def at_its_end(run: Path) -> bool:
    """Whether training ended by its own budget: the newest checkpoint is of the update that was kept as ``last``."""
    found = complete(run)
    if not found:
        return False
    newest = read_state(found[0])
    parts = [student_state(newest, place.name) for place in student_directories(run)]
    return all(part["last"] == Position(*part["position"]).update for part in parts)


def refuse_another(job: TrainingJob) -> None:
    """UserError where the directory holds a run by another recipe, or one of a larger budget."""
    found, wanted = flat(_resolved(read_recipe(job.directory))), flat(values_of(job.recipe))
    if not found:
        return
    for key in [key for key in wanted if key not in found]:
        found[key] = wanted[key]  # a setting that came later
    odd = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    odd = [key for key in odd if key not in BUDGET and not any(key == f or key.startswith(f + ".") for f in FREE)]
    if odd:
        raise UserError(
            f"{job.directory}: begun with {odd[0]} {found.get(odd[0])!r}, the study says {wanted.get(odd[0])!r};"
            " move that run away, or name the row anew"
        )
    for key in BUDGET[:2]:
        before, now = (float(values.get(key) or "inf") for values in (found, wanted))
        if now < before:
            raise UserError(
                f"{job.directory}: begun with {key} {found[key]}, the study says {wanted[key]};"
                " a run can be continued, not shortened: raise the cap, or move that run away"
            )


def _resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    """A run's recipe with all that an older version left to be decided later; as it is where it is not known here."""
    try:
        return values_of(Recipe.model_validate(recipe)) if recipe else {}
    except ValueError:
        return recipe


def mark(run: Path, **facts: Any) -> None:
    """Writes facts into the run's mark."""
    write_report(run / MARK, {**read_mark(run), **facts})


def read_mark(run: Path) -> dict[str, Any]:
    """The mark; empty where there is none that can be read."""
    try:
        found = json.loads((run / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def values_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values."""
    return json.loads(json.dumps(recipe.model_dump(mode="json")))


def clear_mark(run: Path) -> None:
    """Forgets the mark: the run is about to change."""
    if (run / MARK).exists():
        os.unlink(run / MARK)

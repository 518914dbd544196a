"""All methods by name: a new one is a file beside this, one line here, and a recipe."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Union

from pydantic import Field

from mnmt_ds.config import Settings
from mnmt_ds.errors import FaultList
from mnmt_ds.methods import (
    by_task,
    denoising,
    intra_distillation,
    lssd,
    multi_distill,
    multi_teacher,
    pareto,
    translation,
)
from mnmt_ds.methods.entry import MethodEntry, RunFacts
from mnmt_ds.methods.method import Method, MethodContext
from mnmt_ds.methods.peers import TrialSettings
from mnmt_ds.requirements import Requirements, combined
from mnmt_ds.teachers.settings import TeacherSettings

METHODS: dict[str, MethodEntry] = {
    "translation": translation.ENTRY,
    "lssd": lssd.ENTRY,
    "multi_distill": multi_distill.ENTRY,
    "multi_teacher": multi_teacher.ENTRY,
    "pareto": pareto.ENTRY,
    "denoising": denoising.ENTRY,
    "intra_distillation": intra_distillation.ENTRY,
    "by_task": by_task.ENTRY,
}


def entry_of(section: Settings) -> MethodEntry:
    """Finds the declaration of a method.

    Args:
        section: the method's settings, as in a recipe's ``method:`` section.

    Returns:
        Its registry entry.
    """
    return METHODS[section.name]  # type: ignore[attr-defined]


def build(section: Settings, context: MethodContext) -> Method:
    """Builds the method that the recipe's ``method:`` section asks for, inner methods first.

    Args:
        section: the method's settings.
        context: what methods may use of the run.

    Returns:
        The method.
    """
    entry = entry_of(section)
    inside = {name: build(inner, context) for name, inner in entry.inside(section).items()}
    return entry.build(section, context, inside) if inside else entry.build(section, context)


def all_sections(section: Settings) -> Iterator[Settings]:
    """Iterates over a method's settings and those of all methods inside it.

    Args:
        section: the outermost method's settings.

    Yields:
        The outermost first, then inner ones in order.
    """
    yield section
    for inner in entry_of(section).inside(section).values():
        yield from all_sections(inner)


def check(section: Settings, facts: RunFacts) -> None:
    """Checks that a method and all inside it can train on a run's students and pairs.

    Args:
        section: the outermost method's settings.
        facts: what is known of the run.

    Raises:
        UserError: lists why they cannot.
    """
    faults = FaultList()
    for method in all_sections(section):
        with faults.caught():
            entry_of(method).check(method, facts)
    faults.raise_any()


def requirements(section: Settings) -> Requirements:
    """Joins the requirements of a method and of all methods inside it.

    Args:
        section: the outermost method's settings.

    Returns:
        Their requirements joined.
    """
    return combined(entry_of(method).requires(method) for method in all_sections(section))


def trained_tasks(section: Settings) -> set[str]:
    """Collects the tasks that a method trains on.

    Args:
        section: the method's settings.

    Returns:
        Their names, as in ``Batch.task``; empty for a method that only a task on text of one language can use.
    """
    entry = entry_of(section)
    if entry.tasks is not None:
        return set(entry.tasks(section))
    inner = [trained_tasks(method) for method in entry.inside(section).values()]
    return set().union(*inner) if inner else {"translation"}


def teacher_settings(section: Settings) -> list[TeacherSettings]:
    """Collects the ``teachers`` sections of a method and of all inside it.

    Args:
        section: the outermost method's settings.

    Returns:
        The sections, the outermost method's first; empty where nothing has frozen teachers.
    """
    sections = (getattr(method, "teachers", None) for method in all_sections(section))
    return [settings for settings in sections if isinstance(settings, TeacherSettings)]


def trial_settings(section: Settings) -> TrialSettings | None:
    """Finds the ``trials`` section of a method or of one inside it: on what a weight search trains.

    Args:
        section: the outermost method's settings.

    Returns:
        The section; None where no method has one.
    """
    sections = (getattr(method, "trials", None) for method in all_sections(section))
    return next((settings for settings in sections if isinstance(settings, TrialSettings)), None)


def union(names: Iterable[str]) -> Any:
    """Makes one type of the settings of some methods, told apart by ``name``.

    Args:
        names: keys of ``METHODS``.

    Returns:
        A discriminated union for pydantic.
    """
    return Annotated[Union[tuple(METHODS[name].settings for name in sorted(names))], Field(discriminator="name")]


multi_teacher.MultiTeacherSettings.model_rebuild(
    _types_namespace={"TeachingSettings": union(("lssd", "multi_distill", "pareto"))}
)
intra_distillation.IntraDistillationSettings.model_rebuild(
    _types_namespace={"BaseSettings": union(METHODS.keys() - {"intra_distillation", "by_task"})}
)
by_task.ByTaskSettings.model_rebuild(_types_namespace={"TaskSettings": union(METHODS.keys() - {"by_task"})})

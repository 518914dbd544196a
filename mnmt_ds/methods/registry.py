"""All methods by name: a new one is a file beside this, one line here, and a recipe."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple, Union

from pydantic import Field

from mnmt_ds.config import Settings
from mnmt_ds.methods.by_task import ByTaskSettings, by_task
from mnmt_ds.methods.denoising import DenoisingLossSettings, denoising
from mnmt_ds.methods.intra_distillation import IntraDistillationSettings, intra_distilled
from mnmt_ds.methods.lssd import LssdSettings, lssd
from mnmt_ds.methods.method import Method, MethodContext
from mnmt_ds.methods.multi_distill import MultiDistillSettings, multi_distill
from mnmt_ds.methods.multi_distill import check as check_experts
from mnmt_ds.methods.multi_teacher import MultiTeacherSettings, multi_teacher
from mnmt_ds.methods.pareto import ParetoSettings, pareto
from mnmt_ds.methods.pareto import check as check_pareto
from mnmt_ds.methods.peers import RunFacts
from mnmt_ds.methods.translation import TranslationSettings, translation
from mnmt_ds.teachers.settings import TeacherSettings


def accept_any_run(settings: Any, facts: RunFacts) -> None:
    """The ``check`` of a method that runs on any data."""


class MethodEntry(NamedTuple):
    """A method's settings (with a ``name`` of the method's) and the function that builds it."""

    settings: type[Settings]
    build: Callable[[Any, MethodContext], Method]
    check: Callable[[Any, RunFacts], None] = accept_any_run
    """UserError where the method cannot run on these students and pairs."""


def build(settings: Settings, context: MethodContext) -> Method:
    """The method that the recipe's ``method:`` section asks for."""
    return METHODS[settings.name].build(settings, context)  # type: ignore[attr-defined]


def check(settings: Settings, facts: RunFacts) -> None:
    """UserError where the recipe's method cannot run on these students and pairs."""
    METHODS[settings.name].check(settings, facts)  # type: ignore[attr-defined]


def wrap_passes(settings: IntraDistillationSettings, context: MethodContext) -> Method:
    """Intra-distillation around the method that its settings hold."""
    return intra_distilled(settings, context, build(settings.base, context))


def check_inside(settings: Any, facts: RunFacts) -> None:
    """The checks of the methods that a method's settings hold."""
    if hasattr(settings, "tasks"):
        inside = list(settings.tasks.values())
    else:
        inside = list(settings.methods) if hasattr(settings, "methods") else [settings.base]
    for inner in inside:
        check(inner, facts)


def inside(method: Any) -> list[Any]:
    """A method's settings and those of all methods inside it."""
    inner = [*getattr(method, "methods", ()), *getattr(method, "tasks", {}).values()]
    inner += [method.base] if hasattr(method, "base") else []
    return [method, *(found for one in inner for found in inside(one))]


def teacher_settings(method: Any) -> list[TeacherSettings]:
    """The ``teachers`` sections of a method and of the methods inside it."""
    found = [getattr(one, "teachers", None) for one in inside(method)]
    return [settings for settings in found if isinstance(settings, TeacherSettings)]


METHODS: dict[str, MethodEntry] = {
    "translation": MethodEntry(TranslationSettings, translation),
    "lssd": MethodEntry(LssdSettings, lssd),
    "multi_distill": MethodEntry(MultiDistillSettings, multi_distill, check_experts),
    "several": MethodEntry(
        MultiTeacherSettings,
        lambda settings, context: multi_teacher(settings, [build(inner, context) for inner in settings.methods]),
        check_inside,
    ),
    "pareto": MethodEntry(ParetoSettings, pareto, check_pareto),
    "denoising": MethodEntry(DenoisingLossSettings, denoising),
    "intra_distillation": MethodEntry(IntraDistillationSettings, wrap_passes, check_inside),
    "by_task": MethodEntry(ByTaskSettings, lambda settings, context: by_task(settings, context, build), check_inside),
}


def union(names: Iterable[str]) -> Any:
    """The settings of some methods as one type, told apart by ``name``."""
    return Annotated[Union[tuple(METHODS[name].settings for name in sorted(names))], Field(discriminator="name")]


MultiTeacherSettings.model_rebuild(_types_namespace={"TeachingSettings": union(("lssd", "multi_distill", "pareto"))})
IntraDistillationSettings.model_rebuild(
    _types_namespace={"BaseSettings": union(METHODS.keys() - {"intra_distillation", "by_task"})}
)
ByTaskSettings.model_rebuild(_types_namespace={"TaskSettings": union(METHODS.keys() - {"by_task"})})

"""Several methods' teachers at once: every ``teach`` adds its own to the batch, one loss counts them all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from mnmt_ds.batch import Batch, MicroBatchContent
from mnmt_ds.config import Settings
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import Method, MethodContext, ValidationReport

if TYPE_CHECKING:
    TeachingSettings = Any


class MultiTeacherSettings(Settings):
    """Methods that teach together."""

    example: ClassVar = {"methods": [{"name": "lssd"}, {"name": "multi_distill"}]}

    name: Literal["multi_teacher", "several"] = "multi_teacher"
    """The method's name; older recipes and checkpoints say ``several``."""
    methods: "tuple[TeachingSettings, ...]" = ()
    """Their ``method:`` sections, such as [{name: lssd}, {name: multi_distill, experts: ...}]; two teachers at most."""

    @field_validator("name")
    @classmethod
    def _present_name(cls, value: str) -> str:
        return "multi_teacher"

    @model_validator(mode="after")
    def _check(self) -> "MultiTeacherSettings":
        names = [section.name for section in self.methods]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"methods: two or more different ones are wanted, not {names}")
        return self


def multi_teacher(settings: MultiTeacherSettings, context: MethodContext, inside: Mapping[str, Method]) -> Method:
    """Adds up the methods' teacher terms: gold weights multiplied * CE + every method's term.

    The last method's loss counts them all, since every ``teach`` adds its teachers to the batch.

    Args:
        settings: the method's settings.
        context: what methods may use of the run.
        inside: the built methods by name, in the recipe's order.

    Returns:
        The method.
    """
    methods = list(inside.values())

    def prepare(batch: Batch) -> Batch:
        for method in methods:
            batch = method.prepare(batch)
        return batch

    def teach(batch: Batch) -> Batch:
        for method in methods:
            batch = method.teach(batch)
        return batch

    def prefetch(contents: Sequence[MicroBatchContent | None]) -> None:
        for method in methods:
            method.prefetch(contents)

    def on_validation(report: ValidationReport) -> None:
        for method in methods:
            method.on_validation(report)

    def after_validation(report: ValidationReport) -> None:
        for method in methods:
            method.after_validation(report)

    return Method(
        methods[-1].compute_loss,
        prepare=prepare,
        teach=teach,
        prefetch=prefetch,
        on_validation=on_validation,
        after_validation=after_validation,
        state={name: stateful for method in methods for name, stateful in method.state.items()},
    )


def sections_inside(settings: MultiTeacherSettings) -> dict[str, Any]:
    """Lists the settings of the methods that teach together.

    Args:
        settings: the method's settings.

    Returns:
        Their sections by method name, in the recipe's order.
    """
    return {section.name: section for section in settings.methods}


ENTRY = MethodEntry(
    MultiTeacherSettings,
    multi_teacher,
    inside=sections_inside,
    example={
        "method": {
            "name": "multi_teacher",
            "methods": [{"name": "lssd"}, {"name": "multi_distill", "rule": "fix", "experts": "{plain_run}"}],
        },
        "validation": {"every": 2},
    },
)

"""Several methods' teachers at once: every ``teach`` adds its own to the batch, one score counts them all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from mnmt_ds.batch import Batch, Slot
from mnmt_ds.config import Settings
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import Method, MethodContext, ValidationReport

if TYPE_CHECKING:
    TeachingSettings = Any


class MultiTeacherSettings(Settings):
    """Which methods teach together."""

    name: Literal["several"] = "several"
    """The method's name."""
    methods: "tuple[TeachingSettings, ...]" = ()
    """Their ``method:`` sections, such as [{name: lssd}, {name: multi_distill, experts: ...}]; two teachers at most."""

    @model_validator(mode="after")
    def _check(self) -> "MultiTeacherSettings":
        names = [section.name for section in self.methods]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"methods: two or more different ones are wanted, not {names}")
        return self


def multi_teacher(settings: MultiTeacherSettings, context: MethodContext, inside: Mapping[str, Method]) -> Method:
    """loss = gold weights multiplied * CE + every method's teacher term; the last method's score is everyone's."""
    methods = list(inside.values())

    def prepare(batch: Batch) -> Batch:
        for method in methods:
            batch = method.prepare(batch)
        return batch

    def teach(batch: Batch) -> Batch:
        for method in methods:
            batch = method.teach(batch)
        return batch

    def on_validated(report: ValidationReport) -> None:
        for method in methods:
            method.on_validated(report)

    def adjust(report: ValidationReport) -> None:
        for method in methods:
            method.adjust(report)

    def upcoming(slots: Sequence[Slot | None]) -> None:
        for method in methods:
            method.upcoming(slots)

    state = {name: part for method in methods for name, part in method.state.items()}
    return Method(prepare, teach, methods[-1].score, on_validated, state, upcoming, adjust)


def sections_inside(settings: MultiTeacherSettings) -> dict[str, Any]:
    """Names the methods that teach together.

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
            "name": "several",
            "methods": [{"name": "lssd"}, {"name": "multi_distill", "rule": "fix", "experts": "{plain_run}"}],
        },
        "validation": {"every": 2},
    },
)

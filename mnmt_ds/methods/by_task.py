"""Several tasks in one run (paper 3, Equations 7 and 8): each batch serves one task and goes to that task's method.

Shape letters: B sentences, S source positions, D model width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from mnmt_ds.batch import Batch, MicroBatchContent
from mnmt_ds.config import PaperDifference, Settings
from mnmt_ds.errors import UserError
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import LossAndMetrics, Method, MethodContext, ModelStates, Stateful, ValidationReport

if TYPE_CHECKING:
    TaskSettings = Any

TRANSLATION = "translation"


class ByTaskSettings(Settings):
    """A method and a weight for translation and for each of ``denoising.tasks``."""

    differences: ClassVar = {
        "divisor": PaperDifference(
            "not said", "one sample size: all target tokens of the update, a token of CD once for its two losses",
            "the code's; task weighs CD 2.9 times heavier and loses its gain on the default corpus",
        ),
    }  # fmt: skip
    example: ClassVar = {"tasks": {"translation": {"name": "translation"}, "cd": {"name": "denoising"}}}

    name: Literal["by_task"] = "by_task"
    """The method's name."""

    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does."""
    tasks: "dict[str, TaskSettings]"
    """Method of each task: translation, and cd, dae, mlm or mass as in ``denoising.tasks``."""
    weights: dict[str, Annotated[float, Field(ge=0, le=10**6)]] = Field(default_factory=dict, examples=[{"cd": 1.0}])
    """Weight of each task's loss; 1 where none is given."""
    divisor: Literal["task", "shared"] = "shared"
    """shared: one sum over all tokens of the update, as in the released code (the paper leaves it open); task: each
    loss is a mean over its own task's tokens of the update, so that the tasks' means are summed."""

    @field_validator("divisor", mode="before")
    @classmethod
    def _null_in_older_recipes(cls, value: Any, info: ValidationInfo) -> Any:
        """null was "as the profile has it" in version 0.1.0: task, or shared under ``profile: released``."""
        if value is None:
            return "shared" if info.data.get("profile") == "released" else "task"
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if TRANSLATION not in self.tasks or len(self.tasks) < 2:
            raise ValueError("tasks: give translation and at least one of cd, dae, mlm, mass")
        if unknown := set(self.weights) - set(self.tasks):
            raise ValueError(f"weights: {sorted(unknown)[0]} is not among the tasks {', '.join(self.tasks)}")
        for name, settings in self.tasks.items():
            inner: Any = getattr(settings, "base", settings)
            if (inner.name == "denoising") != (name != TRANSLATION):
                raise ValueError(
                    f"tasks: {name} cannot take method {inner.name}; cd, dae, mlm and mass take denoising (or"
                    " intra_distillation around it), translation any other method"
                )
        return self


def by_task(settings: ByTaskSettings, context: MethodContext, methods: Mapping[str, Method]) -> Method:
    """Sums the tasks' losses, sum_t w_t L_t; each batch goes to its own task's method.

    With ``divisor: task`` the loss of an update is the sum of the tasks' means over their own tokens.

    Args:
        settings: the method's settings.
        context: what methods may use of the run.
        methods: the built method of each task.

    Returns:
        The method.
    """

    def method_of(batch: Batch) -> Method:
        if batch.task not in methods:
            raise UserError(f"method by_task: no method for task {batch.task}; add it to method.tasks")
        return methods[batch.task]

    def compute_loss(states: ModelStates, projection_VD: Tensor, batch: Batch) -> LossAndMetrics:
        result = method_of(batch).compute_loss(states, projection_VD, batch)
        factor = settings.weights.get(batch.task, 1.0)
        if settings.divisor == "task" and batch.task_divisor:
            factor *= batch.divisor / batch.task_divisor
        loss = result.loss * factor
        if batch.task == TRANSLATION:
            # Ranks with different tasks must gather and reduce alike, so every batch has a path to all that any uses.
            loss = loss + 0.0 * states.encoder_BSD[0, 0, 0]
            if states.encoder_projection_VD is not None:
                loss = loss + 0.0 * states.encoder_projection_VD[0, 0]
        nothing = torch.zeros_like(result.metrics["loss"])
        metrics = {"ce": nothing, "nll": nothing, **result.metrics}
        metrics["loss"] = torch.stack([loss.detach().to(nothing), result.metrics["loss"][1]])
        return LossAndMetrics(loss, metrics)

    def on_validation(report: ValidationReport) -> None:
        for method in methods.values():
            method.on_validation(report)

    def after_validation(report: ValidationReport) -> None:
        for method in methods.values():
            method.after_validation(report)

    def prefetch(contents: Sequence[MicroBatchContent | None]) -> None:
        """Teachers are those of language pairs: micro-batches of other tasks need none."""
        of_pairs = [
            content if content is not None and content.pair < len(context.pairs) else None for content in contents
        ]
        methods[TRANSLATION].prefetch(of_pairs)

    state: dict[str, Stateful] = {}
    for task, method in methods.items():
        state |= {
            name if task == TRANSLATION else f"{task}.{name}": stateful for name, stateful in method.state.items()
        }
    return Method(
        compute_loss,
        prepare=lambda batch: method_of(batch).prepare(batch),
        teach=lambda batch: method_of(batch).teach(batch),
        prefetch=prefetch,
        on_validation=on_validation,
        after_validation=after_validation,
        state=state,
    )


def sections_inside(settings: ByTaskSettings) -> Mapping[str, Settings]:
    """Lists the settings of the methods inside: one of each task.

    Args:
        settings: the method's settings.

    Returns:
        Their sections by task.
    """
    return settings.tasks


ENTRY = MethodEntry(
    ByTaskSettings,
    by_task,
    inside=sections_inside,
    tasks=lambda settings: settings.tasks.keys(),
    example={
        "framing": {"encoder_langtok_position": "end"},
        "denoising": {"tasks": [{"name": "cd"}]},
        "method": {
            "name": "by_task",
            "tasks": {
                "translation": {"name": "intra_distillation", "base": {"name": "lssd"}},
                "cd": {"name": "intra_distillation", "base": {"name": "denoising"}},
            },
        },
        "validation": {"every": 2},
    },
)

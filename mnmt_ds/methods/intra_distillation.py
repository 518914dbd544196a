"""Intra-distillation around any method (paper 3, Equations 5 and 6).

After Xu et al. 2022.

The batch passes the network K times at once, each time under dropout masks of its own, and the K distributions are
drawn together.

Shape letters: B sentences, S source positions, T target positions.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mnmt_ds.batch import Batch
from mnmt_ds.config import PaperDifference, Settings
from mnmt_ds.errors import UserError
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import Method, MethodContext
from mnmt_ds.requirements import Requirements

if TYPE_CHECKING:
    BaseSettings = Any


class IntraDistillationSettings(Settings):
    """Passes, weight of the divergence, and the method that is wrapped."""

    released_values: ClassVar = {"memory": "first"}
    differences: ClassVar = {
        "memory": PaperDifference("K passes of the whole model (3, 2.2)", "the encoder runs once", "the paper's"),
        "schedule": PaperDifference("α = 5 (3, 5.4)", "adaptive is an option (Intra-Distillation)", "the paper's"),
    }

    name: Literal["intra_distillation"] = "intra_distillation"
    """The method's name."""

    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does."""
    passes: int = Field(2, ge=2, le=64)
    """K, passes of each batch; a micro-batch costs K times the activations of a plain one."""
    alpha: float = Field(5.0, ge=0, le=10**4)
    """Weight of the X-divergence."""
    memory: Literal["own", "first"] = "own"
    """Encoder states that a pass's decoder looks at: its own pass's, or the first's (released first)."""
    schedule: Literal["fixed", "adaptive"] = "fixed"
    """adaptive: alpha grows as in Intra-Distillation: alpha * (p n / N)^gamma before update n = N / p, then alpha."""
    p: float = Field(2.0, gt=0)
    """adaptive: alpha is reached after 1 / p of the run's N updates."""
    q: float = Field(5.0, gt=0)
    """adaptive: the weight is 1 after 1 / q of them."""
    base: "BaseSettings" = {"name": "translation"}  # noqa: RUF012 (pydantic validates it into settings of its own)
    """The method that is wrapped, with its own settings."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "adaptive" and not (0 < self.p < self.q and self.alpha > 1):
            raise ValueError("schedule: adaptive needs 0 < p < q and alpha above 1")
        return self


def intra_distillation(
    settings: IntraDistillationSettings, context: MethodContext, inside: Mapping[str, Method]
) -> Method:
    """Adds the X-divergence to a method's loss: 1/K sum_k L_k + alpha * 1/K sum_k [KL(p_k || mean) + KL(mean || p_k)].

    Teachers are asked once for all passes.

    Differs: the K passes; paper: K passes; released: one after another, each decoder's masks drawn after the other's;
    ours: rows of one batch; why: faster, and as independent.

    Differs: the X-divergence in numbers; paper: the sum of both KL terms; released: sum of (p_i - p) (log p_i - log p)
    from probabilities, which can be infinite; ours: the same sum in log space; why: it stays finite.

    Args:
        settings: the method's settings.
        context: what methods may use of the run.
        inside: the method that is wrapped, whose loss is L, as ``base``.

    Returns:
        The method.
    """
    base, weight_at = inside["base"], weights(settings, context.total_updates)

    def prepare(batch: Batch) -> Batch:
        batch = base.prepare(batch)
        if batch.passes != 1:
            raise UserError("method intra_distillation: its base repeats batches already; wrap a method once")
        return batch._replace(
            source_BS=batch.source_BS.repeat(settings.passes, 1),
            decoder_BT=batch.decoder_BT.repeat(settings.passes, 1),
            passes=settings.passes,
            shared_memory=settings.memory == "first",
            divergence_weight=weight_at(batch.update),
        )

    def teach(batch: Batch) -> Batch:
        rows = len(batch.target_BT)
        taught = base.teach(
            batch._replace(
                source_BS=batch.source_BS[:rows], decoder_BT=batch.decoder_BT[:rows], passes=1, shared_memory=False
            )
        )
        return batch._replace(gold_weight=taught.gold_weight, teachers=taught.teachers)

    return base._replace(prepare=prepare, teach=teach)


def weights(settings: IntraDistillationSettings, total_updates: Callable[[], int]) -> Callable[[int], float]:
    """Schedules the divergence's weight (Intra-Distillation's adaptive alpha): alpha(N/p) = alpha, alpha(N/q) = 1.

    Args:
        settings: the method's settings.
        total_updates: gives N, the updates of the whole run.

    Returns:
        From an update's number n, counted from 1, to the weight.
    """
    if settings.schedule == "fixed":
        return lambda update: settings.alpha
    total = total_updates()
    gamma = math.log(1 / settings.alpha) / math.log(settings.p / settings.q)

    def adaptive(update: int) -> float:
        return settings.alpha * min(1.0, settings.p * update / total) ** gamma

    return adaptive


def requirements(settings: IntraDistillationSettings) -> Requirements:
    """Declares the passes over each micro-batch.

    Args:
        settings: the method's settings.

    Returns:
        What the method needs of a run, the inner one's needs left out.
    """
    return Requirements(passes=settings.passes)


def sections_inside(settings: IntraDistillationSettings) -> dict[str, Settings]:
    """Lists the settings of the method that is wrapped.

    Args:
        settings: the method's settings.

    Returns:
        Its section, as ``base``.
    """
    return {"base": settings.base}  # type: ignore[dict-item]


ENTRY = MethodEntry(IntraDistillationSettings, intra_distillation, requirements, sections_inside)

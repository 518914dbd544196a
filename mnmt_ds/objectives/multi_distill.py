"""MULTI-DISTILL: bilingual experts teach the multilingual student (Tan et al. 2019, a baseline of paper 1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from mnmt_ds.batch import Batch, Slot
from mnmt_ds.config import Settings
from mnmt_ds.kernels.types import Teacher
from mnmt_ds.objectives.method import Context, Method, unchanged
from mnmt_ds.objectives.peers import Facts
from mnmt_ds.objectives.translation import scorer
from mnmt_ds.teachers.experts import Experts, check_pairs
from mnmt_ds.teachers.settings import TeacherSettings


class MultiDistillSettings(Settings):
    """Who the experts are, and how long they teach."""

    name: Literal["multi_distill"] = "multi_distill"
    """The method's name."""
    experts: dict[str, Path] | Path = {}  # noqa: RUF012 (pydantic copies it)
    """A model directory (such as another run's best) for every pair; same tokenizer and shape as the student. Or one
    run (such as a study's bilingual row), whose best_<pair> are the experts."""
    alpha: float = 0.9
    """Weight of the distillation; the cross-entropy with gold has 1 - alpha."""
    temperature: float = 0.6
    """T of both distributions; the term is multiplied by T^2."""
    rule: Literal["fix", "threshold"] = "threshold"
    """fix: to the end; threshold: until the student's dev loss is below the expert's by ``margin``."""
    margin: float = 0.05
    """Of the threshold, in label-smoothed dev loss a token."""
    teachers: TeacherSettings = TeacherSettings()
    """How experts are kept and remembered."""

    @model_validator(mode="after")
    def _check(self) -> "MultiDistillSettings":
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share, from 0 to 1, not {self.alpha}")
        if self.temperature <= 0:
            raise ValueError("temperature must be more than 0")
        return self


def check(settings: MultiDistillSettings, facts: Facts) -> None:
    """UserError where a pair has no expert."""
    check_pairs(paths(settings, facts.pairs), facts.pairs)


def paths(settings: MultiDistillSettings, pairs: Sequence[str]) -> dict[str, Path]:
    """Every pair's expert."""
    if isinstance(settings.experts, Path):
        return {pair: settings.experts / f"best_{pair}" for pair in pairs}
    return settings.experts


def multi_distill(settings: MultiDistillSettings, context: Context) -> Method:
    """(1 - a) CE + a T^2 CE(expert / T, student / T) while the pair's expert teaches, else CE.

    Differs: the expert's whole distribution (Tan et al. keep its 4 most probable words), and the threshold is on dev
    loss, which every validation has, not on BLEU.
    """
    faculty = context.faculty(settings.teachers)
    margin = settings.margin if settings.rule == "threshold" else None
    experts = Experts(faculty, paths(settings, context.pairs), margin)

    def teach(batch: Batch) -> Batch:
        version = experts.teacher_of(context.pairs[batch.pair])
        if version is None or batch.tokens == 0:
            return batch
        teacher = Teacher(*faculty.states(version, batch), settings.alpha, temperature=settings.temperature)
        weight = (1 - settings.alpha) * batch.gold_weight
        return batch._replace(gold_weight=weight, teachers={**batch.teachers, "expert": teacher})

    def upcoming(slots: Sequence[Slot | None]) -> None:
        faculty.announce(slots, experts)

    score: Any = scorer(context.smoothing, context.implementation)
    return Method(unchanged, teach, score, experts.update, {"experts": experts}, upcoming)

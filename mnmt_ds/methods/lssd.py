"""LSSD: language-specific self-distillation (paper 1, Algorithm 1 and Equations 3 to 8).

Each language pair's own best checkpoint teaches the present model while the model is worse than it on that pair.

Shape letters: B sentences, T target positions, D student's width, E teacher's width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.config import PaperDifference, Settings
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.errors import UserError
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.kernels.types import Gate, Teacher
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import Method, MethodContext
from mnmt_ds.methods.translation import translation_loss
from mnmt_ds.requirements import Requirements
from mnmt_ds.teachers.overall_best import OverallBest
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.teacher_bank import TeacherBank
from mnmt_ds.teachers.teacher_source import TeacherSource


class LssdSettings(Settings):
    """Settings of LSSD. ``profile`` fills whatever is not given."""

    differences: ClassVar = {
        "halve_total": PaperDifference(
            "CE + α·KD (1, Equation 3)", "(CE + α·KD) / 2 while a pair distils",
            "halving weakens gold beside pairs that do not distil; the equation is the default",
        ),
        "alpha": PaperDifference(
            "2.0 into one language, else 0.6 (1, 4.1)",
            "TED-8 into English 2.5 (selective 1.0 to 1.3), out of it 0.5 to 0.6; WMT 2.0 (selective 1.0), 0.6 to 0.8",
            "null is the paper's; the profile has TED's, the study of released code each script's",
        ),
        "cap": PaperDifference("2, searched in 1.0, 1.5, 2.0 (1, 3.3)", "σ of the adaptive gate", "the paper's"),
        "selective_below": PaperDifference("0 (1, 3.3)", "", "the paper's"),
        "selective_strict": PaperDifference("the teacher at least as sure: ≥ (1, 3.3)", ">", "the paper's"),
        "gate_level": PaperDifference(
            "sentence (1, 3.3)",
            "selective on TED-8; adaptive in all six scripts and selective on WMT compare sentences",
            "the paper's; the profile cannot know the corpus, so the study of released code sets WMT's",
        ),
        "gate_student": PaperDifference(
            "not said", "", "the code's; eval takes away the head start that the teacher has without dropout"
        ),
        "teacher_vocabulary": PaperDifference(
            "full (1, Equation 4)", "language in most scripts out of English",
            "the paper's; the study of released code has each script's",
        ),
    }  # fmt: skip

    name: Literal["lssd"] = "lssd"
    """The method's name."""

    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does."""
    variant: Literal["whole", "selective", "adaptive"] = "whole"
    """Sentence weight G: 1; 1 where the teacher is at least as sure of gold; min(ratio of the two, cap)."""
    teacher: Literal["pair", "overall"] = "pair"
    """pair: each pair's own best checkpoint; overall: the overall best one, as ``validation.selection`` has it, teaches
    all pairs (STSD, the ablation)."""
    alpha: float | None = Field(None, ge=0, le=10**4)
    """Weight of the distillation. null: 2.0 if all pairs share one target language, else 0.6; profile released: 2.5
    (selective 1.2), else 0.6."""
    cap: float = Field(2.0, gt=0, le=10**4)
    """Adaptive gate's greatest value (the paper's sigma; released 1.0)."""
    selective_below: float = Field(0.0, ge=0, le=1)
    """Selective gate where the teacher is worse (released 0.2)."""
    selective_strict: bool = False
    """Selective: the teacher must be better, not merely as good (released true)."""
    gate_level: Literal["sentence", "token"] = "sentence"
    """Over what gold probabilities are compared (released, selective: token, as on TED; adaptive: sentence)."""
    gate_student: Literal["train", "eval"] = "train"
    """The student's probability in the gate: from its training pass (with dropout), or from a pass of its own
    without."""
    halve_total: bool = False
    """(CE + alpha KD) / 2 while a pair distils, as the released code has it."""
    teacher_vocabulary: Literal["full", "language"] = "full"
    """language: the teacher's distribution is cut to the target language's own tokens, renormalised (released O2M)."""
    teachers: TeacherSettings = TeacherSettings()
    """How teachers are kept and their states cached."""

    @classmethod
    def released(cls, explicit: Mapping[str, Any]) -> dict[str, Any]:
        """Lists what ``profile: released`` sets, where the authors' TED-8 scripts depart from their paper.

        Args:
            explicit: the section's values as they were given; ``gate_level`` depends on ``variant``.

        Returns:
            Values by name.
        """
        level = {} if explicit.get("variant") == "adaptive" else {"gate_level": "token"}
        return {"halve_total": True, "selective_below": 0.2, "selective_strict": True, "cap": 1.0, **level}

    @field_validator("gate_level", mode="before")
    @classmethod
    def _null_in_older_recipes(cls, value: Any, info: ValidationInfo) -> Any:
        """null was "as the profile has it" in version 0.1.0: sentence, or token under ``profile: released``."""
        if value is None:
            return "token" if info.data.get("profile") == "released" else "sentence"
        return value

    def resolved(self, pairs: Sequence[str]) -> Self:
        """Fills alpha by the language pairs.

        Args:
            pairs: the recipe's language pairs.

        Returns:
            These settings, complete.
        """
        alpha = default_alpha(self, pairs) if self.alpha is None else self.alpha
        return super().resolved(pairs).model_copy(update={"alpha": alpha})

    @model_validator(mode="after")
    def _check(self) -> "LssdSettings":
        if self.needs_eval_states and self.gate_level == "token":
            raise ValueError("gate_student: eval compares whole sentences; set gate_level: sentence")
        return self

    @property
    def needs_eval_states(self) -> bool:
        """Whether the gate takes the student's probability from a pass of its own, without dropout."""
        return self.gate_student == "eval" and self.variant != "whole"


def lssd(settings: LssdSettings, context: MethodContext) -> Method:
    """Adds word-level distillation from a pair's teacher while the pair's switch is on (Equations 3 to 8).

    CE + alpha * sum_sentences G * sum_tokens -sum_w p(w; teacher) log p(w; student).

    Differs: precision of teachers' weights; paper: not said; released: half; ours: half
    (``method.teachers.dtype``); why: memory, and the code's results were made so.

    Differs: many-to-many; paper: not trained; released: refused; ours: trains, alpha 0.6; why: nothing in Algorithm 1
    asks for one common language.

    Args:
        settings: the method's settings, of a recipe: alpha is filled.
        context: what methods may use of the run.

    Returns:
        The method.

    Raises:
        UserError: where the run has no language pairs.
    """
    if len(context.pairs) == 0:
        raise UserError("method lssd: no language pairs; name at least one in data.pairs")
    if settings.alpha is None:
        raise ValueError("alpha is not resolved; take the settings of a recipe")
    alpha = settings.alpha
    pool = context.build_teacher_pool(settings.teachers)
    source: TeacherSource = (
        TeacherBank(context.pairs, pool, context.max_best_versions)
        if settings.teacher == "pair"
        else OverallBest(pool, context.overall_loss)
    )
    gate = Gate(
        settings.variant, settings.gate_level, settings.cap, settings.selective_below, settings.selective_strict
    )
    share = 0.5 if settings.halve_total else 1.0

    def has_teacher(pair: str) -> bool:
        return source.teacher_of(pair) is not None

    def teach(batch: Batch) -> Batch:
        pair = context.pairs[batch.pair]
        version = source.teacher_of(pair)
        if version is None or batch.tokens == 0:
            if settings.needs_eval_states and context.partitioned and any(map(has_teacher, context.pairs)):
                context.eval_states(batch)  # another rank may need this pass, in which all gather the weights
            return batch
        hidden_BTE, projection_VE = pool.states(version, batch)
        vocabulary_V = (
            context.target_vocabulary(split_pair(pair)[1]) if settings.teacher_vocabulary == "language" else None
        )
        teacher = Teacher(hidden_BTE, projection_VE, share * alpha, gate, vocabulary_V=vocabulary_V)
        if settings.needs_eval_states:
            teacher = teacher._replace(weight=share * alpha * eval_gate(batch, teacher), gate=Gate())
        return batch._replace(gold_weight=share * batch.gold_weight, teachers={**batch.teachers, "kd": teacher})

    def eval_gate(batch: Batch, teacher: Teacher) -> Tensor:
        """G (B,) from a pass of the student without dropout, so that the teacher has no head start."""
        hidden_BTD, projection_VD = context.eval_states(batch)
        with torch.no_grad():
            sums = ce_with_teacher(
                hidden_BTD, projection_VD, batch.target_BT, (teacher,), target_rows=batch.target_rows,
                implementation=context.implementation, group=context.group,
            )  # fmt: skip
        return sums.gate[0]

    if settings.needs_eval_states:
        context.request_eval_states(has_teacher)
    return Method(
        translation_loss(context.smoothing, context.implementation, context.group),
        teach=teach,
        prefetch=lambda contents: pool.prefetch(contents, source),
        on_validation=source.update,
        state={"teachers": source},
    )


def default_alpha(settings: LssdSettings, pairs: Sequence[str]) -> float:
    """Looks up the paper's alpha (many-to-one 2.0, otherwise 0.6), or that of the released TED scripts.

    Those have 2.5 (selective: 1.2) and 0.6.

    Args:
        settings: profile and variant.
        pairs: the recipe's language pairs.

    Returns:
        alpha.
    """
    targets = {split_pair(pair)[1] for pair in pairs}
    if len(targets) > 1:
        return 0.6
    if settings.profile == "paper":
        return 2.0
    return 1.2 if settings.variant == "selective" else 2.5


def requirements(settings: LssdSettings) -> Requirements:
    """Declares frozen teachers, and the student's own states where the gate takes them from a pass of its own.

    Args:
        settings: the method's settings.

    Returns:
        What the method needs of a run.
    """
    return Requirements(
        teachers=True,
        shared_teacher=settings.teacher == "overall",
        pair_bests=settings.teacher == "pair",
        eval_states=settings.needs_eval_states,
        layer_streaming=settings.teachers.on_device == "layers",
    )


ENTRY = MethodEntry(LssdSettings, lssd, requirements, example={"validation": {"every": 2}})

"""MULTI-DISTILL: bilingual experts teach the multilingual student (Tan et al. 2019, a baseline of paper 1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from mnmt_ds.batch import Batch
from mnmt_ds.config import FilePath, Settings
from mnmt_ds.errors import UserError
from mnmt_ds.kernels.types import Teacher
from mnmt_ds.methods.entry import MethodEntry, RunFacts
from mnmt_ds.methods.method import Method, MethodContext
from mnmt_ds.methods.translation import translation_loss
from mnmt_ds.requirements import Requirements
from mnmt_ds.teachers.experts import Experts, check_pairs
from mnmt_ds.teachers.settings import TeacherSettings


class MultiDistillSettings(Settings):
    """Directories of the experts, and how long they teach."""

    name: Literal["multi_distill"] = "multi_distill"
    """The method's name."""
    experts: dict[str, FilePath] | FilePath = Field({}, examples=[{"bs-en": "runs/expert-bs-en/best"}])
    """A model directory (such as another run's best) for every pair; same tokenizer and shape as the student. Or one
    run (such as a study's bilingual row), whose best_<pair> are the experts."""
    alpha: float = Field(0.9, ge=0, le=1)
    """Weight of the distillation; the cross-entropy with gold has 1 - alpha."""
    temperature: float = Field(0.6, ge=0.01, le=1000)
    """T of both distributions; the term is multiplied by T^2."""
    top_k: int = Field(4, ge=0, le=10_000_000)
    """Words of an expert's distribution that count at each token, its most probable ones; 0: all."""
    rule: Literal["fix", "threshold", "adaptive"] = "threshold"
    """How much of alpha an expert has, from BLEU on dev. fix: all, to the end; threshold: all, until the student is 1
    point better than the expert; adaptive: all, until it is 2 points worse, then half for each point more. BLEU is
    taken every ``validation.bleu_every`` validations (Tan et al.: 3), of the experts once."""
    teachers: TeacherSettings = TeacherSettings()
    """How experts are kept and their states cached."""


def check(settings: MultiDistillSettings, facts: RunFacts) -> None:
    """Checks that every pair has an expert, and the rule dev BLEU to go by.

    Args:
        settings: the method's settings.
        facts: what is known of the run.

    Raises:
        UserError: where one is missing.
    """
    if settings.rule != "fix" and not facts.bleu_every:
        raise UserError(
            f"method.rule: {settings.rule} goes by dev BLEU; set validation.bleu_every (such as 3), or rule: fix"
        )
    check_pairs(expert_paths(settings, facts.pairs), facts.pairs)


def expert_paths(settings: MultiDistillSettings, pairs: Sequence[str]) -> dict[str, Path]:
    """Finds every pair's expert.

    Args:
        settings: the method's settings.
        pairs: the run's language pairs.

    Returns:
        Model directories by pair.
    """
    if isinstance(settings.experts, Path):
        return {pair: settings.experts / f"best_{pair}" for pair in pairs}
    return settings.experts


def multi_distill(settings: MultiDistillSettings, context: MethodContext) -> Method:
    """Distils bilingual experts: (1 - a_l) CE + a_l T^2 CE(top k of expert / T, student / T).

    a_l is alpha times the pair's share, which the rule moves by dev BLEU.

    Differs: dev BLEU of MULTI-DISTILL's rule; paper: of the dev sets (Tan et al. 2019); released: every 3 epochs; ours:
    of as many sentences and of the beam that ``validation`` says; why: translating dev sets costs more than training.

    Args:
        settings: the method's settings.
        context: what methods may use of the run.

    Returns:
        The method.
    """
    pool = context.build_teacher_pool(settings.teachers, True)
    experts = Experts(pool, expert_paths(settings, context.pairs), settings.rule, context.dev_bleu, context.ranks)

    def teach(batch: Batch) -> Batch:
        pair = context.pairs[batch.pair]
        version = experts.teacher_of(pair)
        if version is None or batch.tokens == 0:
            return batch
        alpha = settings.alpha * experts.share(pair)
        states = pool.states(version, batch)
        teacher = Teacher(*states, alpha, temperature=settings.temperature, top_k=settings.top_k)
        return batch._replace(
            gold_weight=(1 - alpha) * batch.gold_weight, teachers={**batch.teachers, "expert": teacher}
        )

    return Method(
        translation_loss(context.smoothing, context.implementation, context.group),
        teach=teach,
        prefetch=lambda contents: pool.prefetch(contents, experts),
        on_validation=experts.update,
        state={"experts": experts},
    )


def requirements(settings: MultiDistillSettings) -> Requirements:
    """Declares frozen teachers, and dev BLEU where the rule goes by it.

    Args:
        settings: the method's settings.

    Returns:
        What the method needs of a run.
    """
    return Requirements(
        teachers=True,
        layer_streaming=settings.teachers.on_device == "layers",
        top_k=settings.top_k,
        dev_bleu=settings.rule != "fix",
    )


ENTRY = MethodEntry(
    MultiDistillSettings,
    multi_distill,
    requirements,
    check=check,
    example={"method": {"name": "multi_distill", "rule": "fix", "experts": "{plain_run}"}},
)

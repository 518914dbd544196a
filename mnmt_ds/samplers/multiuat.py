"""MultiUAT (Wu, Li, Zhang, Li, Haffari and Liu 2021, Uncertainty-Aware Balancing for Multilingual and Multi-Domain
Neural Machine Translation Training)."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from mnmt_ds.samplers.actor import ActorSettings, actor, measures_student
from mnmt_ds.samplers.sampler import Sampler, SamplerEntry


class MultiUatSettings(ActorSettings):
    """Settings of MultiUAT: pairs of which the model is unsure are drawn more."""

    name: Literal["multiuat"] = "multiuat"
    """multiuat: MultiUAT, rewards by the model's uncertainty on dev data."""
    reward: Literal["pretp", "exptp", "vartp", "comtp", "enttp", "enteos", "xentropy"] = "enteos"
    """pretp, exptp, vartp, comtp: of the most probable words' log-probabilities; enttp, enteos: of the distributions'
    entropy; xentropy: dev cross-entropy. Their formulas are in samplers/uncertainty.py."""
    passes: int = Field(default=5, ge=1, le=1000)
    """K passes with dropout over each dev batch."""


def multiuat(settings: MultiUatSettings, pairs: Sequence[str], sizes: Sequence[int]) -> Sampler:
    """Rewards R_j: the model's uncertainty on a dev batch of pair j over K passes with dropout (Section 3).

    How the distribution learns from them is as in MultiDDS-S.

    Differs: MultiUAT's rewards; paper: as here; released: could not be had to compare numerically; ours: the paper's
    formulas; why: the paper's.

    Args:
        settings: the sampler's settings.
        pairs: names of the language pairs.
        sizes: training sentences of each pair.

    Returns:
        The sampler.
    """
    return actor(
        settings,
        pairs,
        sizes,
        lambda student: student.uncertainties(settings.reward, settings.passes, settings.max_tokens),
    )


ENTRY = SamplerEntry(
    MultiUatSettings,
    multiuat,
    measures_student,
    {"sampler": {"name": "multiuat", "every": 3, "lr": 1e-2, "steps": 20, "passes": 2, "reward": "enttp"}},
)

"""MultiUAT (Wu, Li, Zhang, Li, Haffari and Liu 2021, Uncertainty-Aware Balancing for Multilingual and Multi-Domain
Neural Machine Translation Training)."""

from typing import Literal

from pydantic import Field

from mnmt_ds.samplers.actor import Actor, ActorSettings
from mnmt_ds.samplers.sampler import Measurements


class MultiUatSettings(ActorSettings):
    """Pairs of which the model is unsure are drawn more."""

    name: Literal["multiuat"] = "multiuat"
    """multiuat: MultiUAT, rewards by the model's uncertainty on dev data."""
    reward: Literal["pretp", "exptp", "vartp", "comtp", "enttp", "enteos", "xentropy"] = "enteos"
    """pretp, exptp, vartp, comtp: of the most probable words' log-probabilities; enttp, enteos: of the distributions'
    entropy; xentropy: dev cross-entropy. Their formulas are in samplers/uncertainty.py."""
    passes: int = Field(default=5, ge=1)
    """K passes with dropout over each dev batch."""


class MultiUat(Actor):
    """R_j: the model's uncertainty on a dev batch of pair j over K passes with dropout; the actor is MultiDDS-S's."""

    def measure(self, student: Measurements) -> None:
        settings = self.settings
        self.learn(student.uncertainties(settings.reward, settings.passes, settings.max_tokens))

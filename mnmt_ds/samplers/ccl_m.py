"""An approximation of CCL-M (Zhang, Meng, Tong and Zhou 2021, Competence-based Curriculum Learning for Multilingual
Machine Translation). Its full text and code were not at hand: what its abstract names is here, the formulas are ours.

The abstract names a self-evaluated competence of each language, a competence of high-resource languages that decides
when a low-resource one joins, and competence-aware sampling. Here, at every validation:

    self-evaluated    c_l = 1 - nll_l / log V           nll_l: dev loss a token; 0 as a uniform guess, 1 when certain
    by high-resource  C   = mean of c_h over pairs h with at least ``high`` sentences
    joining           the k-th largest of the others (k = 0, 1, ...) joins once C >= ready + k * stagger, or after
                      ``latest`` validations, and stays
    sampling          p_l proportional to (n_l / N)^(1/T) * (1 - c_l)^strength over the pairs that have joined
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from mnmt_ds.config import Settings
from mnmt_ds.samplers.sampler import Sampler


class CclMSettings(Settings):
    """A curriculum: low-resource pairs join as high-resource ones become competent; weak pairs are drawn more."""

    name: Literal["ccl_m"] = "ccl_m"
    """ccl_m: an approximation of CCL-M, from its abstract."""
    temperature: float = Field(default=1.0, gt=0)
    """T of p proportional to n^(1/T)."""
    high: int = Field(default=0, ge=0)
    """Sentences from which on a pair is high-resource and trained from the start; 0: the mean over pairs."""
    ready: float = Field(default=0.4, ge=0, le=1)
    """Mean competence of the high-resource pairs at which the largest of the others joins."""
    stagger: float = Field(default=0.02, ge=0)
    """How much more of it every further one needs."""
    latest: int = Field(default=10, ge=0)
    """Validations after which all have joined; 0: all join at once."""
    strength: float = Field(default=1.0, ge=0)
    """Exponent of 1 - c_l; 0: temperature sampling over the pairs that have joined."""


class CclM(Sampler):
    """Approximates CCL-M; see the module's formulas."""

    dynamic = True

    def __init__(self, settings: Any, pairs: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__(settings, pairs, sizes)
        self.shares = list(self.probabilities)
        from_size = settings.high or sum(sizes) / len(sizes)
        self.high = [size >= from_size for size in sizes]
        if not any(self.high):
            self.high = [size == max(sizes) for size in sizes]
        self.waiting = sorted((l for l in range(len(sizes)) if not self.high[l]), key=lambda l: (-sizes[l], l))
        """The others, largest first, whether they have joined or not."""
        self.joined = list(self.high) if settings.latest else [True] * len(sizes)
        self.competence = [0.0] * len(sizes)
        self.validations = 0
        self.probabilities = self._mixture()

    def on_validated(self, competence: Sequence[float]) -> None:
        self.competence, self.validations = list(competence), self.validations + 1
        for k, l in enumerate(self.waiting):
            ready = self.settings.ready + k * self.settings.stagger
            self.joined[l] |= self.high_competence() >= ready or self.validations >= self.settings.latest
        self.set(self._mixture())

    def high_competence(self) -> float:
        """C: the mean of c_h over the high-resource pairs."""
        return sum(c for c, high in zip(self.competence, self.high, strict=True) if high) / sum(self.high)

    def _mixture(self) -> list[float]:
        weights = [
            share * max(1 - c, 1e-6) ** self.settings.strength if joined else 0.0
            for share, c, joined in zip(self.shares, self.competence, self.joined, strict=True)
        ]
        return [weight / sum(weights) for weight in weights]

    def scores(self) -> dict[str, Sequence[float]]:
        return {"competence": self.competence}

    def state(self) -> dict[str, Any]:
        own = {"competence": self.competence, "joined": self.joined, "validations": self.validations}
        return {**super().state(), **own}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.competence, self.joined = list(state["competence"]), list(state["joined"])
        self.validations = int(state["validations"])

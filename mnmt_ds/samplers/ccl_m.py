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
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from mnmt_ds.config import Settings
from mnmt_ds.samplers.sampler import Distribution, Sampler, SamplerEntry, SamplerMemory
from mnmt_ds.samplers.temperature import probabilities


class CclMSettings(Settings):
    """A curriculum: low-resource pairs join as high-resource ones become competent; weak pairs are drawn more."""

    name: Literal["ccl_m"] = "ccl_m"
    """ccl_m: an approximation of CCL-M, from its abstract."""
    temperature: float = Field(default=1.0, ge=0.05)
    """T of p proportional to n^(1/T)."""
    high: int = Field(default=0, ge=0)
    """Sentences from which on a pair is high-resource and trained from the start; 0: the mean over pairs."""
    ready: float = Field(default=0.4, ge=0, le=1)
    """Mean competence of the high-resource pairs at which the largest of the others joins."""
    stagger: float = Field(default=0.02, ge=0)
    """How much more of it every further one needs."""
    latest: int = Field(default=10, ge=0)
    """Validations after which all have joined; 0: all join at once."""
    strength: float = Field(default=1.0, ge=0, le=20)
    """Exponent of 1 - c_l; 0: temperature sampling over the pairs that have joined."""


@dataclass
class CclMMemory(SamplerMemory):
    """State of CCL-M: the pairs' competence, and which of them have joined."""

    competence: list[float]
    """c_l of the last validation; 0 before the first."""
    joined: list[bool]
    """Whether each pair is trained on."""
    validations: int = 0
    """Validations so far."""


def ccl_m(settings: CclMSettings, pairs: Sequence[str], sizes: Sequence[int]) -> Sampler:
    """Approximates CCL-M by the formulas at the head of this file.

    Differs: CCL-M; paper: its text could not be had, but for the abstract; released: could not be had; ours: an
    approximation with formulas of our own; why: results must be labelled so.

    Args:
        settings: the sampler's settings.
        pairs: names of the language pairs.
        sizes: training sentences of each pair.

    Returns:
        The sampler.
    """
    shares = probabilities(sizes, settings.temperature)
    high = high_resource(settings, sizes)
    waiting = sorted((l for l in range(len(sizes)) if not high[l]), key=lambda l: (-sizes[l], l))  # largest first
    memory = CclMMemory([0.0] * len(sizes), list(high) if settings.latest else [True] * len(sizes))

    def mixture() -> list[float]:
        weights = [
            share * max(1 - competence, 1e-6) ** settings.strength if joined else 0.0
            for share, competence, joined in zip(shares, memory.competence, memory.joined, strict=True)
        ]
        return [weight / sum(weights) for weight in weights]

    distribution = Distribution(tuple(pairs), mixture())

    def on_validation(competence: Sequence[float]) -> None:
        memory.competence, memory.validations = list(competence), memory.validations + 1
        high_competence = sum(c for c, is_high in zip(competence, high, strict=True) if is_high) / sum(high)
        for k, l in enumerate(waiting):
            ready = settings.ready + k * settings.stagger
            memory.joined[l] |= high_competence >= ready or memory.validations >= settings.latest
        distribution.set(mixture())

    return Sampler(distribution, memory, on_validation=on_validation, scores=lambda: {"competence": memory.competence})


def high_resource(settings: CclMSettings, sizes: Sequence[int]) -> list[bool]:
    """Marks the high-resource pairs, which are trained from the start.

    Args:
        settings: the sampler's settings.
        sizes: training sentences of each pair.

    Returns:
        One flag a pair; the largest pairs where none has ``settings.high`` sentences.
    """
    from_size = settings.high or sum(sizes) / len(sizes)
    high = [size >= from_size for size in sizes]
    return high if any(high) else [size == max(sizes) for size in sizes]


ENTRY = SamplerEntry(
    CclMSettings, ccl_m, example={"sampler": {"name": "ccl_m", "ready": 0.05, "stagger": 0.5, "latest": 3}}
)

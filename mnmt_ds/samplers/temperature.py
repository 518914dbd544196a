"""Temperature sampling, p_l proportional to n_l^(1/T), as fairseq defines it."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from mnmt_ds.config import PaperDifference, Settings
from mnmt_ds.samplers.sampler import Distribution, Sampler, SamplerEntry


class TemperatureSettings(Settings):
    """Shares of the language pairs: fixed, or those that a dynamic sampler starts with."""

    differences: ClassVar = {
        "temperature": PaperDifference(
            "1: TED-8 1, WMT 5; 2: 1 beside 5 on WMT, 3 on TED-8; 3: 1", "2: UNI on TED-8 out of English 1 beside 5",
            "the papers' recipes and studies have the papers'",
        )
    }  # fmt: skip

    name: Literal["temperature"] = "temperature"
    """temperature: fixed shares from the pairs' sizes."""
    temperature: float = Field(1.0, ge=0.05)
    """T in p proportional to n^(1/T): 1 follows the sizes, larger favours small pairs."""


def temperature(settings: TemperatureSettings, pairs: Sequence[str], sizes: Sequence[int]) -> Sampler:
    """Keeps the shares of the recipe for good, also where it was changed before a resume.

    Args:
        settings: the sampler's settings.
        pairs: names of the language pairs.
        sizes: training sentences of each pair.

    Returns:
        The sampler.
    """
    return Sampler(Distribution(tuple(pairs), probabilities(sizes, settings.temperature)), dynamic=False)


def probabilities(sizes: Sequence[int], temperature: float) -> list[float]:
    """Computes p_l = (n_l / N)^(1/T), normalised.

    Args:
        sizes: training sentences of each pair.
        temperature: T.

    Returns:
        A probability a pair.
    """
    total = sum(sizes)
    raised = [(size / total) ** (1.0 / temperature) for size in sizes]
    return [value / sum(raised) for value in raised]


def counts(shares: Sequence[float], total: int) -> list[int]:
    """Rounds shares to whole sentences by largest remainders, at least one of every pair that has a share.

    Args:
        shares: a probability a pair.
        total: sentences to be shared out.

    Returns:
        Sentences a pair.
    """
    exact = [share * total for share in shares]
    floors = [max(1, int(value)) if share > 0 else 0 for share, value in zip(shares, exact, strict=True)]
    order = sorted((i for i, share in enumerate(shares) if share > 0), key=lambda i: (floors[i] - exact[i], i))
    for i in order[: max(0, total - sum(floors))]:
        floors[i] += 1
    return floors


ENTRY = SamplerEntry(TemperatureSettings, temperature, example={"sampler": {"name": "temperature", "temperature": 5}})

"""Temperature sampling, p_l proportional to n_l^(1/T), as fairseq defines it."""

from collections.abc import Sequence

from mnmt_ds.config import Settings


class SamplerSettings(Settings):
    """Shares of the language pairs."""

    name: str = "temperature"
    """temperature: fixed shares from the pairs' sizes."""
    temperature: float = 1.0
    """T in p proportional to n^(1/T): 1 follows the sizes, larger favours small pairs."""


def probabilities(sizes: Sequence[int], temperature: float) -> list[float]:
    """p_l = (n_l / N)^(1/T), normalised. Sizes in sentences."""
    total = sum(sizes)
    raised = [(size / total) ** (1.0 / temperature) for size in sizes]
    return [value / sum(raised) for value in raised]


def counts(shares: Sequence[float], total: int) -> list[int]:
    """Whole sentences a pair for an epoch of ``total``: largest remainders, at least one each."""
    exact = [share * total for share in shares]
    floors = [max(1, int(value)) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (floors[i] - exact[i], i))
    for i in order[: max(0, total - sum(floors))]:
        floors[i] += 1
    return floors

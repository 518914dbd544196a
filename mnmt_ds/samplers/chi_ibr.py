"""chi-IBR (Zhou, Levy, Li, Ghazvininejad and Neubig 2021, Distributionally Robust Multilingual Machine Translation).

Iterated best response: each epoch is drawn from the worst distribution within a chi-square ball around the pairs'
sentence shares, worst by the losses of the epoch before it above those of a converged plain run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mnmt_ds import metric_keys
from mnmt_ds.config import FilePath, Settings
from mnmt_ds.errors import UserError
from mnmt_ds.json_files import read_json, reason
from mnmt_ds.run_files import METRICS
from mnmt_ds.samplers.sampler import Distribution, Losses, Sampler, SamplerEntry, SamplerMemory
from mnmt_ds.samplers.temperature import probabilities
from mnmt_ds.tracking import read_records


class ChiIbrSettings(Settings):
    """Settings of χ-IBR: the next epoch is drawn from the worst distribution near the pairs' shares."""

    name: Literal["chi_ibr"] = "chi_ibr"
    """chi_ibr: iterated best response in a chi-square ball."""
    temperature: float = Field(default=1.0, ge=0.05)
    """T of the shares around which the ball lies, p proportional to n^(1/T) (the paper's: 1)."""
    baseline: FilePath = Field(examples=["runs/plain"])
    """Training losses of a converged plain run: its directory, or JSON {pair: loss}."""
    rho: float = Field(default=0.05, gt=0)
    """Size of the ball: 1/2 sum_l p_l (q_l / p_l - 1)^2."""
    decay: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the moving averages of the pairs' losses."""
    least: float = Field(default=0.2, ge=0, lt=1)
    """The least that q_l / p_l becomes before it is normalised."""
    tolerance: float = Field(default=1e-4, gt=0)
    """How near to rho the bisection ends."""


@dataclass
class ChiIbrMemory(SamplerMemory):
    """State of χ-IBR: the pairs' losses in training, and those of the plain run."""

    losses: list[float]
    """Moving averages L_g, nats a token."""
    seen: list[bool]
    """Which pairs this epoch has had."""
    baseline: list[float] = field(default_factory=list)
    """b_g of the plain run; empty until the run starts."""


def chi_ibr(settings: ChiIbrSettings, pairs: Sequence[str], sizes: Sequence[int]) -> Sampler:
    """Moves L_g <- 0.9 L_g + 0.1 loss_g for the pairs of each update; at an epoch's end the best response to L - b.

    Differs: first value of χ-IBR's moving average; paper: not said; released: 0; ours: an epoch's first loss of the
    pair; why: from 0 a pair of few updates is underrated, after many it is the same.

    Differs: χ-IBR's floor of q at min p; paper: yes; released: not in the version that is public; ours: yes; why: the
    paper's.

    Args:
        settings: the sampler's settings.
        pairs: names of the language pairs.
        sizes: training sentences of each pair.

    Returns:
        The sampler.
    """
    shares = probabilities(sizes, settings.temperature)
    distribution = Distribution(tuple(pairs), list(shares))
    memory = ChiIbrMemory([0.0] * len(pairs), [False] * len(pairs))

    def start() -> None:
        memory.baseline = read_baseline(settings.baseline, pairs)

    def on_update(losses: Losses) -> None:
        for g, (total, tokens) in enumerate(losses):
            if tokens:
                loss, decay = total / tokens, settings.decay if memory.seen[g] else 0.0
                memory.losses[g] = decay * memory.losses[g] + (1 - decay) * loss
                memory.seen[g] = True

    def on_epoch_end() -> None:
        above = [loss - b for loss, b in zip(memory.losses, memory.baseline, strict=True)]
        worst = above if max(above) >= 0 else memory.losses
        distribution.set(best_response(shares, worst, settings.rho, settings.least, settings.tolerance))
        memory.seen = [False] * len(pairs)

    def on_new_metric() -> None:
        start()
        memory.seen = [False] * len(pairs)

    def scores() -> dict[str, Sequence[float]]:
        return {"average_loss": memory.losses, "baseline_loss": memory.baseline}

    return Sampler(
        distribution, memory, start=start, on_update=on_update, on_epoch_end=on_epoch_end,
        on_new_metric=on_new_metric, scores=scores,
    )  # fmt: skip


def best_response(
    shares: Sequence[float], losses: Sequence[float], rho: float, least: float, tolerance: float
) -> list[float]:
    """Finds the worst distribution q in the ball: p(eta) at the eta where 1/2 sum_l p_l (p_l(eta) / p_l - 1)^2 = rho.

    Then q is raised to at least min p and normalised. The distance grows with eta, from 0 far below all losses to its
    greatest just below the largest; where even that is less than rho, that is taken.

    Args:
        shares: p, the middle of the ball.
        losses: l, one a pair.
        rho: size of the ball.
        least: the least that q_l / p_l becomes before it is normalised.
        tolerance: how near to rho the bisection ends.

    Returns:
        q, a probability a pair.
    """
    high = max(losses)
    width = high - min(losses)
    if width == 0:
        return list(shares)

    def excess(eta: float) -> float:
        q = tilted(shares, losses, eta, least)
        return sum(p * (x / p - 1) ** 2 for p, x in zip(shares, q, strict=True)) / 2 - rho

    low = min(losses)
    while excess(low) > 0:
        low -= width
        width *= 2
    eta = low
    while True:
        middle = (low + high) / 2
        if not low < middle < high:  # no number between: the distance never reaches rho
            break
        eta, distance = middle, excess(middle)
        if abs(distance) <= tolerance:
            break
        low, high = (low, middle) if distance > 0 else (middle, high)
    floor = min(shares)
    raised = [max(q, floor) for q in tilted(shares, losses, eta, least)]
    total = sum(raised)
    return [q / total for q in raised]


def tilted(shares: Sequence[float], losses: Sequence[float], eta: float, least: float) -> list[float]:
    """Tilts p towards pairs of high loss: u = p relu(l - eta), q = u / sum u; then max(q / p, least) p, normalised.

    Args:
        shares: p.
        losses: l, one a pair.
        eta: the threshold, below the largest loss.
        least: the least of q_l / p_l.

    Returns:
        p(eta), a probability a pair.
    """
    u = [p * max(loss - eta, 0.0) for p, loss in zip(shares, losses, strict=True)]
    total = sum(u)
    raised = [max(x / total, least * p) for x, p in zip(u, shares, strict=True)]
    total = sum(raised)
    return [value / total for value in raised]


def read_baseline(path: Path, pairs: Sequence[str]) -> list[float]:
    """Reads b_g of each pair from a plain run or a file.

    Of a run: the mean training loss of each pair (``data/<pair>/loss``) up to its overall best validation.

    Args:
        path: the directory of a finished plain run, or JSON {pair: loss}.
        pairs: names of the language pairs.

    Returns:
        One loss a pair, nats a token.

    Raises:
        UserError: where the file or the run lacks it.
    """
    losses = _of_run(path) if path.is_dir() else _of_file(path)
    missing = [
        pair for pair in pairs if not isinstance(losses.get(pair), int | float) or not math.isfinite(losses[pair])
    ]
    if missing:
        raise UserError(
            f"{path}: no training loss of {', '.join(missing)}; sampler chi_ibr needs that of every pair: train a plain"
            " run on the same pairs (method translation, sampler temperature) and give its directory"
        )
    return [float(losses[pair]) for pair in pairs]


def _of_file(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({reason(error)}); sampler.baseline is the directory of a finished plain run, or"
            " JSON {pair: loss}"
        ) from None


def _of_run(run: Path) -> dict[str, Any]:
    path = run / METRICS
    records = [record for record in read_records(path) if record.get("kind") == "valid"] if path.exists() else []
    if not records:
        raise UserError(f"{path}: no validation in it; sampler.baseline is the directory of a finished plain run")
    best = records[-1].get(metric_keys.VALID_BEST_UPDATE)
    record = next((record for record in records if record["update"] == best), records[-1])
    return {pair: value for key, value in record.items() if (pair := metric_keys.DATA_LOSS.name_in(key))}


ENTRY = SamplerEntry(ChiIbrSettings, chi_ibr, example={"sampler": {"name": "chi_ibr", "baseline": "{plain_run}"}})

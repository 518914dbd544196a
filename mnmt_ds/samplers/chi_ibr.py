"""chi-IBR (Zhou, Levy, Li, Ghazvininejad and Neubig 2021, Distributionally Robust Multilingual Machine Translation).

Iterated best response: each epoch is drawn from the worst distribution within a chi-square ball around the pairs'
sentence shares, worst by the losses of the epoch before it above those of a converged plain run.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mnmt_ds import metric_keys
from mnmt_ds.config import Settings
from mnmt_ds.errors import UserError
from mnmt_ds.samplers.sampler import Losses, Sampler
from mnmt_ds.tracking import read_records


class ChiIbrSettings(Settings):
    """The next epoch is drawn from the worst distribution near the pairs' shares."""

    name: Literal["chi_ibr"] = "chi_ibr"
    """chi_ibr: iterated best response in a chi-square ball."""
    temperature: float = Field(default=1.0, gt=0)
    """T of the shares around which the ball lies, p proportional to n^(1/T) (the paper's: 1)."""
    baseline: Path
    """Training losses of a converged plain run: its directory, or JSON {pair: loss}."""
    rho: float = Field(default=0.05, gt=0)
    """Size of the ball: 1/2 sum_l p_l (q_l / p_l - 1)^2."""
    decay: float = Field(default=0.9, ge=0, lt=1)
    """Of the moving averages of the pairs' losses."""
    least: float = Field(default=0.2, ge=0, lt=1)
    """The least that q_l / p_l becomes before it is normalised."""
    tolerance: float = Field(default=1e-4, gt=0)
    """How near to rho the bisection ends."""


class ChiIbr(Sampler):
    """L_g <- 0.9 L_g + 0.1 loss_g for the pairs of each update; at an epoch's end the best response to L - b.

    Differs: an epoch's first loss of a pair starts its average (the authors' begins at 0, which underrates a pair of
    few updates; after many it is the same).
    """

    dynamic = True

    def __init__(self, settings: Any, pairs: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__(settings, pairs, sizes)
        self.shares = list(self.probabilities)
        self.baseline: list[float] = []
        self.losses = [0.0] * len(self.pairs)
        self.seen = [False] * len(self.pairs)
        """Which pairs this epoch has had."""

    def begin(self) -> None:
        self.baseline = read_baseline(self.settings.baseline, self.pairs)

    def observe(self, losses: Losses) -> None:
        for g, (total, tokens) in enumerate(losses):
            if tokens:
                loss, decay = total / tokens, self.settings.decay if self.seen[g] else 0.0
                self.losses[g] = decay * self.losses[g] + (1 - decay) * loss
                self.seen[g] = True

    def on_epoch(self) -> None:
        settings, above = self.settings, [loss - b for loss, b in zip(self.losses, self.baseline, strict=True)]
        worst = above if max(above) >= 0 else self.losses
        self.set(best_response(self.shares, worst, settings.rho, settings.least, settings.tolerance))
        self.seen = [False] * len(self.pairs)

    def scores(self) -> dict[str, Sequence[float]]:
        return {"average_loss": self.losses, "baseline_loss": self.baseline}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "losses": self.losses, "seen": self.seen, "baseline": self.baseline}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.losses, self.seen = list(state["losses"]), list(state["seen"])
        self.baseline = list(state["baseline"])


def best_response(
    shares: Sequence[float], losses: Sequence[float], rho: float, least: float, tolerance: float
) -> list[float]:
    """q: p(eta) at the eta where 1/2 sum_l p_l (p_l(eta) / p_l - 1)^2 = rho, then at least min p, normalised.

    The distance grows with eta, from 0 far below all losses to its greatest just below the largest; where even that is
    less than rho, that is taken.
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
        eta, found = middle, excess(middle)
        if abs(found) <= tolerance:
            break
        low, high = (low, middle) if found > 0 else (middle, high)
    raised = [max(q, min(shares)) for q in tilted(shares, losses, eta, least)]
    return [q / sum(raised) for q in raised]


def tilted(shares: Sequence[float], losses: Sequence[float], eta: float, least: float) -> list[float]:
    """p(eta), eta below the largest loss: u = p relu(l - eta), q = u / sum u; then max(q / p, least) p, normalised."""
    u = [p * max(loss - eta, 0.0) for p, loss in zip(shares, losses, strict=True)]
    raised = [max(x / sum(u), least * p) for x, p in zip(u, shares, strict=True)]
    return [value / sum(raised) for value in raised]


def read_baseline(path: Path, pairs: Sequence[str]) -> list[float]:
    """b_g of each pair; UserError where the file or the run does not say it.

    Of a run: the mean training loss of each pair (``data/<pair>/loss``) up to its overall best validation.
    """
    found = _of_run(path) if path.is_dir() else _of_file(path)
    missing = [pair for pair in pairs if not isinstance(found.get(pair), int | float) or not math.isfinite(found[pair])]
    if missing:
        raise UserError(
            f"{path}: no training loss of {', '.join(missing)}; sampler chi_ibr needs that of every pair: train a plain"
            " run on the same pairs (method translation, sampler temperature) and give its directory"
        )
    return [float(found[pair]) for pair in pairs]


def _of_file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); sampler.baseline is the directory of a finished plain run, or"
            " JSON {pair: loss}"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); write {{pair: loss}}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}:1: not of the form {{pair: loss}}; mend it")
    return found


def _of_run(run: Path) -> dict[str, Any]:
    path = run / "metrics.jsonl"
    records = [record for record in read_records(path) if record.get("kind") == "valid"] if path.exists() else []
    if not records:
        raise UserError(f"{path}: no validation in it; sampler.baseline is the directory of a finished plain run")
    best = records[-1].get(metric_keys.VALID_BEST_UPDATE)
    record = next((record for record in records if record["update"] == best), records[-1])
    return {pair: value for key, value in record.items() if (pair := metric_keys.DATA_LOSS.name_in(key))}

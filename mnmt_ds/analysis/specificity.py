"""Language-specificity of parameters, and how alike languages use them (paper 3, Equation 4 and Section 3.2).

Letters: L languages, N parameters.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SIGMA = 1e-8
"""The paper's sigma in Equation 4."""


def specificity(sensitivity_LN: Tensor, others_LN: Tensor, sigma: float = SIGMA) -> Tensor:
    """Computes language-specificity (paper 3, Equation 4): D = (S(l) - S(all but l)) / (S(all but l) + sigma).

    Args:
        sensitivity_LN: sensitivities of every language.
        others_LN: of all but that language, on mixed batches (the paper) or as ``mean_of_others`` gives them.
        sigma: keeps the quotient finite.

    Returns:
        (L, N).
    """
    return (sensitivity_LN - others_LN) / (others_LN + sigma)


def mean_of_others(sensitivity_LN: Tensor) -> Tensor:
    """Averages over all other languages, each on batches of its own.

    It is larger than on mixed batches, where the languages' gradients partly cancel before the absolute value is taken.

    Args:
        sensitivity_LN: sensitivities of every language.

    Returns:
        (L, N).
    """
    others_LN = (sensitivity_LN.sum(0) - sensitivity_LN) / (len(sensitivity_LN) - 1)
    return others_LN.clamp_(min=0)  # a difference of sums may fall below by a rounding


def most_sensitive(sensitivity_LN: Tensor, share: float = 0.1) -> Tensor:
    """Picks the parameters whose sensitivity, averaged over languages, is highest.

    Args:
        sensitivity_LN: sensitivities of every language.
        share: of the parameters, 0 to 1.

    Returns:
        bool (N,).
    """
    mean_N = sensitivity_LN.mean(0)
    chosen_N = torch.zeros(len(mean_N), dtype=torch.bool)
    chosen_N[mean_N.topk(round(share * len(mean_N))).indices] = True
    return chosen_N


def correlations(sensitivity_LN: Tensor) -> Tensor:
    """Computes Pearson's correlation of every two languages' sensitivities.

    Args:
        sensitivity_LN: sensitivities of every language.

    Returns:
        float64 (L, L).
    """
    return torch.stack([torch.stack([pearson(a_N, b_N) for b_N in sensitivity_LN]) for a_N in sensitivity_LN])


def pearson(a_N: Tensor, b_N: Tensor) -> Tensor:
    """Computes Pearson's correlation of two lists.

    Args:
        a_N: a list.
        b_N: another.

    Returns:
        float64 (); NaN where a list is constant.
    """
    a, b = a_N.double() - a_N.double().mean(), b_N.double() - b_N.double().mean()
    return (a @ b) / (a.norm() * b.norm())


class SensitivitySpread(NamedTuple):
    """Spread of parameters' sensitivity: the smaller the deviation, the more balanced their contribution."""

    deviation: float
    mean: float
    quantiles: dict[str, float]
    shown_N: Tensor
    """At most a million values for a picture."""


def sensitivity_spread(sensitivity_LN: Tensor, cut: float = 0.01, most: int = 1_000_000) -> SensitivitySpread:
    """Describes how the sensitivity, averaged over languages, is distributed over parameters (paper 3, Figure 10).

    Args:
        sensitivity_LN: sensitivities of every language.
        cut: share of the most sensitive parameters that is left out.
        most: values kept for a picture, at most.

    Returns:
        Deviation, mean, quantiles, and the values for a picture.
    """
    mean_N = sensitivity_LN.mean(0).sort().values
    kept_N = mean_N[: len(mean_N) - round(cut * len(mean_N))].double()
    quantile_indices = {f"{q:g}": min(len(kept_N) - 1, int(q * len(kept_N))) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    shown_N = kept_N[:: max(1, len(kept_N) // most)]
    return SensitivitySpread(
        float(kept_N.std()), float(kept_N.mean()), {q: float(kept_N[i]) for q, i in quantile_indices.items()}, shown_N
    )

"""MultiUAT's seven measures of a model's uncertainty on a batch (Wu et al. 2021, Section 3; as their code has them).

Shape letters: B sentences, T target positions, V vocabulary, D model width, N gold tokens of the batch, R rows of a
block of them.

m_t is the log-probability of the most probable word at target position t, given the gold words before it. Sums, means
and variances of m run over a sentence's positions, its end symbol included; E over sentences and passes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 1024
"""Positions whose distributions over the vocabulary are held at a time."""


class TokenStatistics(NamedTuple):
    """Statistics of a pass at every target position, (B, T) each; 0 at padding."""

    most_BT: Tensor
    """m: greatest log-probability."""
    entropy_BT: Tensor
    """- sum_w p_w log p_w, in nats."""
    ce_BT: Tensor
    """Label-smoothed cross-entropy with gold."""
    here_BT: Tensor
    """1.0 where a gold token stands."""


@torch.no_grad()
def token_statistics(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, smoothing: float, pad: int
) -> TokenStatistics:
    """Computes statistics of the distributions from decoder states, some rows at a time.

    Args:
        hidden_BTD: decoder states, (B, T, D).
        projection_VD: output projection, (V, D).
        target_BT: gold tokens, (B, T), ``pad`` where nothing counts.
        smoothing: label smoothing of the cross-entropy.
        pad: id of padding.

    Returns:
        Statistics at every target position.
    """
    here_BT = target_BT != pad
    values_N3 = torch.zeros(int(here_BT.sum()), 3, device=hidden_BTD.device)
    hidden_ND, gold_N = hidden_BTD[here_BT], target_BT[here_BT]
    for first in range(0, len(gold_N), ROWS):
        logp_RV = (hidden_ND[first : first + ROWS] @ projection_VD.T).float().log_softmax(-1)
        gold_R = logp_RV.gather(1, gold_N[first : first + ROWS, None]).squeeze(1)
        entropy_R = -(logp_RV.exp() * logp_RV).sum(-1)
        ce_R = -(1 - smoothing) * gold_R - smoothing * logp_RV.mean(-1)
        values_N3[first : first + ROWS] = torch.stack([logp_RV.max(-1).values, entropy_R, ce_R], -1)
    whole_BT3 = values_N3.new_zeros(*target_BT.shape, 3)
    whole_BT3[here_BT] = values_N3
    most_BT, entropy_BT, ce_BT = whole_BT3.unbind(-1)
    return TokenStatistics(most_BT, entropy_BT, ce_BT, here_BT.float())


def moments(statistics: TokenStatistics) -> tuple[Tensor, Tensor]:
    """Computes mean and variance (1/T, not 1/(T - 1)) of m over each sentence's positions.

    Args:
        statistics: of a micro-batch.

    Returns:
        Mean and variance, (B,) each.
    """
    length_B = statistics.here_BT.sum(-1)
    mean_B = statistics.most_BT.sum(-1) / length_B
    return mean_B, (((statistics.most_BT - mean_B[:, None]) * statistics.here_BT) ** 2).sum(-1) / length_B


def pretp(statistics: TokenStatistics) -> Tensor:
    """Computes MultiUAT's predicted translation probability reward: 1 - E[exp sum_t m_t].

    Args:
        statistics: of a micro-batch.

    Returns:
        (2,): a sum and what it is to be divided by.
    """
    return _mean_of(1 - statistics.most_BT.sum(-1).exp())


def exptp(statistics: TokenStatistics) -> Tensor:
    """Computes MultiUAT's expected translation probability reward: 1 - E[exp mean_t m_t].

    Args:
        statistics: of a micro-batch.

    Returns:
        (2,): a sum and what it is to be divided by.
    """
    return _mean_of(1 - moments(statistics)[0].exp())


def vartp(statistics: TokenStatistics) -> Tensor:
    """Computes MultiUAT's variance of translation probability reward: E[Var_t m_t].

    Args:
        statistics: of a micro-batch.

    Returns:
        (2,): a sum and what it is to be divided by.
    """
    return _mean_of(moments(statistics)[1])


def comtp(statistics: TokenStatistics) -> Tensor:
    """Combines the two, E[exp(Var_t m_t / mean_t m_t)]; 1 for a sentence of which every word is certain.

    Args:
        statistics: of a micro-batch.

    Returns:
        (2,): a sum and what it is to be divided by.
    """
    mean_B, variance_B = moments(statistics)
    return _mean_of(torch.where(mean_B == 0, 0, variance_B / mean_B).exp())


def enttp(statistics: TokenStatistics) -> Tensor:
    """Averages the entropy over all target positions.

    Args:
        statistics: of a micro-batch.

    Returns:
        (2,): a sum and what it is to be divided by.
    """
    return torch.stack([statistics.entropy_BT.sum(), statistics.here_BT.sum()])


def enteos(statistics: TokenStatistics) -> Tensor:
    """Averages the entropy at the end symbol.

    Args:
        statistics: of a micro-batch.

    Returns:
        (2,): a sum and what it is to be divided by.
    """
    last_B = statistics.here_BT.sum(-1).long() - 1
    return _mean_of(statistics.entropy_BT.gather(1, last_B[:, None]))


def xentropy(statistics: TokenStatistics) -> Tensor:
    """Averages the label-smoothed cross-entropy over all target positions.

    Args:
        statistics: of a micro-batch.

    Returns:
        (2,): a sum and what it is to be divided by.
    """
    return torch.stack([statistics.ce_BT.sum(), statistics.here_BT.sum()])


REWARDS: Mapping[str, Callable[[TokenStatistics], Tensor]] = {
    reward.__name__: reward for reward in (pretp, exptp, vartp, comtp, enttp, enteos, xentropy)
}
"""Each gives (2,): a sum and what it is to be divided by, so that parts of a batch may be added."""


def _mean_of(value_B: Tensor) -> Tensor:
    return torch.stack([value_B.sum(), value_B.new_tensor(float(len(value_B)))])

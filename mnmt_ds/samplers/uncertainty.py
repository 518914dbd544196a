"""MultiUAT's seven measures of a model's uncertainty on a batch (Wu et al. 2021, Section 3; as their code has them).

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
    """What a pass says at every target position; 0 at padding."""

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
    """From decoder states to statistics of the distributions, some rows at a time."""
    here_BT = target_BT != pad
    found_N3 = torch.zeros(int(here_BT.sum()), 3, device=hidden_BTD.device)
    hidden_ND, gold_N = hidden_BTD[here_BT], target_BT[here_BT]
    for first in range(0, len(gold_N), ROWS):
        logp_RV = (hidden_ND[first : first + ROWS] @ projection_VD.T).float().log_softmax(-1)
        gold_R = logp_RV.gather(1, gold_N[first : first + ROWS, None]).squeeze(1)
        entropy_R = -(logp_RV.exp() * logp_RV).sum(-1)
        ce_R = -(1 - smoothing) * gold_R - smoothing * logp_RV.mean(-1)
        found_N3[first : first + ROWS] = torch.stack([logp_RV.max(-1).values, entropy_R, ce_R], -1)
    whole_BT3 = found_N3.new_zeros(*target_BT.shape, 3)
    whole_BT3[here_BT] = found_N3
    return TokenStatistics(*whole_BT3.unbind(-1), here_BT.float())


def moments(found: TokenStatistics) -> tuple[Tensor, Tensor]:
    """Mean and variance (1/T, not 1/(T - 1)) of m over each sentence's positions, (B,) each."""
    length_B = found.here_BT.sum(-1)
    mean_B = found.most_BT.sum(-1) / length_B
    return mean_B, (((found.most_BT - mean_B[:, None]) * found.here_BT) ** 2).sum(-1) / length_B


def pretp(found: TokenStatistics) -> Tensor:
    """1 - E[exp sum_t m_t]: predicted translation probability."""
    return _mean_of(1 - found.most_BT.sum(-1).exp())


def exptp(found: TokenStatistics) -> Tensor:
    """1 - E[exp mean_t m_t]: expected translation probability."""
    return _mean_of(1 - moments(found)[0].exp())


def vartp(found: TokenStatistics) -> Tensor:
    """E[Var_t m_t]: variance of translation probability."""
    return _mean_of(moments(found)[1])


def comtp(found: TokenStatistics) -> Tensor:
    """E[exp(Var_t m_t / mean_t m_t)]: the two combined; 1 for a sentence of which every word is certain."""
    mean_B, variance_B = moments(found)
    return _mean_of(torch.where(mean_B == 0, 0, variance_B / mean_B).exp())


def enttp(found: TokenStatistics) -> Tensor:
    """The entropy's mean over all target positions."""
    return torch.stack([found.entropy_BT.sum(), found.here_BT.sum()])


def enteos(found: TokenStatistics) -> Tensor:
    """E[entropy at the end symbol]."""
    last_B = found.here_BT.sum(-1).long() - 1
    return _mean_of(found.entropy_BT.gather(1, last_B[:, None]))


def xentropy(found: TokenStatistics) -> Tensor:
    """The label-smoothed cross-entropy's mean over all target positions."""
    return torch.stack([found.ce_BT.sum(), found.here_BT.sum()])


REWARDS: Mapping[str, Callable[[TokenStatistics], Tensor]] = {
    reward.__name__: reward for reward in (pretp, exptp, vartp, comtp, enttp, enteos, xentropy)
}
"""Each gives (2,): a sum and what it is to be divided by, so that parts of a batch may be added."""


def _mean_of(value_B: Tensor) -> Tensor:
    return torch.stack([value_B.sum(), value_B.new_tensor(float(len(value_B)))])

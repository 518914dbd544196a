"""Translations drawn from the model's distribution, in place of searched ones.

Shape letters: B sentences, W beams (one), N = B·W, V vocabulary.
"""

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mnmt_ds.batch import EOS
from mnmt_ds.decoding.beam_search import BeamSettings, Candidates, Continuations, RunningBeams

LEAST_TEMPERATURE = 1e-6
"""Below it float32 would overflow; the most probable token is drawn from here on down."""


def sampler(settings: BeamSettings, name: str) -> Continuations:
    """Makes the function that draws the next token of each sentence.

    Args:
        settings: temperature, the most probable tokens that may be drawn, and the seed.
        name: of the batch: with the seed it decides what is drawn, wherever and in which process.

    Returns:
        Candidates of (B, 1): their scores are the new sums under the model's own distribution.
    """
    digest = hashlib.sha256(f"{settings.sample_seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def draw(logits_NV: Tensor, search: RunningBeams, length: int, banned: Sequence[int]) -> Candidates:
        log_prob_NV = torch.log_softmax(logits_NV, -1)
        scaled_NV = log_prob_NV / max(settings.sample_temperature, LEAST_TEMPERATURE)
        scaled_NV[:, list(banned)] = -torch.inf
        kept_NV = keep_likely(scaled_NV, settings.sample_top_k, settings.sample_top_p)
        prob_NV = torch.softmax(kept_NV.cpu(), -1)
        lost_N = prob_NV.isnan().any(-1)  # scores that are not finite: such a sentence ends, without a hypothesis
        prob_NV[lost_N] = F.one_hot(torch.tensor(EOS), prob_NV.shape[1]).float()
        token_N1 = torch.multinomial(prob_NV, 1, generator=generator).to(logits_NV.device)
        return search.score_BW + log_prob_NV.gather(1, token_N1), torch.zeros_like(token_N1), token_N1

    return draw


def keep_likely(logit_NV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Masks unlikely tokens, so that they are never drawn.

    Args:
        logit_NV: log-probabilities, up to a constant a row.
        top_k: how many of the most probable tokens stay; 0: all.
        top_p: of the most probable tokens as many stay as together have this probability; 1: all.

    Returns:
        The same with -inf for what is left out; (N, V).
    """
    if 0 < top_k < logit_NV.shape[1]:
        logit_NV = logit_NV.masked_fill(logit_NV < logit_NV.topk(top_k)[0][:, -1:], -torch.inf)
    if top_p < 1:
        sorted_NV, order_NV = logit_NV.sort(descending=True)
        prob_NV = torch.softmax(sorted_NV, -1)
        unlikely_NV = prob_NV.cumsum(-1) - prob_NV >= top_p  # what stands before it has that probability already
        logit_NV = logit_NV.masked_fill(unlikely_NV.scatter(1, order_NV, unlikely_NV), -torch.inf)
    return logit_NV

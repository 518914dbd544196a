"""Batched beam search whose hypotheses are those of transformers' ``generate``; finished sentences leave the batch.

A sentence's hypotheses do not depend on what else is in the batch. A hypothesis scores its summed log-probability,
end symbol included, divided by length ** length_penalty, as in fairseq and transformers.

Shape letters: B sentences, W beams, C = 2·W candidates, T generated tokens, N = B·W, D width.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from mnmt_ds.batch import BOS, EOS, PAD
from mnmt_ds.config import Settings
from mnmt_ds.decoding import incremental, native
from mnmt_ds.decoding.ensemble import EnsembleStep
from mnmt_ds.models.transformer import Transformer

NO_HYPOTHESIS = -1e9
"""Score of a hypothesis that does not exist."""
FILLER = -1
"""Stands after the end of a finished hypothesis."""


class BeamSettings(Settings):
    """Settings of the search for translations; the defaults are the papers' (beam 5, length penalty 1.0)."""

    beam: int = Field(default=5, ge=1, le=1000)
    """Hypotheses kept a sentence; 1: greedy search."""
    length_penalty: float = Field(1.0, ge=-10, le=10)
    """Exponent of the length that scores are divided by; above 1 favours long translations, 0 compares plain sums."""
    early_stopping: bool = True
    """true: a sentence ends with its beam-th finished hypothesis (fairseq); false: once no running one looks better."""
    max_length_ratio: float = Field(default=2.0, ge=0, le=1000)
    """Longest translation in tokens: this times the source's tokens, plus max_length_plus."""
    max_length_plus: int = Field(default=20, ge=1, le=1_048_576)
    """See max_length_ratio."""
    ban_unknown: bool = False
    """Never generate the unknown piece, which is written " ⁇ "; the best translation without it is searched for."""
    banned_pieces: tuple[str, ...] = ()
    """Pieces of the vocabulary that are never generated."""
    sample_temperature: float = Field(default=0.0, ge=0, le=100)
    """Above 0 translations are drawn, not searched for: token by token, from probabilities ** (1 / temperature)."""
    sample_top_k: int = Field(default=0, ge=0)
    """Draw from that many of the most probable tokens; 0: from all."""
    sample_top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from as many of the most probable tokens as together have this probability."""
    sample_seed: int = Field(default=0, ge=0)
    """Seed of sampling."""

    @model_validator(mode="after")
    def _one_beam(self) -> "BeamSettings":
        if self.sample_temperature and self.beam != 1:
            raise ValueError("sampling has no beam; set beam to 1")
        return self


class Hypothesis(NamedTuple):
    """A finished translation: piece ids without the end symbol, and its length-normalised log-probability."""

    tokens: list[int]
    score: float


class RunningBeams(NamedTuple):
    """The sentences still in the batch."""

    row_B: Tensor
    """Each sentence's place in the input."""
    limit_B: Tensor
    """Longest hypothesis of each sentence, end symbol included."""
    done_B: Tensor
    """Sentences that are finished and wait to leave."""
    score_BW: Tensor
    """Summed log-probability of the running beams, best first."""
    tokens_BWT: Tensor
    """What the running beams hold."""
    final_score_BW: Tensor
    """Normalised score of the finished hypotheses, best first; NEVER where there is none yet."""
    final_tokens_BWT: Tensor
    """The finished hypotheses, FILLER after their end."""


Candidates = tuple[Tensor, Tensor, Tensor]
"""Summed log-probability (float32), parent beam and token (int64), each (B, C), best first."""
Continuations = Callable[[Tensor, RunningBeams, int, Sequence[int]], Candidates]
"""Chooses how sentences go on: from the next tokens' logits (N, V), the running beams, the length of hypotheses with
one more token, and the tokens that are never generated."""


@torch.inference_mode()
def beam_search(
    model: Transformer | Sequence[Transformer],
    source_BS: Tensor,
    start: int | Sequence[int],
    settings: BeamSettings,
    limit: Sequence[int] | None = None,
    banned: Sequence[int] = (BOS, PAD),
    implementation: Literal["auto", "native", "torch"] = "auto",
    continuations: Continuations | None = None,
    width: int | None = None,
) -> list[list[Hypothesis]]:
    """Searches for translations of a batch of sentences.

    Args:
        model: the model, in eval mode; of several the probabilities are averaged.
        source_BS: int64, framed sources, PAD on the right.
        start: the decoder's first input, a language tag or the end symbol; of several inputs all but the first count in
            a hypothesis's length and are no part of its tokens.
        settings: beam, length penalty and limits.
        limit: longest hypothesis of each sentence in tokens, end symbol included; None: from the settings.
        banned: tokens that are never generated; their probability still counts in the normalisation.
        implementation: native (C++, float32 on a CPU), torch (any device and dtype), auto: native where it can run.
        continuations: chooses how sentences go on; None: the most probable continuations.
        width: W, running beams of a sentence; None: as many as hypotheses are kept, ``settings.beam``.

    Returns:
        For each sentence at most ``settings.beam`` hypotheses, best first.
    """
    models = [model] if isinstance(model, Transformer) else list(model)
    use_native = implementation == "native" or (implementation == "auto" and all(map(native.is_supported, models)))
    step: Any = native if use_native else incremental
    positions = min(each.settings.max_positions for each in models)
    model = models[0]
    if len(models) > 1:
        step, model = EnsembleStep(step), models
    width = width or settings.beam
    inputs = [start] if isinstance(start, int) else list(start)
    search = _start(positions, source_BS, settings, limit, len(inputs) - 1)
    longest = int(search.limit_B.max()) if len(source_BS) else 0
    cache = step.start_cache(model, source_BS, width, longest)
    token_BW = torch.full((len(source_BS), 1), inputs[-1], device=source_BS.device)
    for token in inputs[:-1]:
        _, cache = step.decode_step(model, cache, torch.full_like(token_BW, token))
        cache = step.reorder_beams(cache, torch.zeros_like(token_BW))
    result: list[list[Hypothesis]] = [[] for _ in range(len(source_BS))]
    while len(search.row_B):
        hidden_ND, cache = step.decode_step(model, cache, token_BW)
        logits_NV = step.project(model, hidden_ND)
        if continuations is None:
            candidates = step.top_continuations(logits_NV, search.score_BW, 2 * width, banned)
        else:
            candidates = continuations(logits_NV, search, cache.steps, banned)
        search, parent_BW, token_BW = _advance(search, candidates, cache.steps, settings, width)
        cache = step.reorder_beams(cache, parent_BW)
        done_count = int(search.done_B.sum())
        if done_count * step.COMPACT_SHARE >= len(search.row_B) or step.needs_compaction(cache):
            _collect(search, result)
            stay_B = (~search.done_B).nonzero()[:, 0]
            search = RunningBeams(*(value[stay_B] for value in search))
            cache, token_BW = step.select_sentences(cache, stay_B), token_BW[stay_B]
    return result


def length_limits(source_BS: Tensor, settings: BeamSettings, positions: int) -> Tensor:
    """Computes how long hypotheses may become: ratio * source tokens + plus, within the model's positions.

    Args:
        source_BS: int64, framed sources, PAD on the right.
        settings: max_length_ratio and max_length_plus.
        positions: the model's positions.

    Returns:
        int64 (B,), longest hypothesis of each sentence in tokens, end symbol included.
    """
    tokens_B = (source_BS != PAD).sum(1)
    return (tokens_B * settings.max_length_ratio).long().add_(settings.max_length_plus).clamp_(max=positions)


def _start(
    positions: int, source_BS: Tensor, settings: BeamSettings, limit: Sequence[int] | None, prefix_length: int
) -> RunningBeams:
    """The search before the first token; ``prefix_length`` tokens of every hypothesis count in lengths alone."""
    batch, device = len(source_BS), source_BS.device
    if limit is None:
        limit_B = length_limits(source_BS, settings, positions - prefix_length) + prefix_length
    else:
        limit_B = (torch.tensor(limit, device=device) + prefix_length).clamp(prefix_length + 1, positions)
    return RunningBeams(
        row_B=torch.arange(batch, device=device),
        limit_B=limit_B,
        done_B=torch.zeros(batch, dtype=torch.bool, device=device),
        score_BW=torch.zeros(batch, 1, device=device),
        tokens_BWT=torch.empty(batch, 1, 0, dtype=torch.long, device=device),
        final_score_BW=torch.full((batch, settings.beam), NO_HYPOTHESIS, device=device),
        final_tokens_BWT=torch.empty(batch, settings.beam, 0, dtype=torch.long, device=device),
    )


def _advance(
    search: RunningBeams, candidates: Candidates, length: int, settings: BeamSettings, beam: int
) -> tuple[RunningBeams, Tensor, Tensor]:
    """One token further: the search, each new running beam's parent, and its token. ``length`` counts that token."""
    score_BC, parent_BC, token_BC = candidates
    if (missing := beam - score_BC.shape[1]) > 0:  # a beam wider than the vocabulary, at the first step
        score_BC = F.pad(score_BC, (0, missing), value=-math.inf)
        parent_BC, token_BC = F.pad(parent_BC, (0, missing)), F.pad(token_BC, (0, missing))
    ends_BC = (token_BC == EOS) | (length >= search.limit_B)[:, None]
    if bool(ends_BC.any()):
        search = _finish(search, score_BC, parent_BC, token_BC, ends_BC, length, settings, beam)
        score_BC, choice_BW = score_BC.masked_fill(ends_BC, -math.inf).topk(beam)
        parent_BC, token_BC = parent_BC.gather(1, choice_BW), token_BC.gather(1, choice_BW)
    score_BW, parent_BW, token_BW = score_BC[:, :beam], parent_BC[:, :beam], token_BC[:, :beam]
    full_B = search.final_score_BW[:, -1] > NO_HYPOTHESIS
    if not settings.early_stopping:
        full_B = full_B & (score_BW[:, 0] / length**settings.length_penalty <= search.final_score_BW[:, -1])
    return (
        search._replace(
            done_B=search.done_B | full_B | (length >= search.limit_B),
            score_BW=score_BW,
            tokens_BWT=_extend(search.tokens_BWT, parent_BW, token_BW),
        ),
        parent_BW,
        token_BW,
    )


def _finish(
    search: RunningBeams,
    score_BC: Tensor,
    parent_BC: Tensor,
    token_BC: Tensor,
    ends_BC: Tensor,
    length: int,
    settings: BeamSettings,
    beam: int,
) -> RunningBeams:
    """Takes candidates that end, where they stand among the first ``beam``, into the finished hypotheses."""
    counts_BW = ends_BC[:, :beam] & ~search.done_B[:, None]
    new_BW = (score_BC[:, :beam] / length**settings.length_penalty).masked_fill(~counts_BW, NO_HYPOTHESIS)
    tokens_BWT = _extend(search.tokens_BWT, parent_BC[:, :beam], token_BC[:, :beam])
    missing = tokens_BWT.shape[2] - search.final_tokens_BWT.shape[2]
    merged_BXT = torch.cat([F.pad(search.final_tokens_BWT, (0, missing), value=FILLER), tokens_BWT], 1)
    score_BW, choice_BW = torch.cat([search.final_score_BW, new_BW], 1).topk(settings.beam)
    return search._replace(
        final_score_BW=score_BW,
        final_tokens_BWT=merged_BXT.gather(1, choice_BW[:, :, None].expand(-1, -1, tokens_BWT.shape[2])),
    )


def _extend(tokens_BWT: Tensor, parent_BW: Tensor, token_BW: Tensor) -> Tensor:
    """Each parent's tokens with one more at the end."""
    past_BWT = tokens_BWT.gather(1, parent_BW[:, :, None].expand(-1, -1, tokens_BWT.shape[2]))
    return torch.cat([past_BWT, token_BW[:, :, None]], 2)


def _collect(search: RunningBeams, result: list[list[Hypothesis]]) -> None:
    """Writes the hypotheses of sentences that are done to their places."""
    done_B = search.done_B.nonzero()[:, 0]
    results = (search.row_B[done_B], search.final_score_BW[done_B], search.final_tokens_BWT[done_B])
    for row, scores, sequences in zip(*(tensor.tolist() for tensor in results), strict=True):
        for score, tokens in zip(scores, sequences, strict=True):
            if score > NO_HYPOTHESIS and not math.isnan(score):
                ended = next((i for i, token in enumerate(tokens) if token in (EOS, FILLER)), len(tokens))
                result[row].append(Hypothesis(tokens[:ended], score))

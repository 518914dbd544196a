"""The decoding step of several models as one: the mean of their probabilities, as in fairseq.

Shape letters: B sentences, W beams, N = B·W, S source positions, V vocabulary, D width.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.models.transformer import Transformer


class EnsembleCache(NamedTuple):
    """The models' caches, in their order."""

    caches: tuple[Any, ...]

    @property
    def steps(self) -> int:
        """Positions decoded so far."""
        return int(self.caches[0].steps)


class EnsembleStep:
    """The functions of ``incremental`` (or ``native``) for several models at once, each with a cache of its own."""

    def __init__(self, step: Any) -> None:
        """Takes the functions that run each model.

        Args:
            step: the module ``incremental`` or ``native``.
        """
        self._step, self.top_continuations, self.COMPACT_SHARE = step, step.top_continuations, step.COMPACT_SHARE

    def start_cache(self, models: Sequence[Transformer], source_BS: Tensor, beams: int, longest: int) -> EnsembleCache:
        """Encodes the sources by every model.

        Args:
            models: in eval mode.
            source_BS: int64, framed sources, PAD on the right.
            beams: W, beams a sentence.
            longest: positions that will be decoded at most.

        Returns:
            The caches before the first step.
        """
        return EnsembleCache(tuple(self._step.start_cache(model, source_BS, beams, longest) for model in models))

    def decode_step(
        self, models: Sequence[Transformer], cache: EnsembleCache, token_BW: Tensor
    ) -> tuple[list[Tensor], EnsembleCache]:
        """Runs every decoder on each beam's newest token.

        Args:
            models: in eval mode.
            cache: the caches of all steps before.
            token_BW: int64, newest token of each beam.

        Returns:
            Of each model its decoder states (N, D), and the caches with the new keys and values.
        """
        stepped = [
            self._step.decode_step(model, each, token_BW) for model, each in zip(models, cache.caches, strict=True)
        ]
        return [hidden_ND for hidden_ND, _ in stepped], EnsembleCache(tuple(each for _, each in stepped))

    def project(self, models: Sequence[Transformer], hidden: Sequence[Tensor]) -> Tensor:
        """Computes the logarithm of the models' mean probability of each next token.

        Args:
            models: in eval mode.
            hidden: of each model its decoder states (N, D).

        Returns:
            float32 (N, V).
        """
        sum_NV: Tensor | None = None
        for model, hidden_ND in zip(models, hidden, strict=True):
            logits_NV = self._step.project(model, hidden_ND)
            log_prob_NV = torch.log_softmax(logits_NV, -1, out=logits_NV)
            sum_NV = log_prob_NV if sum_NV is None else torch.logaddexp(sum_NV, log_prob_NV, out=sum_NV)
        assert sum_NV is not None
        return sum_NV.sub_(math.log(len(models)))

    def reorder_beams(self, cache: EnsembleCache, parent_BW: Tensor) -> EnsembleCache:
        """Reorders the caches, so that each new beam continues from its parent beam.

        Args:
            cache: the caches of the parent beams.
            parent_BW: int64, parent beam of each new beam.

        Returns:
            The caches of the new beams.
        """
        return EnsembleCache(tuple(self._step.reorder_beams(each, parent_BW) for each in cache.caches))

    def needs_compaction(self, cache: EnsembleCache) -> bool:
        """Returns whether ``select_sentences`` must be called to make room for new keys and values.

        Args:
            cache: the caches after a step.

        Returns:
            What holds for each model's.
        """
        return bool(self._step.needs_compaction(cache.caches[0]))

    def select_sentences(self, cache: EnsembleCache, row_B: Tensor) -> EnsembleCache:
        """Keeps some of the sentences.

        Args:
            cache: the caches after a step.
            row_B: int64, rows of the sentences that stay.

        Returns:
            The caches of these sentences.
        """
        return EnsembleCache(tuple(self._step.select_sentences(each, row_B) for each in cache.caches))

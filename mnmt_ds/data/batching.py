"""Which sentences form which batch: a function of (seed, epoch, index), equal for any number of ranks and workers.

An epoch draws ``count`` sentences of every pair (the sampler's business), walks each pair through permutation
after permutation of its sentences (no sentence comes twice before all came once), cuts them into single-pair
batches of like length under a token budget, shuffles the batches of all pairs, and groups them into updates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.distributed import seed_of

Ints = NDArray[np.int64]
BAND = 3
"""Source tokens that a band of ``by_length`` spans."""


class PairLengths(NamedTuple):
    """Lengths of a pair's usable training sentences, in tokens with tags and end symbols."""

    index: Ints
    """The sentences' numbers in the pair's training set."""
    source: Ints
    target: Ints


class EpochPlan(NamedTuple):
    """An epoch's micro-batches in order; update u owns micro-batches u·M to (u + 1)·M, the last perhaps fewer."""

    sentence: Ints
    """Sentence numbers of all micro-batches, one after another."""
    start: Ints
    """Micro-batch k holds ``sentence[start[k]:start[k + 1]]``."""
    pair: Ints
    """Language pair of each micro-batch."""
    tokens: Ints
    """Target tokens of each micro-batch."""
    batches_per_update: int
    epoch: int = 0
    """What the noise of denoising tasks depends on."""

    @property
    def updates(self) -> int:
        return -(-len(self.pair) // self.batches_per_update)

    def divisor(self, update: int) -> int:
        """Target tokens of a whole update: the one divisor of its loss."""
        first = update * self.batches_per_update
        return int(self.tokens[first : first + self.batches_per_update].sum())


def usable_lengths(source: Ints, target: Ints, source_extra: int, target_extra: int, longest: int) -> PairLengths:
    """Lengths with frame tokens added; sentences over ``longest`` tokens on either side are left out."""
    source, target = source.astype(np.int64) + source_extra, target.astype(np.int64) + target_extra
    index = np.flatnonzero((source <= longest) & (target <= longest))
    return PairLengths(index, source[index], target[index])


def draw_sentences(size: int, count: int, offset: int, seed: int, pair: int) -> Ints:
    """``count`` of a pair's ``size`` sentences from position ``offset`` of its endless walk of permutations."""
    parts, position, end = [], offset, offset + count
    while position < end:
        lap, inside = divmod(position, size)
        taken = min(size - inside, end - position)
        order = np.random.Generator(np.random.Philox(seed_of(seed, "draw", pair, lap))).permutation(size)
        parts.append(order[inside : inside + taken])
        position += taken
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def length_order(source: Ints, target: Ints) -> Ints:
    """An order whose neighbours are alike on both sides: source lengths in narrow bands, targets up and down in turn.

    Against a sort by target and then source, this pads a tenth less where the sides' lengths are loosely tied.
    """
    band = source // BAND
    return np.lexsort((source, np.where(band % 2 == 0, target, -target), band))


def batch_bounds(source: Ints, target: Ints, max_tokens: int) -> Ints:
    """Starts of batches (and the end) over length-sorted sentences: size x longest side <= ``max_tokens``."""
    longest = np.maximum(source, target)
    starts, start, total = [0], 0, len(longest)
    while start < total:
        window = longest[start : start + max(1, max_tokens // max(1, int(longest[start])))]
        padded = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
        start += max(1, int(np.searchsorted(padded, max_tokens, side="right")))
        starts.append(start)
    return np.array(starts, np.int64)


def plan_epoch(
    lengths: Sequence[PairLengths],
    counts: Sequence[int],
    offsets: Sequence[int],
    *,
    seed: int,
    epoch: int | str,
    max_tokens: int,
    batches_per_update: int,
) -> EpochPlan:
    """The epoch's plan. ``counts``: sentences to draw of each pair; ``offsets``: how many were drawn before."""
    drawn = []
    for pair, (known, count, offset) in enumerate(zip(lengths, counts, offsets, strict=True)):
        picked = draw_sentences(len(known.index), count, offset, seed, pair)
        drawn.append(PairLengths(known.index[picked], known.source[picked], known.target[picked]))
    return plan_batches(drawn, seed_of(seed, "order", epoch), max_tokens, batches_per_update)


def plan_batches(drawn: Sequence[PairLengths], seed: int, max_tokens: int, batches_per_update: int) -> EpochPlan:
    """What was drawn of each pair, cut into single-pair batches in an order of its own."""
    sentences: list[Ints] = []
    pairs: list[int] = []
    tokens: list[int] = []
    for pair, known in enumerate(drawn):
        alike = length_order(known.source, known.target)
        starts = batch_bounds(known.source[alike], known.target[alike], max_tokens)
        for first, last in zip(starts[:-1], starts[1:], strict=True):
            sentences.append(known.index[alike[first:last]])
            tokens.append(int(known.target[alike[first:last]].sum()))
            pairs.append(pair)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(pairs))
    sizes = np.array([len(sentences[k]) for k in order], np.int64)
    return EpochPlan(
        sentence=np.concatenate([sentences[k] for k in order]) if len(order) else np.zeros(0, np.int64),
        start=np.concatenate([np.zeros(1, np.int64), sizes.cumsum()]),
        pair=np.array(pairs, np.int64)[order],
        tokens=np.array(tokens, np.int64)[order],
        batches_per_update=batches_per_update,
    )


def interleave_plans(plans: Sequence[EpochPlan]) -> EpochPlan:
    """Plans as one, each in its own order and evenly spread, so that every update has its share of each.

    No two plans may give different sources the same number.
    """
    place = np.concatenate([(np.arange(len(plan.pair)) + 0.5) / len(plan.pair) for plan in plans if len(plan.pair)])
    order = np.argsort(place, kind="stable")
    rows = [plan.sentence[a:b] for plan in plans for a, b in zip(plan.start[:-1], plan.start[1:], strict=True)]
    sizes = np.array([len(rows[k]) for k in order], np.int64)
    return EpochPlan(
        sentence=np.concatenate([rows[k] for k in order]),
        start=np.concatenate([np.zeros(1, np.int64), sizes.cumsum()]),
        pair=np.concatenate([plan.pair for plan in plans])[order],
        tokens=np.concatenate([plan.tokens for plan in plans])[order],
        batches_per_update=plans[0].batches_per_update,
    )


def fixed_batches(lengths: PairLengths, max_tokens: int) -> list[Ints]:
    """A dev or test set cut into batches of like length, always the same."""
    order = length_order(lengths.source, lengths.target)
    starts = batch_bounds(lengths.source[order], lengths.target[order], max_tokens)
    return [lengths.index[order[a:b]] for a, b in zip(starts[:-1], starts[1:], strict=True)]

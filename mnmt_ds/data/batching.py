"""Which sentences form which batch: a function of (seed, epoch, index), equal for any number of ranks and workers.

An epoch draws ``count`` sentences of every pair (the sampler's business), takes each pair through permutation
after permutation of its sentences (no sentence comes twice before all came once), cuts them into single-pair
batches of like length under a token budget, shuffles the batches of all pairs, and groups them into updates.

Letters: N sentences, K micro-batches.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.distributed import seed_of

Ints = NDArray[np.integer]
BAND = 3
"""Source tokens that a band of ``length_order`` spans."""


class PairLengths(NamedTuple):
    """Lengths of a pair's usable training sentences, in tokens with tags and end symbols; (N,) each."""

    sentence: Ints
    """The sentences' numbers in the pair's training set."""
    source: Ints
    """Encoder tokens."""
    target: Ints
    """Target tokens."""


class EpochPlan(NamedTuple):
    """An epoch's micro-batches in order; update u owns micro-batches u·M to (u + 1)·M, the last perhaps fewer."""

    sentence: Ints
    """Sentence numbers of all micro-batches, one after another."""
    start: Ints
    """Micro-batch k holds ``sentence[start[k]:start[k + 1]]``; (K + 1,)."""
    pair: Ints
    """Language pair of each micro-batch; (K,)."""
    tokens: Ints
    """Target tokens of each micro-batch; (K,)."""
    batches_per_update: int
    """Micro-batches M of an update, on all ranks together."""
    epoch: int = 0
    """What the noise of denoising tasks depends on."""
    longest: int = 0
    """Tokens of the longest sentence or block among those that were drawn from; 0: as long as the run's."""

    @property
    def updates(self) -> int:
        """Updates of the epoch."""
        return -(-len(self.pair) // self.batches_per_update)

    def sentences_of(self, number: int) -> NDArray[np.int64]:
        """Returns the sentences of a micro-batch.

        Args:
            number: of the micro-batch in the epoch, from 0.

        Returns:
            Numbers of its sentences, one-dimensional.
        """
        return self.sentence[self.start[number] : self.start[number + 1]].astype(np.int64)

    def divisor(self, update: int) -> int:
        """Counts the target tokens of a whole update: the one divisor of its loss.

        Args:
            update: number of the update in the epoch, from 0.

        Returns:
            Target tokens of all its micro-batches.
        """
        first = update * self.batches_per_update
        return int(self.tokens[first : first + self.batches_per_update].sum())


def usable_lengths(source: Ints, target: Ints, source_extra: int, target_extra: int, max_length: int) -> PairLengths:
    """Adds frame tokens to lengths, and leaves out sentences that are too long on either side.

    Args:
        source: pieces of each source sentence, (N,).
        target: pieces of each target sentence, (N,).
        source_extra: tags and end symbols around a source.
        target_extra: tags and end symbols around a target.
        max_length: longest side, in tokens.

    Returns:
        The usable sentences and their lengths in tokens.
    """
    source, target = source.astype(np.int32) + np.int32(source_extra), target.astype(np.int32) + np.int32(target_extra)
    fits = (source <= max_length) & (target <= max_length)
    return PairLengths(numbers_below(len(fits))[fits], source[fits], target[fits])


def numbers_below(size: int) -> Ints:
    """Makes an array 0, 1, …, n - 1 in the smallest integer type that holds it.

    Args:
        size: how many there are.

    Returns:
        The numbers 0 to size - 1, (size,).
    """
    return np.arange(size, dtype=np.int32 if size <= np.iinfo(np.int32).max else np.int64)


def draw_sentences(size: int, count: int, offset: int, seed: int, pair: int) -> Ints:
    """Draws sentences of a pair from an endless sequence of permutations of all of them.

    Args:
        size: sentences of the pair.
        count: how many to draw.
        offset: position in the sequence, that is how many were drawn before.
        seed: the run's seed.
        pair: the pair's number.

    Returns:
        ``count`` numbers below ``size``, (count,); none comes twice before all came once.
    """
    numbers, position, end = [], offset, offset + count
    while position < end:
        permutation, first = divmod(position, size)
        taken = min(size - first, end - position)
        generator = np.random.Generator(np.random.Philox(seed_of(seed, "draw", pair, permutation)))
        order = generator.permutation(numbers_below(size))
        numbers.append(order[first : first + taken])
        position += taken
    return np.concatenate(numbers) if numbers else np.zeros(0, np.int64)


def moved_offset(offset: int, before: int, now: int) -> int:
    """Finds where to go on in a sequence of permutations when the number of permuted sentences has changed.

    Args:
        offset: position in the sequence of permutations of ``before`` sentences.
        before: sentences there were.
        now: sentences there are.

    Returns:
        The same position where nothing changed; else where the next permutation begins.
    """
    return offset if before == now else -(-offset // before) * now


def length_order(source: Ints, target: Ints) -> Ints:
    """Orders sentences so that neighbours are alike on both sides: source lengths in narrow bands, targets up and down
    in turn.

    Against a sort by target and then source, this pads a tenth less where the sides' lengths are loosely tied.

    Args:
        source: tokens of each source, (N,).
        target: tokens of each target, (N,).

    Returns:
        A permutation of the sentences' numbers, (N,).
    """
    band = source // BAND
    return np.lexsort((source, np.where(band % 2 == 0, target, -target), band))


def batch_bounds(source: Ints, target: Ints, max_tokens: int) -> Ints:
    """Cuts length-sorted sentences into batches of at most ``max_tokens`` padded tokens: size x longest side.

    Args:
        source: tokens of each source, (N,).
        target: tokens of each target, (N,).
        max_tokens: padded tokens of a batch; a longer sentence is a batch of its own.

    Returns:
        First sentence of each batch, then the number of sentences, (batches + 1,).
    """
    longest_side = np.maximum(source, target)
    bounds, start, total = [0], 0, len(longest_side)
    while start < total:
        window = longest_side[start : start + max(1, max_tokens // max(1, int(longest_side[start])))]
        padded = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
        start += max(1, int(np.searchsorted(padded, max_tokens, side="right")))
        bounds.append(start)
    return np.array(bounds, np.int64)


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
    """Plans an epoch's micro-batches.

    Args:
        lengths: usable sentences of each pair.
        counts: sentences to draw of each pair.
        offsets: sentences that were drawn of each pair before.
        seed: the run's seed.
        epoch: number or name of the epoch: another one, another order.
        max_tokens: padded tokens of a micro-batch.
        batches_per_update: micro-batches of an update, on all ranks together.

    Returns:
        The plan.
    """
    drawn = iterate_drawn_pairs(lengths, counts, offsets, seed)
    return plan_batches(drawn, seed_of(seed, "order", epoch), max_tokens, batches_per_update)


def iterate_drawn_pairs(
    lengths: Sequence[PairLengths], counts: Sequence[int], offsets: Sequence[int], seed: int
) -> Iterator[PairLengths]:
    """Draws sentences of every pair, one pair after another: no more than one pair's need stand at once.

    Args:
        lengths: usable sentences of each pair.
        counts: sentences to draw of each pair.
        offsets: position of each pair in its endless sequence of permutations.
        seed: the run's seed.

    Yields:
        The drawn sentences of each pair.
    """
    for pair, (pair_lengths, count, offset) in enumerate(zip(lengths, counts, offsets, strict=True)):
        rows = draw_sentences(len(pair_lengths.sentence), count, offset, seed, pair)
        yield PairLengths(pair_lengths.sentence[rows], pair_lengths.source[rows], pair_lengths.target[rows])


def plan_batches(drawn: Iterable[PairLengths], seed: int, max_tokens: int, batches_per_update: int) -> EpochPlan:
    """Cuts drawn sentences into single-pair batches, and shuffles these.

    Args:
        drawn: the sentences that were drawn of each pair; taken one pair after another.
        seed: of the batches' order.
        max_tokens: padded tokens of a micro-batch.
        batches_per_update: micro-batches of an update, on all ranks together.

    Returns:
        The plan.
    """
    sentences: list[Ints] = []
    sizes: list[Ints] = []
    tokens: list[Ints] = []
    for lengths in drawn:
        rows = length_order(lengths.source, lengths.target)
        target = lengths.target[rows]
        bounds = batch_bounds(lengths.source[rows], target, max_tokens)
        sentences.append(lengths.sentence[rows])
        sizes.append(np.diff(bounds))
        tokens.append(np.add.reduceat(target, bounds[:-1], dtype=np.int64) if len(bounds) > 1 else np.diff(bounds))
    pair = np.repeat(np.arange(len(sizes)), [len(pair_sizes) for pair_sizes in sizes])
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(pair))
    size = np.concatenate([np.zeros(0, np.int64), *sizes])
    return EpochPlan(
        sentence=_in_order(sentences, size, order),
        start=np.concatenate([np.zeros(1, np.int64), size[order].cumsum()]),
        pair=pair[order],
        tokens=np.concatenate([np.zeros(0, np.int64), *tokens])[order],
        batches_per_update=batches_per_update,
    )


def _in_order(sentences: Sequence[Ints], size: Ints, order: Ints) -> Ints:
    """The sentences of all batches, one part after another, in another order of the batches."""
    if not sentences:
        return np.zeros(0, np.int64)
    sentence = np.concatenate(sentences)
    ordered, first, position = np.empty_like(sentence), np.append(0, size.cumsum()).tolist(), 0
    for batch in order.tolist():
        begin, end = first[batch], first[batch + 1]
        ordered[position : position + end - begin] = sentence[begin:end]
        position += end - begin
    return ordered


def interleave_plans(plans: Sequence[EpochPlan]) -> EpochPlan:
    """Joins plans into one, each in its own order and evenly spread, so that every update has its part of each.

    Args:
        plans: plans of which no two give different sources the same pair number.

    Returns:
        One plan with the first one's micro-batches an update.
    """
    sort_key = np.concatenate([(np.arange(len(plan.pair)) + 0.5) / max(1, len(plan.pair)) for plan in plans])
    order = np.argsort(sort_key, kind="stable")
    rows = [plan.sentence[a:b] for plan in plans for a, b in zip(plan.start[:-1], plan.start[1:], strict=True)]
    sizes = np.array([len(rows[k]) for k in order], np.int64)
    return EpochPlan(
        sentence=np.concatenate([rows[k] for k in order]) if rows else np.zeros(0, np.int64),
        start=np.concatenate([np.zeros(1, np.int64), sizes.cumsum()]),
        pair=np.concatenate([plan.pair for plan in plans])[order],
        tokens=np.concatenate([plan.tokens for plan in plans])[order],
        batches_per_update=plans[0].batches_per_update,
    )


def split_by_length(drawn: Sequence[PairLengths], longest: int) -> tuple[list[PairLengths], list[PairLengths]]:
    """Separates drawn sentences whose sides are both short enough from the others.

    Args:
        drawn: sentences of each source.
        longest: tokens of a side at most.

    Returns:
        Those that are, and those that are not, of each source.
    """
    if all(max(lengths.source.max(initial=0), lengths.target.max(initial=0)) <= longest for lengths in drawn):
        return list(drawn), [PairLengths(*(values[:0] for values in lengths)) for lengths in drawn]
    fits = [np.maximum(lengths.source, lengths.target) <= longest for lengths in drawn]
    within = [PairLengths(*(values[keep] for values in lengths)) for lengths, keep in zip(drawn, fits, strict=True)]
    beyond = [PairLengths(*(values[~keep] for values in lengths)) for lengths, keep in zip(drawn, fits, strict=True)]
    return within, beyond


def rest_of(drawn: Sequence[PairLengths], plan: EpochPlan, sentences: int) -> list[PairLengths]:
    """Finds what is left of drawn sentences behind the first ones of a plan.

    Args:
        drawn: what the plan was made of, in order of its pair numbers.
        plan: its micro-batches.
        sentences: how many of the plan's sentences are gone.

    Returns:
        The others of each source, in the plan's order; one that was drawn twice may be left once or twice.
    """
    number = np.repeat(plan.pair, np.diff(plan.start))[sentences:]
    left = plan.sentence[sentences:]
    rest = []
    for source, lengths in enumerate(drawn):
        order = np.argsort(lengths.sentence)
        rows = order[np.searchsorted(lengths.sentence, left[number == source], sorter=order)]
        rest.append(PairLengths(*(values[rows] for values in lengths)))
    return rest


def fixed_batches(lengths: PairLengths, max_tokens: int) -> list[NDArray[np.int64]]:
    """Cuts a dev or test set into batches of like length, always the same.

    Args:
        lengths: the set's sentences.
        max_tokens: padded tokens of a batch.

    Returns:
        Sentence numbers of each batch, one-dimensional.
    """
    order = length_order(lengths.source, lengths.target)
    bounds = batch_bounds(lengths.source[order], lengths.target[order], max_tokens)
    return [lengths.sentence[order[a:b]].astype(np.int64) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

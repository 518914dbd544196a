"""A student's training data: the corpus under its sampler, epoch by epoch.

Shape letters: V words.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from mnmt_ds.batch import EOS, Batch
from mnmt_ds.config import Settings
from mnmt_ds.data.batching import (
    EpochPlan,
    PairLengths,
    interleave_plans,
    iterate_drawn_pairs,
    moved_offset,
    plan_batches,
    plan_epoch,
    rest_of,
    split_by_length,
    usable_lengths,
)
from mnmt_ds.data.corpus import Corpus, Split
from mnmt_ds.data.denoising import DenoisingSettings
from mnmt_ds.data.framing import Frame, FramingSettings, frame_of
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.loader import RankBatches, iterate_updates
from mnmt_ds.data.monolingual import DenoisingSources
from mnmt_ds.distributed import seed_of
from mnmt_ds.engine.dataloading.position import Cut, EpochSegment
from mnmt_ds.engine.settings import TrainSettings, batches_per_update
from mnmt_ds.errors import FaultList
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.samplers import registry
from mnmt_ds.samplers.temperature import counts


class TrainingData:
    """Training batches of all pairs; a function of (seed, epoch, index) and the sampler's state alone."""

    def __init__(
        self,
        corpus: Corpus,
        pairs: Sequence[str],
        framing: FramingSettings,
        sampler: Settings,
        train: TrainSettings,
        longest: int,
        layout: ParallelLayout,
        denoising: DenoisingSettings | None = None,
    ) -> None:
        """Opens the training sets; sentences stay on disk.

        Args:
            corpus: prepared.
            pairs: names of language pairs.
            framing: tags.
            sampler: settings of the sampler.
            train: budget of a micro-batch, seed.
            longest: tokens that the model takes at most.
            layout: the ranks that share the data.
            denoising: tasks on text of one language; None: none.

        Raises:
            UserError: where a pair has no sentence that is short enough, or the sampler cannot run on these pairs.
        """
        self.corpus, self.pairs, self.train, self.layout = corpus, tuple(pairs), train, layout
        self.frames = [frame_of_pair(corpus, framing, pair) for pair in pairs]
        self.splits = [corpus.split(pair, "train") for pair in pairs]
        self.max_positions = longest
        longest = self.longest(train.max_tokens)
        self.lengths = self.lengths_within(longest)
        FaultList(
            f"{corpus.directory}: pair {pair} has no training sentence within {longest} tokens;"
            " raise train.max_tokens or model.max_positions, or leave the pair out of data.pairs"
            for pair, lengths in zip(pairs, self.lengths, strict=True)
            if not len(lengths.sentence)
        ).raise_any()
        self.sizes = [len(lengths.sentence) for lengths in self.lengths]
        self.sampler = registry.build(sampler, pairs, self.sizes)
        self._framing, self._denoising_settings = framing, denoising
        self._denoising: dict[int, DenoisingSources] = {}
        self.denoising = self._denoising_within(longest)
        self.names = [*pairs, *(source.name for source in (self.denoising.sources if self.denoising else ()))]
        """Name for each ``Batch.pair``: the language pair, or the denoising source."""

    @cached_property
    def left_out(self) -> int:
        """Training sentences that are too long to be used.

        Returns:
            How many.
        """
        return sum(len(split) for split in self.splits) - sum(self.sizes)

    @property
    def counts(self) -> list[int]:
        """Sentences of each pair in an epoch of the sampler's present distribution."""
        return counts(self.sampler.probabilities, sum(self.sizes))

    @property
    def batches_per_update(self) -> int:
        """Micro-batches of an update over all ranks."""
        return batches_per_update(self.train, self.layout.data_parallel_size)

    @property
    def cut(self) -> Cut:
        """The cut of the run's data into updates, with nothing taken yet."""
        return Cut(self.train.max_tokens, self.batches_per_update)

    def longest(self, max_tokens: int) -> int:
        """Computes how many tokens the longest sentence that is used may have.

        Args:
            max_tokens: padded tokens of a micro-batch.

        Returns:
            Those, or as many as the model takes where that is less.
        """
        return min(self.max_positions, max_tokens)

    def lengths_within(self, longest: int) -> list[PairLengths]:
        """Returns the lengths of every pair's usable sentences.

        Args:
            longest: tokens of a side at most.

        Returns:
            Their lengths, in tokens with tags and end symbols.
        """
        return [framed_lengths(split, frame, longest) for split, frame in zip(self.splits, self.frames, strict=True)]

    def whole_epoch(self, epoch: int) -> EpochSegment:
        """Builds a whole epoch of the sampler's present distribution, as if all epochs before were like it.

        Args:
            epoch: its number, from 0.

        Returns:
            The segment.
        """
        counts = self.counts
        before = tuple(epoch * count for count in counts)
        items = self.denoising.items_of_epoch(epoch, sum(counts)) if self.denoising is not None else {}
        longest = self.longest(self.train.max_tokens)
        return EpochSegment(tuple(counts), before, before, longest, sum(self.sizes), items=items)

    def next_epoch(self, segment: EpochSegment, trained: Sequence[int], shares: Sequence[float]) -> EpochSegment:
        """Builds the epoch that follows another one, whatever that one's distribution and longest sentence were.

        Args:
            segment: the last of that epoch.
            trained: sentences of each pair that the run was trained on.
            shares: the coming epoch's distribution.

        Returns:
            The segment.
        """
        longest, drawn = self.longest(self.train.max_tokens), counts(shares, sum(self.sizes))
        before = [len(lengths.sentence) for lengths in self._lengths_of(segment)]
        offsets = [
            moved_offset(offset + count, *sizes)
            for offset, count, *sizes in zip(segment.offsets, segment.counts, before, self.sizes, strict=True)
        ]
        items = self.denoising.items_after(segment.items, sum(drawn)) if self.denoising is not None else {}
        return EpochSegment(tuple(drawn), tuple(offsets), tuple(trained), longest, sum(self.sizes), items=items)

    def rest_of_epoch(
        self, segment: EpochSegment, trained: Sequence[int], shares: Sequence[float]
    ) -> EpochSegment | None:
        """Draws what is left of an epoch anew, from another distribution.

        Args:
            segment: the present one.
            trained: sentences of each pair that the run was trained on.
            shares: the distribution.

        Returns:
            The segment; None where nothing is left.
        """
        taken = [now - before for now, before in zip(trained, segment.trained, strict=True)]
        sentences_done = segment.done + sum(taken)
        if sentences_done >= segment.sentences:
            return None
        return segment._replace(
            counts=tuple(counts(shares, segment.sentences - sentences_done)),
            offsets=tuple(offset + count for offset, count in zip(segment.offsets, taken, strict=True)),
            trained=tuple(trained),
            number=segment.number + 1,
            done=sentences_done,
        )

    def plan(self, epoch: int, segment: EpochSegment | None = None, cuts: Sequence[Cut] = ()) -> EpochPlan:
        """Plans the micro-batches of an epoch or of a segment of it; the same on every rank.

        Args:
            epoch: its number, from 0.
            segment: None: the whole epoch under the present distribution.
            cuts: how the segment is cut; those before the last have taken their part of it. Empty: as this run cuts.

        Returns:
            The plan of the last cut.
        """
        segment, cuts = segment or self.whole_epoch(epoch), cuts or (self.cut,)
        seed_label = f"{epoch}+{segment.number}" if segment.number else str(epoch)
        if len(cuts) == 1 and self.denoising is None and self.longest(cuts[0].max_tokens) >= segment.longest:
            drawn = iterate_drawn_pairs(self._lengths_of(segment), segment.counts, segment.offsets, self.train.seed)
            return self._cut(drawn, cuts[0], seed_label)._replace(epoch=epoch, longest=segment.longest)
        left = self.drawn(segment)
        for number, cut in enumerate(cuts):
            within, beyond = split_by_length(left, self.longest(cut.max_tokens))
            plan = self._cut(within, cut, f"{seed_label}/{number}" if number else seed_label)
            if number + 1 < len(cuts):
                rest = rest_of(within, plan, cut.sentences)
                left = [joined(lengths) for lengths in zip(rest, beyond, strict=True)]
        return plan._replace(epoch=epoch, longest=segment.longest)

    def left_over(self, segment: EpochSegment, cuts: Sequence[Cut]) -> int:
        """Counts the sentences and items that the cuts of a segment have not taken, too long ones included.

        Args:
            segment: of an epoch.
            cuts: its cuts.

        Returns:
            Sentences and items of text of one language.
        """
        return sum(len(lengths.sentence) for lengths in self.drawn(segment)) - sum(cut.sentences for cut in cuts)

    def drawn(self, segment: EpochSegment) -> list[PairLengths]:
        """Draws a segment's sentences.

        Args:
            segment: of an epoch.

        Returns:
            Those of each pair, then the items of each denoising source.
        """
        drawn = [*iterate_drawn_pairs(self._lengths_of(segment), segment.counts, segment.offsets, self.train.seed)]
        denoising = self._denoising_within(segment.longest)
        if denoising is not None:
            for items in denoising.draw(segment.items, segment.done, segment.sentences):
                drawn += items
        return drawn

    def _denoising_within(self, longest: int) -> DenoisingSources | None:
        """Text of one language, in sentences or blocks of so many tokens at most."""
        if self._denoising_settings is not None and longest not in self._denoising:
            self._denoising[longest] = DenoisingSources(
                self.corpus, self.pairs, self._denoising_settings, self._framing, self.train.seed, longest
            )
        return self._denoising.get(longest)

    def _lengths_of(self, segment: EpochSegment) -> list[PairLengths]:
        """The sentences that a segment permutes."""
        if segment.longest == self.longest(self.train.max_tokens):
            return self.lengths
        return self.lengths_within(segment.longest)

    def _cut(self, drawn: Iterable[PairLengths], cut: Cut, seed_label: str) -> EpochPlan:
        """Cuts the sentences of all sources into micro-batches; those of the pairs and of each task evenly spread."""
        if self.denoising is None:
            return plan_batches(
                drawn, seed_of(self.train.seed, "order", seed_label), cut.max_tokens, cut.batches_per_update
            )
        drawn = [*drawn]
        first, size = 0, len(self.pairs)
        plans = []
        for name in [(), *((task.name,) for task in self.denoising.settings.tasks)]:
            seed = seed_of(self.train.seed, "order", *name, seed_label)
            plan = plan_batches(drawn[first : first + size], seed, cut.max_tokens, cut.batches_per_update)
            plans.append(plan._replace(pair=plan.pair + first))
            first, size = first + size, len(self.denoising.pools)
        return interleave_plans(plans)

    def plan_sample(self, share: float, name: str) -> EpochPlan:
        """Plans the micro-batches of a fixed sample; the same on every rank.

        Args:
            share: of every pair's sentences.
            name: of the sample; what is drawn is seeded by it.

        Returns:
            The plan.
        """
        return plan_epoch(
            self.lengths,
            [int(share * size) for size in self.sizes],
            [0] * len(self.sizes),
            seed=seed_of(self.train.seed, name),
            epoch=0,
            max_tokens=self.train.max_tokens,
            batches_per_update=self.batches_per_update,
        )

    def iterate_updates(self, plan: EpochPlan, first: int) -> Iterator[list[Batch]]:
        """Reads this rank's micro-batches, update by update.

        Args:
            plan: of an epoch.
            first: number of the first update.

        Yields:
            The micro-batches of one update.
        """
        return map(self.with_divisors, iterate_updates(self.batches(plan), first, self.train.workers))

    def batches(self, plan: EpochPlan) -> RankBatches:
        """Returns this rank's micro-batches of a plan, by index; divisors do not yet count tokens of other tasks.

        Args:
            plan: of an epoch.

        Returns:
            A sequence that reads each micro-batch when it is asked for.
        """
        denoising = self._denoising_within(plan.longest) if plan.longest else self.denoising
        noised = None if denoising is None else partial(denoising.make_batch, plan.epoch)
        layout = self.layout
        return RankBatches(
            plan, self.splits, self.frames, layout.data_parallel_rank, layout.data_parallel_size, noised
        )  # fmt: skip

    def with_divisors(self, micro_batches: list[Batch]) -> list[Batch]:
        """Sets the divisors of an update's batches where tasks are mixed; all ranks call this together.

        How much of a sentence counts is known only where it was masked.

        Args:
            micro_batches: this rank's, of one update.

        Returns:
            The same with their divisors: gold tokens of the update, and of the batch's task.
        """
        if self.denoising is None:
            return micro_batches
        tasks = ["translation", *(task.name for task in self.denoising.settings.tasks)]
        tokens = torch.zeros(len(tasks), dtype=torch.int64)
        for batch in micro_batches:
            tokens[tasks.index(batch.task)] += batch.tokens
        layout = self.layout
        copies = layout.pipeline_parallel_size * layout.vocab_parallel_size
        totals = (layout.sum_over_ranks(tokens.to(layout.device)) // copies).tolist()
        return [
            batch._replace(divisor=max(1, sum(totals)), task_divisor=max(1, totals[tasks.index(batch.task)]))
            for batch in micro_batches
        ]

    def target_vocabulary(self, language: str) -> Tensor:
        """Marks the tokens in the training text of a target language, end symbol and a predicted tag included.

        Args:
            language: such as "en".

        Returns:
            bool (V,).
        """
        seen = torch.zeros(self.corpus.tokenizer.size, dtype=torch.bool)
        seen[EOS] = True
        for pair, split, frame in zip(self.pairs, self.splits, self.frames, strict=True):
            if split_pair(pair)[1] == language:
                seen[list(frame.target_prefix)] = True
                seen |= torch.from_numpy(split.target_pieces_used(len(seen)))
        return seen


def joined(lengths: Sequence[PairLengths]) -> PairLengths:
    """Concatenates sentences of one source.

    Args:
        lengths: sentences with their lengths.

    Returns:
        All of them, one part after another.
    """
    return PairLengths(*map(np.concatenate, zip(*lengths, strict=True)))


def frame_of_pair(corpus: Corpus, framing: FramingSettings, pair: str) -> Frame:
    """Builds a pair's frame, its tags looked up in the corpus's tokenizer.

    Args:
        corpus: prepared.
        framing: where tags stand.
        pair: such as "bs-en".

    Returns:
        Prefixes and suffixes of both sides, as ids.
    """
    source, target = split_pair(pair)
    return frame_of(framing, corpus.tokenizer.tag(source), corpus.tokenizer.tag(target))


def framed_lengths(split: Split, frame: Frame, longest: int) -> PairLengths:
    """Computes the lengths of a set's sentences with tags and end symbols.

    Args:
        split: a pair's training or dev set.
        frame: its tags.
        longest: tokens; sentences that are longer are left out.

    Returns:
        The sentences that are left, with their lengths in tokens.
    """
    return usable_lengths(split.source_lengths, split.target_lengths, frame.source_extra, frame.target_extra, longest)

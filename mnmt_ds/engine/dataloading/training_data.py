"""A student's training data: the corpus under its sampler, epoch by epoch; and the dev sets as fixed batches."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnmt_ds.batch import EOS, Batch
from mnmt_ds.config import Settings
from mnmt_ds.data.batching import EpochPlan, PairLengths, fixed_batches, plan_epoch, usable_lengths
from mnmt_ds.data.corpus import Corpus, Split
from mnmt_ds.data.denoising import DenoisingSettings
from mnmt_ds.data.framing import Frame, FramingSettings, frame_of
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.loader import RankBatches, collate, iterate_updates
from mnmt_ds.data.monolingual import DenoisingSources
from mnmt_ds.distributed import (
    data_parallel_rank,
    data_parallel_size,
    device,
    pipeline_parallel_size,
    seed_of,
    sum_over_ranks,
    vocab_parallel_size,
)
from mnmt_ds.engine.settings import TrainSettings, batches_per_update
from mnmt_ds.errors import UserError
from mnmt_ds.samplers import registry
from mnmt_ds.samplers.temperature import counts


class EpochSegment(NamedTuple):
    """What is left of an epoch, under one sampling distribution."""

    shares: Sequence[float]
    """The distribution."""
    drawn: Sequence[int]
    """Sentences of each pair that were drawn before, in the whole run."""
    number: int = 0
    """How often the epoch's rest was planned anew."""
    done: int = 0
    """Sentences of the epoch that came before."""


class TrainingData:
    """Training batches of all pairs; what comes is a function of (seed, epoch, index) and the sampler's state alone."""

    def __init__(
        self,
        corpus: Corpus,
        pairs: Sequence[str],
        framing: FramingSettings,
        sampler: Settings,
        train: TrainSettings,
        longest: int,
        denoising: DenoisingSettings | None = None,
    ) -> None:
        self.corpus, self.pairs, self.train = corpus, tuple(pairs), train
        self.frames = [frame_of_pair(corpus, framing, pair) for pair in pairs]
        self.splits = [corpus.split(pair, "train") for pair in pairs]
        longest = min(longest, train.max_tokens)
        self.lengths: list[PairLengths] = []
        for pair, split, frame in zip(pairs, self.splits, self.frames, strict=True):
            known = framed_lengths(split, frame, longest)
            if not len(known.sentence):
                raise UserError(
                    f"{corpus.directory}: pair {pair} has no training sentence within {longest} tokens;"
                    " raise train.max_tokens or model.max_positions, or leave the pair out of data.pairs"
                )
            self.lengths.append(known)
        self.sizes = [len(known.sentence) for known in self.lengths]
        self.sampler = registry.build(sampler, pairs, self.sizes)
        self.mono = None
        if denoising is not None:
            self.mono = DenoisingSources(corpus, pairs, denoising, framing, train.seed, longest)
        self.names = [*pairs, *(source.name for source in (self.mono.sources if self.mono else ()))]

    @cached_property
    def left_out(self) -> int:
        """Training sentences that are too long to be used."""
        return sum(len(split) for split in self.splits) - sum(self.sizes)

    @property
    def counts(self) -> list[int]:
        """Sentences of each pair in an epoch of the sampler's present distribution."""
        return counts(self.sampler.probabilities, sum(self.sizes))

    def whole(self, epoch: int) -> EpochSegment:
        """A whole epoch of the sampler's present distribution, after as many of the same."""
        return EpochSegment(tuple(self.sampler.probabilities), tuple(epoch * count for count in self.counts))

    def plan(self, epoch: int, part: EpochSegment | None = None) -> EpochPlan:
        """Micro-batches of an epoch (from 0) or of a part of it, the same on every rank."""
        part = part or self.whole(epoch)
        parallel = plan_epoch(
            self.lengths,
            counts(part.shares, sum(self.sizes) - part.done),
            part.drawn,
            seed=self.train.seed,
            epoch=f"{epoch}+{part.number}" if part.number else epoch,
            max_tokens=self.train.max_tokens,
            batches_per_update=batches_per_update(self.train, data_parallel_size()),
        )
        if self.mono is None:
            return parallel
        total = sum(counts(part.shares, sum(self.sizes)))
        return self.mono.mix_into(parallel, total, epoch, self.train.max_tokens, part.number, part.done)

    def sample(self, share: float, name: str) -> EpochPlan:
        """Micro-batches of a fixed sample, ``share`` of every pair's sentences, the same on every rank."""
        return plan_epoch(
            self.lengths,
            [int(share * size) for size in self.sizes],
            [0] * len(self.sizes),
            seed=seed_of(self.train.seed, name),
            epoch=0,
            max_tokens=self.train.max_tokens,
            batches_per_update=batches_per_update(self.train, data_parallel_size()),
        )

    def updates(self, plan: EpochPlan, first: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each update from ``first`` on."""
        return map(self.counted, iterate_updates(self.batches(plan), first, self.train.workers))

    def batches(self, plan: EpochPlan) -> RankBatches:
        """This rank's micro-batches of a plan; an update's are not counted yet."""
        noised = None if self.mono is None else partial(self.mono.make_batch, plan.epoch)
        return RankBatches(plan, self.splits, self.frames, data_parallel_rank(), data_parallel_size(), noised)

    def counted(self, group: list[Batch]) -> list[Batch]:
        """An update's micro-batches with their divisors; all ranks together where tasks are mixed.

        How much of a sentence counts is known only where it was masked.
        """
        if self.mono is None:
            return group
        tasks = ["translation", *(task.name for task in self.mono.settings.tasks)]
        tokens = torch.zeros(len(tasks), dtype=torch.int64)
        for batch in group:
            tokens[tasks.index(batch.task)] += batch.tokens
        total = (sum_over_ranks(tokens.to(device())) // (pipeline_parallel_size() * vocab_parallel_size())).tolist()
        return [
            batch._replace(divisor=max(1, sum(total)), task_divisor=max(1, total[tasks.index(batch.task)]))
            for batch in group
        ]

    def target_vocabulary(self, language: str) -> Tensor:
        """bool (V,): tokens in the training text of a target language, its end symbol included."""
        seen = torch.zeros(self.corpus.tokenizer.size, dtype=torch.bool)
        seen[EOS] = True
        for pair, split in zip(self.pairs, self.splits, strict=True):
            if split_pair(pair)[1] == language:
                for i in range(len(split)):
                    seen[torch.from_numpy(np.unique(split.pieces(i)[1]).astype(np.int64))] = True
        return seen


def frame_of_pair(corpus: Corpus, framing: FramingSettings, pair: str) -> Frame:
    """The frame of a pair, tags looked up in the corpus's tokenizer."""
    source, target = split_pair(pair)
    return frame_of(framing, corpus.tokenizer.tag(source), corpus.tokenizer.tag(target))


def framed_lengths(split: Split, frame: Frame, longest: int) -> PairLengths:
    """Lengths of a set's sentences with tags and end symbols; those over ``longest`` tokens are left out."""
    extra = len(frame.source_prefix) + len(frame.source_suffix)
    return usable_lengths(split.source_lengths, split.target_lengths, extra, 1, longest)


def dev_batches(
    corpus: Corpus, pairs: Sequence[str], framing: FramingSettings, max_tokens: int, longest: int
) -> tuple[list[Batch], dict[str, int]]:
    """All pairs' dev sets as batches, and each pair's count of dev tokens."""
    batches: list[Batch] = []
    tokens: dict[str, int] = {}
    for number, pair in enumerate(pairs):
        split = corpus.split(pair, "dev")
        frame = frame_of_pair(corpus, framing, pair)
        known = framed_lengths(split, frame, longest)
        if not len(known.sentence):
            raise UserError(
                f"{corpus.directory}: the dev set of {pair} is empty;"
                f" give data.corpora.{pair}.dev or a larger data.split.dev"
            )
        tokens[pair] = int(known.target.sum())
        for chosen in fixed_batches(known, max_tokens):
            batches.append(collate(split, chosen, frame, number, tokens[pair]))
    return batches, tokens

"""What samplers ask of a student, measured between two updates; the student is left as it was, bit for bit.

A measurement's batch of a pair is as large as an update: as many micro-batches, of random sentences to translate, with
dropout seeded by (seed, update, pair, slot). So the number of ranks and their accumulation change nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnmt_ds.batch import PAD, Batch, to_device
from mnmt_ds.data.batching import EpochPlan, plan_batches
from mnmt_ds.data.corpus import Split
from mnmt_ds.data.loader import RankBatches
from mnmt_ds.distributed import data_parallel_rank, data_parallel_size, device, seed_of, sum_over_ranks
from mnmt_ds.engine.dataloading.training_data import framed_lengths
from mnmt_ds.engine.parallel.gradients import dots, gradient_shard, without_side_effects
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.engine.students.student import Scorer, Student
from mnmt_ds.samplers.uncertainty import REWARDS, TokenStatistics, token_statistics


class StudentMeasurements:
    """A student's ``samplers.sampler.Measurements``."""

    def __init__(self, one: Student, score: Scorer) -> None:
        """``score``: the plain cross-entropy, which also dev losses are made of."""
        self.one, self.score, self.seconds = one, score, 0.0
        stream = one.walk.stream
        self.dev: list[Split] = [stream.corpus.split(pair, "dev") for pair in stream.pairs]
        longest = one.recipe.model.max_positions
        framed = zip(self.dev, stream.frames, strict=True)
        self.dev_lengths = [framed_lengths(split, frame, longest) for split, frame in framed]

    def alignments(self, max_tokens: int) -> list[float]:
        """r_j = 1/L sum_i cos(d_i, t_j) = <1/L sum_i d_i / |d_i|, t_j / |t_j|>: L + L passes, two shards held.

        d_i: gradient of the token-mean cross-entropy on dev data of pair i; t_j: on training data of pair j.
        """
        pairs = range(len(self.dev))
        with without_side_effects(self.one.engine):
            mean_N: Tensor | None = None
            for i in pairs:
                own_N = self._gradient("dev", i, max_tokens)
                own_N /= len(pairs) * _norm(own_N)
                mean_N = own_N if mean_N is None else mean_N.add_(own_N)
            assert mean_N is not None
            found = []
            for j in pairs:
                own_N = self._gradient("train", j, max_tokens)
                dot, square = dots([(mean_N, own_N), (own_N, own_N)])
                found.append(dot / square**0.5 if square else 0.0)
        return found

    def uncertainties(self, reward: str, passes: int, max_tokens: int) -> list[float]:
        """MultiUAT's reward on dev data of every pair: the mean over its sentences (or tokens) and ``passes``."""
        smoothing = self.one.recipe.train.label_smoothing

        def statistics(states: Any, projection_VD: Tensor, batch: Batch) -> Any:
            return token_statistics(states.decoder_BTD, projection_VD, batch.target_BT, smoothing, PAD)

        sums_L2 = torch.zeros(len(self.dev), 2, dtype=torch.float64)
        with without_side_effects(self.one.engine), torch.no_grad():
            for i in range(len(self.dev)):
                for k in range(passes):
                    for slot, batch in self._batches("dev", i, max_tokens):
                        self._seed("uncertainty", i, k, slot)
                        found = self.one.engine(batch, statistics)
                        if batch.tokens:
                            sums_L2[i] += REWARDS[reward](TokenStatistics(*found)).double().cpu()
        sums_L2 = sum_over_ranks(sums_L2.to(device())).cpu()
        return [total / count for total, count in sums_L2.tolist()]

    def _gradient(self, side: str, pair: int, max_tokens: int) -> Tensor:
        """This rank's shard of the gradient of the mean over a batch's tokens."""
        engine = self.one.engine
        total_N: Tensor | None = None
        for slot, batch in self._batches(side, pair, max_tokens):

            def backward(slot: int = slot, batch: Batch = batch) -> None:
                self._seed("gradient", side, pair, slot)
                loss, _ = engine(batch, self.score)
                engine.backward(loss * (data_parallel_size() / batch.divisor), scale_wrt_gas=False)

            own_N = gradient_shard(engine, backward)
            total_N = own_N if total_N is None else total_N.add_(own_N)
        assert total_N is not None
        return total_N

    def _batches(self, side: str, pair: int, max_tokens: int) -> Sequence[tuple[int, Batch]]:
        """This rank's micro-batches of a pair's random batch, with their slots in it."""
        stream = self.one.walk.stream
        plan = self._plan(side, pair, max_tokens)
        splits = self.dev if side == "dev" else stream.splits
        batches = RankBatches(plan, splits, stream.frames, data_parallel_rank(), data_parallel_size())
        return [
            (step * data_parallel_size() + data_parallel_rank(), to_device(batches[step], device()))
            for step in range(batches.steps)
        ]

    def _plan(self, side: str, pair: int, max_tokens: int) -> EpochPlan:
        train = self.one.recipe.train
        max_tokens, count = max_tokens or train.max_tokens, batches_per_update(train, data_parallel_size())
        known = (self.dev_lengths if side == "dev" else self.one.walk.stream.lengths)[pair]
        longest = np.maximum(known.source, known.target)
        most = min(len(longest), -(-count * max_tokens // max(1, int(longest.mean()))))
        seed = seed_of(train.seed, "measure", self.one.walk.position.update, side, pair)
        chosen = np.random.Generator(np.random.Philox(seed)).choice(len(longest), most, replace=False)
        nobody = known._replace(sentence=known.sentence[:0], source=known.source[:0], target=known.target[:0])
        drawn = [nobody] * len(self.dev)
        drawn[pair] = known._replace(
            sentence=known.sentence[chosen], source=known.source[chosen], target=known.target[chosen]
        )
        plan = plan_batches(drawn, seed, max_tokens, count)
        return plan._replace(pair=plan.pair[:count], tokens=plan.tokens[:count], start=plan.start[: count + 1])

    def _seed(self, *parts: int | str) -> None:
        torch.manual_seed(seed_of(self.one.recipe.train.seed, *parts, self.one.walk.position.update))


def _norm(own_N: Tensor) -> float:
    """The norm of a sharded vector; 1 where it is 0."""
    return dots([(own_N, own_N)])[0] ** 0.5 or 1.0

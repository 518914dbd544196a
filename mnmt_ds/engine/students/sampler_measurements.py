"""What samplers ask of a student, measured between two updates; the student is left as it was, bit for bit.

A measurement's batch of a pair is as large as an update: as many micro-batches, of random sentences to translate, with
dropout seeded by (seed, update, pair, index). So the number of ranks and their accumulation change nothing.

Shape letters: N elements of this rank's gradient shard, L language pairs, V words, D model width.
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
from mnmt_ds.distributed import seed_of
from mnmt_ds.engine.dataloading.training_data import framed_lengths
from mnmt_ds.engine.parallel.engine import LossFunction
from mnmt_ds.engine.parallel.gradients import dots
from mnmt_ds.engine.parallel.random_state import seed_random_state
from mnmt_ds.engine.students.student import Student
from mnmt_ds.methods.method import ModelStates
from mnmt_ds.samplers.uncertainty import REWARDS, TokenStatistics, token_statistics


class StudentMeasurements:
    """Measures gradients and uncertainty of one student for its sampler (``samplers.sampler.Measurements``)."""

    def __init__(self, student: Student, compute_loss: LossFunction) -> None:
        """Prepares the dev sets.

        Args:
            student: who is measured.
            compute_loss: the plain cross-entropy, which also dev losses are made of.
        """
        self.student, self.compute_loss = student, compute_loss
        self.seconds = 0.0
        """Seconds that the last measurement took."""
        training_data = student.training_data
        self.dev: list[Split] = [training_data.corpus.split(pair, "dev") for pair in training_data.pairs]
        longest = student.recipe.model.max_positions
        framed = zip(self.dev, training_data.frames, strict=True)
        self.dev_lengths = [framed_lengths(split, frame, longest) for split, frame in framed]

    def alignments(self, max_tokens: int) -> list[float]:
        """Measures how well each pair's training gradient agrees with the dev sets' gradients (MultiDDS-S's reward).

        r_j = 1/L sum_i cos(d_i, t_j) = <1/L sum_i d_i / |d_i|, t_j / |t_j|>, with d_i the gradient of the token-mean
        cross-entropy on dev data of pair i, and t_j on training data of pair j. It takes L + L passes and holds two
        shards of a gradient.

        Args:
            max_tokens: padded tokens of a micro-batch; 0: train.max_tokens.

        Returns:
            r_j of every pair, equal on every rank.
        """
        ranks, pairs = self.student.engine.layout.ranks, range(len(self.dev))
        with self.student.engine.without_side_effects():
            mean_N: Tensor | None = None
            for pair in pairs:
                dev_N = self._gradient("dev", pair, max_tokens)
                dev_N /= len(pairs) * self._norm(dev_N)
                mean_N = dev_N if mean_N is None else mean_N.add_(dev_N)
            assert mean_N is not None
            rewards = []
            for pair in pairs:
                train_N = self._gradient("train", pair, max_tokens)
                dot, square = dots([(mean_N, train_N), (train_N, train_N)], ranks)
                rewards.append(dot / square**0.5 if square else 0.0)
        return rewards

    def uncertainties(self, reward: str, passes: int, max_tokens: int) -> list[float]:
        """Measures MultiUAT's reward on dev data of every pair.

        Args:
            reward: a name of ``REWARDS``.
            passes: with dropout, over which the mean is taken.
            max_tokens: padded tokens of a micro-batch; 0: train.max_tokens.

        Returns:
            Of each pair the mean over its sentences (or tokens) and passes, equal on every rank.
        """
        engine, smoothing = self.student.engine, self.student.recipe.train.label_smoothing

        def statistics(states: ModelStates, projection_VD: Tensor, batch: Batch) -> Any:
            return token_statistics(states.decoder_BTD, projection_VD, batch.target_BT, smoothing, PAD)

        sums_L2 = torch.zeros(len(self.dev), 2, dtype=torch.float64)
        with engine.without_side_effects():
            for pair in range(len(self.dev)):
                for number in range(passes):
                    for index, batch in self._batches("dev", pair, max_tokens):
                        self._seed("uncertainty", pair, number, index)
                        values = engine.train_mode_pass(batch, statistics)
                        if batch.tokens:
                            sums_L2[pair] += REWARDS[reward](TokenStatistics(*values)).double().cpu()
        sums_L2 = engine.layout.sum_over_ranks(sums_L2.to(engine.layout.device)).cpu()
        return [total / count for total, count in sums_L2.tolist()]

    def _gradient(self, side: str, pair: int, max_tokens: int) -> Tensor:
        """This rank's shard of the gradient of the mean over a batch's tokens."""
        total_N: Tensor | None = None
        for index, batch in self._batches(side, pair, max_tokens):
            self._seed("gradient", side, pair, index)
            shard_N = self.student.engine.gradient_shard(batch, self.compute_loss)
            total_N = shard_N if total_N is None else total_N.add_(shard_N)
        assert total_N is not None
        return total_N

    def _batches(self, side: str, pair: int, max_tokens: int) -> Sequence[tuple[int, Batch]]:
        """This rank's micro-batches of a pair's random batch, with their indices in it."""
        training_data, layout = self.student.training_data, self.student.engine.layout
        plan = self._plan(side, pair, max_tokens)
        splits = self.dev if side == "dev" else training_data.splits
        batches = RankBatches(
            plan, splits, training_data.frames, layout.data_parallel_rank, layout.data_parallel_size
        )  # fmt: skip
        return [(layout.update_index(step), to_device(batches[step], layout.device)) for step in range(batches.steps)]

    def _plan(self, side: str, pair: int, max_tokens: int) -> EpochPlan:
        train, training_data = self.student.recipe.train, self.student.training_data
        max_tokens, count = max_tokens or train.max_tokens, training_data.batches_per_update
        lengths = (self.dev_lengths if side == "dev" else training_data.lengths)[pair]
        longest = np.maximum(lengths.source, lengths.target)
        most = min(len(longest), -(-count * max_tokens // max(1, int(longest.mean()))))
        seed = seed_of(train.seed, "measure", self.student.updates, side, pair)
        chosen = np.random.Generator(np.random.Philox(seed)).choice(len(longest), most, replace=False)
        drawn = lengths._replace(
            sentence=lengths.sentence[chosen], source=lengths.source[chosen], target=lengths.target[chosen]
        )
        plan = plan_batches([drawn], seed, max_tokens, count)  # of all pairs alone: its batches are those of number 0
        return plan._replace(pair=plan.pair[:count] + pair, tokens=plan.tokens[:count], start=plan.start[: count + 1])

    def _seed(self, *components: int | str) -> None:
        seed_random_state(seed_of(self.student.recipe.train.seed, *components, self.student.updates))

    def _norm(self, shard_N: Tensor) -> float:
        """The norm of a sharded vector; 1 where it is 0."""
        return dots([(shard_N, shard_N)], self.student.engine.layout.ranks)[0] ** 0.5 or 1.0

"""How a run spreads its students, layers, vocabularies and data over the job's ranks: one object, handed down.

It is made once, when a run is set up (``form_layout``), and never changes.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds import private_apis
from mnmt_ds.distributed import ALONE, RankGroup, device, job_ranks, new_group, warmed_up, world_size


@dataclass(frozen=True)
class ModelParallelUnit:
    """Process groups of a layout, as DeepSpeed's ``mpu`` argument wants them."""

    data: dist.ProcessGroup
    """Ranks that hold the same weights and have data of their own."""
    model: dist.ProcessGroup
    """Ranks that share one copy of the model."""

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Returns the group of ranks with data of their own, over which ZeRO shards.

        Returns:
            The group.
        """
        return self.data

    def get_data_parallel_group_ranks(self) -> list[int]:
        """Lists the job ranks of the data-parallel group.

        Returns:
            Ranks of the job.
        """
        return dist.get_process_group_ranks(self.data)

    def get_data_parallel_rank(self) -> int:
        """Returns this rank's number in the data-parallel group.

        Returns:
            From 0.
        """
        return dist.get_rank(self.data)

    def get_data_parallel_world_size(self) -> int:
        """Returns the number of ranks in the data-parallel group.

        Returns:
            Ranks in the group.
        """
        return dist.get_world_size(self.data)

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Returns the group of ranks that share one copy of the model.

        Returns:
            The group.
        """
        return self.model

    def get_model_parallel_rank(self) -> int:
        """Returns this rank's number in the model-parallel group.

        Returns:
            From 0.
        """
        return dist.get_rank(self.model)

    def get_model_parallel_world_size(self) -> int:
        """Returns the number of ranks in the model-parallel group.

        Returns:
            Ranks in the group.
        """
        return dist.get_world_size(self.model)

    def get_tensor_model_parallel_rank(self) -> int:
        """Returns this rank's number in the model-parallel group; DeepSpeed also asks under this name.

        Returns:
            From 0.
        """
        return dist.get_rank(self.model)

    def get_tensor_model_parallel_world_size(self) -> int:
        """Returns the size of the model-parallel group; DeepSpeed also asks under this name.

        Returns:
            Ranks in the group.
        """
        return dist.get_world_size(self.model)


@dataclass(frozen=True)
class ParallelLayout:
    """Layout of a run over the job's ranks, seen from one rank: students, layers, vocabularies and data.

    Ranks are numbered as DeepSpeed and megatron-core number them: a student's team is a block of neighbours, within it
    a pipeline stage is a block, within that the ranks that share a vocabulary (and its data) are neighbours::

        rank in the team = (stage * data_parallel_size + data_parallel_rank) * vocab_parallel_size + vocab_parallel_rank

    The default is one rank that has everything.
    """

    job: RankGroup = ALONE
    """All ranks of the job."""
    ranks: RankGroup = ALONE
    """The ranks of this rank's student: all of the job's unless students are split over teams."""
    team: int = 0
    """Index of this rank's student team."""
    teams: int = 1
    """Student teams; 1: every student is on every rank."""
    pipeline_parallel_size: int = 1
    """Pipeline stages; 1: no pipeline."""
    vocab_parallel_size: int = 1
    """Ranks that a vocabulary is split over; 1: every rank has all words."""
    model_parallel_unit: ModelParallelUnit | None = None
    """What DeepSpeed is told of the groups; None: its own defaults."""
    vocab_group: dist.ProcessGroup | None = None
    """The ranks that share this rank's vocabulary; None: it is whole."""

    @property
    def is_main(self) -> bool:
        """Whether this is the first rank of its student, which logs and writes the student's files."""
        return self.ranks.is_main

    @property
    def device(self) -> torch.device:
        """This rank's device."""
        return device()

    @property
    def vocab_parallel_rank(self) -> int:
        """This rank among those that share its vocabulary; only rank 0 of them reports sums of a loss."""
        return self.ranks.rank % self.vocab_parallel_size

    @property
    def pipeline_parallel_rank(self) -> int:
        """The pipeline stage of this rank, from 0."""
        return self.ranks.rank // (self.data_parallel_size * self.vocab_parallel_size)

    @property
    def data_parallel_size(self) -> int:
        """Ranks with data of their own; the stages of a pipeline and the ranks of a vocabulary share theirs."""
        return max(1, self.ranks.size // (self.pipeline_parallel_size * self.vocab_parallel_size))

    @property
    def data_parallel_rank(self) -> int:
        """This rank among those with data of their own."""
        return self.ranks.rank // self.vocab_parallel_size % self.data_parallel_size

    def update_index(self, micro_batch: int) -> int:
        """Computes the index of one of this rank's micro-batches among those of the whole update.

        Args:
            micro_batch: index among this rank's micro-batches of the update.

        Returns:
            A number that is the same on any layout: what is drawn for a micro-batch is seeded by it.
        """
        return micro_batch * self.data_parallel_size + self.data_parallel_rank

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Adds a tensor up over the student's ranks, in place; see ``RankGroup.sum``.

        Args:
            values: this rank's summand, of the same shape on every rank.

        Returns:
            The same tensor object, now the sum.
        """
        return self.ranks.sum(values)

    def new_data_parallel_group(self) -> RankGroup:
        """Forms a group of the ranks that hold the same part of the model (all, where it is whole).

        Returns:
            The ranks, with a group of their own, whose collectives mix with no others' (those of a background
            thread); called by all of them together.
        """
        size, stride = self.data_parallel_size, self.vocab_parallel_size
        first = self.job.rank - self.data_parallel_rank * stride
        group = new_group(range(first, first + size * stride, stride)) if size > 1 else None
        return RankGroup(self.data_parallel_rank, size, group)

    def new_vocab_parallel_group(self) -> dist.ProcessGroup:
        """Forms a group of the ranks that share this rank's vocabulary; called by them together.

        Returns:
            The group, for collectives that mix with no others'.
        """
        first = self.job.rank - self.vocab_parallel_rank
        return new_group(range(first, first + self.vocab_parallel_size))

    def new_world_group(self) -> RankGroup:
        """Forms a group of all ranks of a job without teams; called by all together.

        A ``new_group`` is named after how many groups its members are in already. The ranks of a pipeline's inner
        stages are in others than the outer ones, and would wait for each other for ever; hence torch's own call.

        Returns:
            The ranks, with a group of their own.
        """
        if self.ranks.size == 1:
            return RankGroup()
        return RankGroup(self.ranks.rank, self.ranks.size, warmed_up(dist.new_group()))


def plan_layout(teams: int = 1, pipeline_stages: int = 1, vocab_shards: int = 1) -> ParallelLayout:
    """Plans a layout over the job's ranks without process groups: for sizes and ranks alone.

    Args:
        teams: student teams.
        pipeline_stages: stages of the pipeline, 1: none.
        vocab_shards: ranks that share a vocabulary, 1: none.

    Returns:
        The layout seen from this rank; no collective may be called on a layout of several teams.
    """
    job, size = job_ranks(), world_size() // teams
    ranks = RankGroup(job.rank % max(1, size), size) if teams > 1 else job
    return ParallelLayout(job, ranks, job.rank // max(1, size), teams, pipeline_stages, vocab_shards)


def form_layout(teams: int = 1, pipeline_stages: int = 1, vocab_shards: int = 1) -> ParallelLayout:
    """Forms a layout over the job's ranks with its process groups; all ranks call this together.

    Args:
        teams: student teams of neighbouring ranks; the ranks are a multiple of it.
        pipeline_stages: stages of the pipeline, 1: none.
        vocab_shards: ranks that share a vocabulary, 1: none. Their groups are megatron-core's.

    Returns:
        The layout seen from this rank.
    """
    private_apis.forget_model_parallel_unit()
    planned = plan_layout(teams, pipeline_stages, vocab_shards)
    if teams > 1:
        first = planned.team * planned.ranks.size
        team, alone = new_group(range(first, first + planned.ranks.size)), new_group([planned.job.rank])
        ranks = RankGroup(planned.ranks.rank, planned.ranks.size, team)
        return ParallelLayout(
            planned.job, ranks, planned.team, teams, pipeline_stages, vocab_shards, ModelParallelUnit(team, alone)
        )
    if vocab_shards > 1:
        data_group, vocab_group = _megatron_groups(pipeline_stages, vocab_shards)
        return ParallelLayout(
            planned.job, planned.ranks, 0, 1, pipeline_stages, vocab_shards,
            ModelParallelUnit(data_group, vocab_group), vocab_group,
        )  # fmt: skip
    return planned


def _megatron_groups(pipeline_stages: int, vocab_shards: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """megatron-core's groups: of data-parallel ranks with the same words, and of ranks that share a vocabulary."""
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():  # of a run before this one
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        vocab_shards,
        pipeline_stages,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=private_apis.default_timeout().total_seconds() / 60,
    )
    data_group, vocab_group = parallel_state.get_data_parallel_group(), parallel_state.get_tensor_model_parallel_group()
    return warmed_up(data_group), warmed_up(vocab_group)

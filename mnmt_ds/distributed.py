"""Ranks: joining the job under any launcher, sums over ranks, seeds that no layout changes.

Where the ranks are split into teams, one for each student, every function here is about this rank's team, but within
``whole_job``.
"""

import datetime
import hashlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d

from mnmt_ds.errors import UserError


class _Teams:
    """How the job's ranks are shared out between students: one number a process, as world size is."""

    count = 1
    group: Any = None
    """This rank's team; none: all ranks."""
    grid: "ModelParallelUnit | None" = None


def rank() -> int:
    """This process's number in the job (in its team), 0 when alone."""
    return _job_rank() % world_size()


def world_size() -> int:
    """Processes in the job (in a team)."""
    return _job_size() // _Teams.count


def _job_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def _job_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def student_team() -> int:
    """The number of this rank's team; 0 where the ranks are not split."""
    return _job_rank() // world_size()


class ModelParallelUnit(NamedTuple):
    """Groups as DeepSpeed asks for them (its ``mpu``): of ranks with data of their own, of ranks that share a model."""

    data: dist.ProcessGroup
    model: dist.ProcessGroup

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self.data

    def get_data_parallel_group_ranks(self) -> list[int]:
        return dist.get_process_group_ranks(self.data)

    def get_data_parallel_rank(self) -> int:
        return dist.get_rank(self.data)

    def get_data_parallel_world_size(self) -> int:
        return dist.get_world_size(self.data)

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self.model

    def get_model_parallel_rank(self) -> int:
        return dist.get_rank(self.model)

    def get_model_parallel_world_size(self) -> int:
        return dist.get_world_size(self.model)

    def get_tensor_model_parallel_rank(self) -> int:
        return dist.get_rank(self.model)

    def get_tensor_model_parallel_world_size(self) -> int:
        return dist.get_world_size(self.model)


def split_into_teams(count: int) -> None:
    """Ranks become ``count`` teams of neighbours (1: none); all ranks call this."""
    from deepspeed.utils import groups

    _Teams.count, _Teams.group, _Teams.grid, groups.mpu = 1, None, None, None
    if count == 1:
        return
    size = world_size() // count
    mine = range(_job_rank() // size * size, (_job_rank() // size + 1) * size)
    group, alone = new_group(mine), new_group([_job_rank()])
    _Teams.count, _Teams.group, _Teams.grid = count, group, ModelParallelUnit(group, alone)


def model_parallel_unit() -> ModelParallelUnit | None:
    """What DeepSpeed is told of the teams; None where there are none."""
    return _Teams.grid


def new_group(ranks: Sequence[int], backend: str | None = None) -> Any:
    """A group of ranks of the job; called by its members alone."""
    return dist.new_group(list(ranks), backend=backend, use_local_synchronization=True)


@contextmanager
def whole_job() -> Iterator[None]:
    """All ranks of the job as one, whatever teams they form; they enter the block together."""
    held = _Teams.count, _Teams.group
    _Teams.count, _Teams.group = 1, None
    try:
        yield
    finally:
        _Teams.count, _Teams.group = held


def is_main() -> bool:
    """True on the one rank that prints, logs and writes shared files."""
    return rank() == 0


def device() -> torch.device:
    """The device of this rank: its CUDA device where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


class _Parts:
    """How many parts a model is in: numbers of the process, as world size is."""

    stages = 1
    shards = 1


def split_into_stages(count: int, shards: int = 1) -> None:
    """Ranks become ``count`` pipeline stages (1: none), the ranks of a stage side by side, as DeepSpeed counts them;
    within a stage, ``shards`` neighbours share each vocabulary and the same data, as megatron-core counts them."""
    _Parts.stages, _Parts.shards = count, shards


def pipeline_parallel_size() -> int:
    """Pipeline stages; 1 without a pipeline."""
    return _Parts.stages


def vocab_parallel_size() -> int:
    """Ranks that a vocabulary is split over; 1: every rank has all words."""
    return _Parts.shards


def vocab_parallel_rank() -> int:
    """This rank's number among those that share its vocabulary; the first one speaks for all where sums are taken."""
    return rank() % _Parts.shards


def pipeline_parallel_rank() -> int:
    """The stage of this rank, from 0."""
    return rank() // (data_parallel_size() * _Parts.shards)


def data_parallel_size() -> int:
    """Ranks with data of their own; all stages of a pipeline, and all shards of a vocabulary, share theirs."""
    return max(1, world_size() // (_Parts.stages * _Parts.shards))


def data_parallel_rank() -> int:
    """This rank's number among those with data of their own."""
    return rank() // _Parts.shards % data_parallel_size()


class RankGroup(NamedTuple):
    """The ranks that share something, seen from one of them."""

    rank: int = 0
    count: int = 1
    group: Any = None
    """Their torch.distributed group."""


def new_data_parallel_group() -> RankGroup:
    """The ranks that hold the same part of the model (all, where it is whole), with a group whose collectives mix
    with no others' (a background thread's); called by all of them together."""
    count, split = data_parallel_size(), vocab_parallel_size()
    first = _job_rank() - data_parallel_rank() * split
    return RankGroup(
        data_parallel_rank(), count, new_group(range(first, first + count * split, split)) if count > 1 else None
    )


def new_vocab_parallel_group() -> Any:
    """A group as that of ``ranks_of_their_own``, of the ranks that share this rank's vocabulary; called by them all."""
    first = _job_rank() - vocab_parallel_rank()
    return new_group(range(first, first + vocab_parallel_size()))


def new_world_group() -> RankGroup:
    """All ranks of a job without teams, with a group as that of ``ranks_of_their_own``; called by all together.

    A ``new_group`` is named after how many groups its members are in already: those of a pipeline's inner stages are in
    others than the outer ones, and would wait for each other for ever.
    """
    if world_size() == 1:
        return RankGroup()
    return RankGroup(rank(), world_size(), dist.new_group())


@contextmanager
def job(timeout_minutes: float = 30.0) -> Iterator[None]:
    """Joins the ranks of a ``deepspeed``, ``torchrun`` or ``srun`` job (or none) for as long as the block runs.

    ``timeout_minutes`` is how long a rank waits for its peers, also in the groups that DeepSpeed forms: it gives them
    torch's default, which is 10 minutes under NCCL.

    Leaves with a barrier only where the block ended well, so that a failed rank never waits for its peers.
    """
    _environment()
    import deepspeed

    if not torch.cuda.is_available():
        # Its shared-memory op serves inference alone and takes most of a minute to build.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        torch.cuda.set_device(device())
    timeout = datetime.timedelta(minutes=timeout_minutes)
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False,
        timeout=timeout,
    )  # fmt: skip
    defaults = c10d.default_pg_timeout, c10d.default_pg_nccl_timeout
    c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = timeout
    try:
        yield
        dist.barrier()
    finally:
        c10d.default_pg_timeout, c10d.default_pg_nccl_timeout = defaults
        dist.destroy_process_group()


def _environment() -> None:
    """Fills the variables that torch.distributed wants, from Slurm's or for a single process."""
    env = os.environ
    env.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" not in env and int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in env:
        env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_NTASKS"]
        env["LOCAL_RANK"] = env.get("SLURM_LOCALID", "0")
        if "MASTER_ADDR" not in env:
            raise UserError(
                "srun: MASTER_ADDR is not set; export MASTER_ADDR=$(scontrol show hostnames | head -n 1) before srun"
            )
        env.setdefault("MASTER_PORT", "29500")
    if "RANK" not in env and "OMPI_COMM_WORLD_SIZE" in env:  # DeepSpeed's openmpi runner
        env["RANK"], env["WORLD_SIZE"] = env["OMPI_COMM_WORLD_RANK"], env["OMPI_COMM_WORLD_SIZE"]
        env["LOCAL_RANK"] = env["OMPI_COMM_WORLD_LOCAL_RANK"]
        if "MASTER_ADDR" not in env:
            raise UserError("mpirun: MASTER_ADDR is not set; start with python launchers/launch.py --launcher openmpi")
        env.setdefault("MASTER_PORT", "29500")
    if "RANK" not in env:
        env.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        )  # fmt: skip


def free_port() -> int:
    """A port that nothing on this machine listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum over all ranks, equal on every one; the tensor itself is changed."""
    if world_size() > 1:
        dist.all_reduce(values, group=_Teams.group)
    return values


def from_main(value: Any) -> Any:
    """The main rank's value (picklable), on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=student_team() * world_size(), group=_Teams.group)
    return box[0]


def from_all(value: Any) -> list[Any]:
    """Every rank's value (picklable), in order of rank."""
    if world_size() == 1:
        return [value]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, value, group=_Teams.group)
    return everyone


def same_everywhere(values: Mapping[str, str]) -> None:
    """UserError on every rank where one's values are not the first rank's; it names that rank and its node."""
    if world_size() == 1:
        return
    everyone = from_all((socket.gethostname(), dict(values)))
    first = everyone[0][1]
    for number, (node, theirs) in enumerate(everyone):
        for what, value in theirs.items():
            if value != first[what]:
                raise UserError(
                    f"node {node}: rank {number} has {what} {value}, rank 0 on {everyone[0][0]} has {first[what]};"
                    " make them the same"
                )


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        dist.barrier(group=_Teams.group)


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts alone (so of (seed, update, slot), never of rank or history)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def on_main_first(step: Any, *arguments: Any) -> Any:
    """Runs a step on the main rank; where it fails there, every rank raises the same error instead of hanging."""
    outcome: tuple[Any, str | None, bool] = (None, None, False)
    if is_main():
        try:
            outcome = (step(*arguments), None, False)
        except Exception as error:
            outcome = (None, f"{type(error).__name__}: {error}", isinstance(error, UserError))
            if world_size() == 1:
                raise
    result, failure, user = from_main(outcome)
    if failure is not None:
        raise UserError(failure.removeprefix("UserError: ")) if user else RuntimeError(failure)
    return result


def shard_evenly(items: Sequence[Any]) -> list[Any]:
    """This rank's part of a list of data, padded with None so that all ranks take equally many steps."""
    mine = list(items[data_parallel_rank() :: data_parallel_size()])
    steps = -(-len(items) // data_parallel_size())
    return mine + [None] * (steps - len(mine))

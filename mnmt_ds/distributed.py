"""The ranks of a job: joining it under any launcher, groups of ranks and their collectives, seeds.

``rank()`` and ``world_size()`` are those of the whole job and never change their meaning. How a run spreads its model
over them is a ``parallel_layout.ParallelLayout``, which is handed to whatever needs it.
"""

import contextlib
import datetime
import hashlib
import os
import random
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds import private_apis
from mnmt_ds.errors import RunError, UserError, file_fault
from mnmt_ds.training_position import moved

Value = TypeVar("Value")


@dataclass(frozen=True)
class RankGroup:
    """A group of ranks of the job, seen from one of them, with the collectives over them.

    Every method is called by all ranks of the group together.
    """

    rank: int = 0
    """This process's rank in the group, from 0."""
    size: int = 1
    """Ranks in the group."""
    group: dist.ProcessGroup | None = None
    """Their torch.distributed group; None: the default group of the whole job."""

    @property
    def is_main(self) -> bool:
        """Whether this is the group's first rank, which logs and writes shared files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over the ranks, in place.

        Args:
            values: this rank's summand, of the same shape on every rank.

        Returns:
            The same tensor object, now the element-wise sum, equal on every rank.
        """
        moved()
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def broadcast_from_main(self, value: Value) -> Value:
        """Broadcasts the main rank's value to all ranks.

        Args:
            value: anything that can be pickled; only the main rank's counts.

        Returns:
            The main rank's value, on every rank.
        """
        moved()
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.group, group_src=0)
        return values[0]

    def gather(self, value: Value) -> list[Value]:
        """Gathers every rank's value on every rank.

        Args:
            value: anything that can be pickled.

        Returns:
            All ranks' values, in order of rank.
        """
        moved()
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        """Waits until every rank of the group has called this."""
        moved()
        if self.size > 1:
            dist.barrier(group=self.group)

    def on_main_first(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """Calls a function on the main rank while the others wait; a failure there is raised on every rank.

        Args:
            function: called on the main rank alone.
            *arguments: what it is called with.

        Returns:
            Its result (picklable), on every rank.

        Raises:
            UserError: where the function raised one on the main rank, with all its faults, or met a fault of a file or
                disk.
            RuntimeError: where it raised anything else there.
        """
        outcome: tuple[Any, Exception | None] = (None, None)
        if self.is_main:
            try:
                outcome = (function(*arguments), None)
            except Exception as error:
                fault = error if isinstance(error, UserError) else file_fault(error)
                if self.size == 1:
                    raise fault or error from error.__cause__
                outcome = (None, fault or RuntimeError(f"{type(error).__name__}: {error}"))
        result, failure = self.broadcast_from_main(outcome)
        if failure is not None:
            raise failure
        return result  # type: ignore[no-any-return]


ALONE = RankGroup()
"""One rank that is the whole job."""


def rank() -> int:
    """Returns this process's rank in the whole job, 0 when it is alone.

    Returns:
        From 0.
    """
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Returns the number of processes in the whole job.

    Returns:
        1 for a process alone.
    """
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def job_ranks() -> RankGroup:
    """Returns all ranks of the job, over torch's default group.

    Returns:
        The group, seen from this rank.
    """
    return RankGroup(rank(), world_size())


def is_main() -> bool:
    """Returns whether this is the job's rank 0.

    Returns:
        True on one rank of the job.
    """
    return rank() == 0


def on_main_first(function: Callable[..., Value], *arguments: Any) -> Value:
    """Calls a function on the job's main rank while the others wait; see ``RankGroup.on_main_first``.

    Args:
        function: called on the main rank alone.
        *arguments: what it is called with.

    Returns:
        Its result (picklable), on every rank.
    """
    return job_ranks().on_main_first(function, *arguments)


def barrier() -> None:
    """Waits for all ranks of the job."""
    job_ranks().barrier()


def uses_gpu() -> bool:
    """Returns whether this process computes on a CUDA device: as DS_ACCELERATOR says, else where torch sees a GPU.

    Returns:
        False where DS_ACCELERATOR is cpu, even on a machine with GPUs.
    """
    return os.environ.get("DS_ACCELERATOR") != "cpu" and torch.cuda.is_available()


def device() -> torch.device:
    """Returns the device of this rank: its CUDA device where GPUs are used, else the CPU.

    Returns:
        A CUDA device, or the CPU.
    """
    if uses_gpu():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def new_group(ranks: Sequence[int], backend: str | None = None) -> dist.ProcessGroup:
    """Forms a group of ranks; called by its members alone.

    Args:
        ranks: ranks of the job.
        backend: torch.distributed's name of a backend; None: the job's own.

    Returns:
        The group, on each of its members.
    """
    return warmed_up(dist.new_group(list(ranks), backend=backend, use_local_synchronization=True))


def warmed_up(group: dist.ProcessGroup) -> dist.ProcessGroup:
    """Calls a new group's first collective, in which NCCL makes its communicator: later, in the middle of other groups'
    collectives, that may wait for ever.

    Args:
        group: new; its members call this together.

    Returns:
        The same group.
    """
    nccl = dist.get_backend(group) == "nccl"
    dist.all_reduce(torch.zeros(1, device=device() if nccl else "cpu"), group=group)
    return group


@contextmanager
def job(timeout_minutes: float = 30.0) -> Iterator[None]:
    """Joins the ranks of a ``deepspeed``, ``torchrun`` or ``srun`` job (or none) for as long as the block runs.

    Leaves with a barrier only where the block ended well, so that a failed rank never waits for the other ranks.

    Args:
        timeout_minutes: how long a rank waits for the other ranks, also in the groups that DeepSpeed forms (left
            alone, it gives them torch's default, which is 10 minutes under NCCL).

    Returns:
        Nothing: a context manager.

    Raises:
        UserError: where a launcher has not said what joining needs, or DS_ACCELERATOR names what is not here.
        RunError: where the ranks do not meet, such as at a port that another job has.
    """
    _environment()
    accelerator = os.environ["DS_ACCELERATOR"]
    if accelerator not in ("cpu", "cuda"):
        raise UserError(f"DS_ACCELERATOR={accelerator}: know cpu and cuda; unset it to use what is there")
    if accelerator == "cuda" and not uses_gpu():
        raise UserError("DS_ACCELERATOR=cuda: torch sees no GPU here; unset it to compute on the CPU")
    import deepspeed

    gpu = uses_gpu()
    if gpu:  # collectives of several communicators run in the order in which this rank has launched them
        os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    if gpu:
        torch.cuda.set_device(device())
    else:
        private_apis.leave_out_shared_memory_op()
    timeout = datetime.timedelta(minutes=timeout_minutes)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if gpu else "gloo", auto_mpi_discovery=False, verbose=False,
            timeout=timeout,
        )  # fmt: skip
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise _cannot_meet(str(error)) from None
    try:
        with private_apis.default_timeout_of(timeout):
            yield
            dist.barrier()
    finally:
        dist.destroy_process_group()


def _cannot_meet(reason: str) -> RunError:
    """What a rank says that could not join the others at rank 0's address."""
    env = os.environ
    address = f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}"
    if "EADDRINUSE" in reason:
        return RunError(
            f"{address}: another job of this machine has the port; name a free one, such as deepspeed --master_port"
            f" {free_port()}, or start with python launchers/launch.py, which takes one by itself"
        )
    first = reason.splitlines()[0].partition(" Exception raised from")[0].rstrip(".")
    return RunError(
        f"{address}: rank {env['RANK']} of {env['WORLD_SIZE']} did not meet the others ({first}); see whether all ranks"
        " were started, and whether MASTER_ADDR and MASTER_PORT can be reached from every node",
        env["RANK"] == "0" or "refused" in first,
    )


def choose_accelerator() -> None:
    """Sets DS_ACCELERATOR before DeepSpeed is imported, where the user has not set it."""
    if not os.environ.get("DS_ACCELERATOR"):
        os.environ["DS_ACCELERATOR"] = "cuda" if uses_gpu() else "cpu"


def _environment() -> None:
    """Fills the variables that torch.distributed wants, from Slurm's or for a single process."""
    env = os.environ
    choose_accelerator()
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
    """Finds a port that nothing on this machine listens on now, nor is given in the seconds until it is used.

    Returns:
        A port number below those that the system gives to connections and to whoever asks for any port, where one of
        some is free; else any.
    """
    try:
        first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_given = 0
    own = range(max(10_000, first_given - 10_000), first_given)
    chosen = random.SystemRandom().sample(own, min(20, len(own)))  # takes nothing from seeded draws
    for port in [*chosen, 0]:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no port of this machine is free")


def same_everywhere(values: Mapping[str, str]) -> None:
    """Checks that some values are the same on all ranks of the job.

    Args:
        values: this rank's values, by what they are.

    Raises:
        UserError: on every rank where one differs from rank 0's; it names that rank and its node.
    """
    if world_size() == 1:
        return
    gathered = job_ranks().gather((socket.gethostname(), dict(values)))
    first_node, expected = gathered[0]
    for number, (node, received) in enumerate(gathered):
        for name, value in received.items():
            if value != expected[name]:
                raise UserError(
                    f"node {node}: rank {number} has {name} {value}, rank 0 on {first_node} has {expected[name]};"
                    " make them the same"
                )


def seed_of(*components: int | str) -> int:
    """Hashes its arguments to a seed that depends on nothing else, not on the rank or on earlier draws.

    Args:
        *components: such as (seed, update, index).

    Returns:
        63 bits.
    """
    digest = hashlib.blake2b("/".join(map(str, components)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

"""Runs beside a node's ranks: passes a request to stop on to them, and ends those that outlive the job.

``python -m mnmt_ds.launching.watchdog JOB`` runs on each node, at the end of a connection from the launcher. Its lines:
"stop" asks the ranks to save and leave (SIGTERM), any other is a heartbeat. When the connection ends, or is silent for
too long, whatever is left of the job on this node is ended. Processes belong to a job by a variable in their
environment, never by a name that another job's may share.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

JOB_VARIABLE = "MNMT_DS_JOB"
"""Environment variable with the job's name, in each of its processes."""
RANK_VARIABLES = frozenset({"RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"})
"""Environment variables, one of which each rank is started with."""
READY = "watching"
"""The line that the watchdog prints when it is at work."""
TIMEOUT = 60.0
"""Seconds without a heartbeat after which the launcher counts as lost."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def job_processes(job: str) -> dict[int, bool]:
    """Finds a job's processes on this node.

    Args:
        job: the job's name, the value of ``JOB_VARIABLE``.

    Returns:
        Whether it is a rank (not a launcher, nor a rank's helper), by process number.
    """
    environments: dict[int, dict[str, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                raw = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                variables = dict(item.partition("=")[::2] for item in raw)
                if variables.get(JOB_VARIABLE) == job:
                    environments[int(entry.name)] = variables
    ranks = {pid for pid, variables in environments.items() if RANK_VARIABLES & set(variables)}
    return {pid: pid in ranks and _parent(pid) not in ranks for pid in environments if pid != os.getpid()}


def _parent(pid: int) -> int:
    """The parent's process number; 0 where there is none any more."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def ask_to_stop(job: str) -> None:
    """Sends SIGTERM to this node's ranks, which then save and leave.

    Args:
        job: the job's name.
    """
    for pid, is_rank in job_processes(job).items():
        if is_rank:
            _signal(pid, signal.SIGTERM)


def end_job(job: str, grace: float = GRACE) -> int:
    """Kills what is left of a job on this node.

    Args:
        job: the job's name.
        grace: seconds between SIGTERM and SIGKILL.

    Returns:
        How many ranks were left.
    """
    left = sum(job_processes(job).values())
    deadline = time.monotonic() + grace
    for pid in job_processes(job):
        _signal(pid, signal.SIGTERM)
    while (remaining := job_processes(job)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in remaining:
        _signal(pid, signal.SIGKILL)
    return left


def _signal(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def watch(job: str, timeout: float = TIMEOUT) -> int:
    """Serves one job until the launcher's connection (standard input) ends, then ends what is left of the job here.

    Args:
        job: the job's name.
        timeout: seconds without a heartbeat after which the connection counts as ended.

    Returns:
        How many ranks were left.
    """
    print(READY, flush=True)
    buffer = b""
    while select.select([0], [], [], timeout)[0]:
        received = os.read(0, 4096)
        if not received:
            break
        *lines, buffer = (buffer + received).split(b"\n")
        if b"stop" in lines:
            ask_to_stop(job)
    return end_job(job)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the connection's end is the sign, and the only one
    left = watch(sys.argv[1])
    with contextlib.suppress(OSError):
        print(f"left {left}", flush=True)

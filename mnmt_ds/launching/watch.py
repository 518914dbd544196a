"""Beside a node's ranks: passes a request to stop on to them, and lets none of them outlive the job.

``python -m mnmt_ds.launching.watch JOB`` runs on each node at the end of a connection from the launcher. Its lines:
"stop" asks the ranks to save and leave (SIGTERM), any other is a sign of life. When the connection ends, or is silent
for too long, whatever is left of the job on this node is ended. Processes belong to a job by a variable in their
environment, never by a name that another job's may share.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

JOB = "MNMT_DS_JOB"
SILENCE = 60.0
"""Seconds without a sign of life after which the launcher is taken for lost."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def members(job: str) -> dict[int, bool]:
    """Processes of a job on this node, and whether each is a rank (not a launcher, nor a rank's helper)."""
    found: dict[int, dict[str, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                raw = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                variables = dict(item.partition("=")[::2] for item in raw)
                if variables.get(JOB) == job:
                    found[int(entry.name)] = variables
    ranks = {number for number, variables in found.items() if "RANK" in variables or "SLURM_PROCID" in variables}
    return {number: number in ranks and _parent(number) not in ranks for number in found if number != os.getpid()}


def _parent(number: int) -> int:
    try:
        return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def ask_to_stop(job: str) -> None:
    """SIGTERM to this node's ranks, which then save and leave."""
    for number, is_rank in members(job).items():
        if is_rank:
            _signal(number, signal.SIGTERM)


def end(job: str, grace: float = GRACE) -> int:
    """Ends what is left of a job on this node; how many ranks that was."""
    left = sum(members(job).values())
    until = time.monotonic() + grace
    for number in members(job):
        _signal(number, signal.SIGTERM)
    while (rest := members(job)) and time.monotonic() < until:
        time.sleep(0.2)
    for number in rest:
        _signal(number, signal.SIGKILL)
    return left


def _signal(number: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(number, which)


def watch(job: str, silence: float = SILENCE) -> int:
    """Serves one job until its connection ends; how many ranks were left then."""
    print("watching", flush=True)
    waiting = b""
    while select.select([0], [], [], silence)[0]:
        read = os.read(0, 4096)
        if not read:
            break
        *lines, waiting = (waiting + read).split(b"\n")
        if b"stop" in lines:
            ask_to_stop(job)
    return end(job)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the connection's end is the sign, and the only one
    left = watch(sys.argv[1])
    with contextlib.suppress(OSError):
        print(f"left {left}", flush=True)

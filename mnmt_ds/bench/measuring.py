"""What is measured, and how: threads, seconds, peak memory of a process of its own."""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.errors import UserError


def set_threads() -> None:
    """Sets torch's threads to OMP_NUM_THREADS (1 where it is not set), here and in child processes."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def wait_for_device() -> None:
    """Waits until the GPU has done all that it was given; does nothing without one."""
    import torch

    from mnmt_ds.distributed import uses_gpu

    if uses_gpu():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any]) -> float:
    """Times some work, on a GPU until it is done there.

    Args:
        work: the function to run.

    Returns:
        Wall-clock seconds.
    """
    began = time.perf_counter()
    work()
    wait_for_device()
    return time.perf_counter() - began


def seconds_of_device(work: Callable[[], Any], device: str) -> float:
    """Times some work by the device's own clock: on a GPU between two events, without the host's wait at the end.

    Args:
        work: the function to run.
        device: cpu or cuda.

    Returns:
        Seconds.
    """
    import torch

    if device != "cuda":
        return seconds_of(work)
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1e3  # type: ignore[no-any-return, no-untyped-call]


def times_of(work: Callable[[], Any]) -> tuple[float, float]:
    """Times some work by the clock and by the processor.

    Args:
        work: the function to run.

    Returns:
        Wall-clock seconds as of ``seconds_of``, and processor seconds of this process's threads together.
    """
    began = time.process_time()
    seconds = seconds_of(work)
    return seconds, time.process_time() - began


def cpu_seconds_of(work: Callable[[], Any]) -> float:
    """Times some work by the processor time of this process: others on a shared machine do not count.

    Args:
        work: the function to run.

    Returns:
        Seconds, of all threads together.
    """
    began = time.process_time()
    work()
    return time.process_time() - began


def processor() -> str:
    """Returns the processor's name.

    Returns:
        As the kernel has it; the architecture where it has none.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def rotated(names: list[str], round_number: int) -> list[str]:
    """Changes the order of turns from round to round, so that none always follows the same one.

    Args:
        names: the participants.
        round_number: number of the round.

    Returns:
        The names, beginning with another one in each round.
    """
    first = round_number % len(names)
    return [*names[first:], *names[:first]]


def peak_mib() -> float:
    """Measures the peak memory of this process so far: on a GPU that of its tensors there.

    Returns:
        MiB.
    """
    from mnmt_ds.engine.monitoring.meter import memory

    peak = memory()
    return peak.get(metric_keys.MEMORY_GPU, peak[metric_keys.MEMORY_CPU]) / 2**20


def peak_mib_in_child(benchmark: str, args: argparse.Namespace, name: str) -> float:
    """Measures a participant's peak memory in a process of its own: this command with ``--memory-of``.

    Args:
        benchmark: name of the benchmark; with ``--memory-of`` it prints its ``peak_mib``.
        args: the benchmark's arguments; recipe, overrides and updates are passed on.
        name: the participant.

    Returns:
        MiB.

    Raises:
        UserError: when the process fails.
    """
    command = [sys.executable, "-m", "mnmt_ds.cli.main", "bench", benchmark, str(args.recipe), *args.overrides]
    command += ["--memory-of", name, "--updates", str(args.updates)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"bench {benchmark}: {name} failed: {last_line}")
    return float(process.stdout.strip().splitlines()[-1])

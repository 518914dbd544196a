"""Shared by the steps: where results go, deadlines, timing. DRY_RUN=1 rehearses on a CPU with minute sizes."""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

DRY_RUN = os.environ.get("DRY_RUN") == "1"
DEVICE = torch.device("cpu" if DRY_RUN else "cuda")
OUT = Path(os.environ.get("OUT", "runs/gpu_checks"))
DATA = Path(os.environ.get("GPU_CHECKS_DATA", "data"))
"""A prepared corpus."""
BEGAN = time.monotonic()
SECONDS = float(os.environ.get("STEP_SECONDS", "60"))
"""How long the step may take."""


def emit(step: str, **values: Any) -> None:
    """Writes one line of results.jsonl, flushed at once, and prints it."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "results.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "at": round(time.monotonic() - BEGAN, 1), **values}) + "\n")
    print(step, {k: (round(v, 4) if isinstance(v, float) else v) for k, v in values.items()}, flush=True)


def seconds_left() -> float:
    """Seconds until the step is killed."""
    return SECONDS - (time.monotonic() - BEGAN)


def wait_for_device() -> None:
    """Waits until the GPU is done."""
    if not DRY_RUN:
        torch.cuda.synchronize()


def timed(function: Callable[[], Any], repeats: int = 10, warm: int = 3) -> dict[str, float]:
    """Times one call, in ms: on the GPU between events (median, best); wall and host where calls follow at once."""
    for _ in range(warm):
        function()
    wait_for_device()
    milliseconds = []
    for _ in range(repeats):
        if DRY_RUN:
            began = time.perf_counter()
            function()
            milliseconds.append((time.perf_counter() - began) * 1e3)
            continue
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        function()
        last.record()
        torch.cuda.synchronize()
        milliseconds.append(first.elapsed_time(last))
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    host = (time.perf_counter() - began) / repeats * 1e3
    wait_for_device()
    wall = (time.perf_counter() - began) / repeats * 1e3
    return {"ms": statistics.median(milliseconds), "best": min(milliseconds), "wall": wall, "host": host}


def peak_mib(function: Callable[[], Any]) -> float:
    """MiB of the GPU above what is held before one call."""
    if DRY_RUN:
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def kernels(function: Callable[[], Any], calls: int = 5) -> dict[str, Any]:
    """Launches of one call, milliseconds of kernels, and the longest of them; empty on a CPU."""
    if DRY_RUN:
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_device_time_total)
    return {
        "launches": sum(row.count for row in rows) / calls,
        "kernel_ms": sum(row.self_device_time_total for row in rows) / calls / 1e3,
        "top": [
            [row.key[:56], round(row.self_device_time_total / calls / 1e3, 4), row.count / calls] for row in rows[:12]
        ],
    }


def fault_text(fault: Exception) -> str:
    """One line."""
    return f"{type(fault).__name__}: {fault}".replace("\n", " ")[:300]


def device_is_lost(fault: Exception) -> bool:
    """Whether nothing can run on the GPU in this process any more."""
    return "CUDA error" in str(fault)

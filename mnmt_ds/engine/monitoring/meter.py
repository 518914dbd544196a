"""Sums between two reports, over micro-batches and ranks; every mean is taken once, at the report."""

import math
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds import metric_keys
from mnmt_ds.distributed import uses_gpu
from mnmt_ds.engine.parallel.engine import Metrics
from mnmt_ds.parallel_layout import ParallelLayout

KEYS = {"loss": metric_keys.TRAIN_LOSS, "ce": metric_keys.TRAIN_CE, "nll": metric_keys.TRAIN_NLL}
"""Metric keys of what every method reports; others have their own name in theirs."""
STAGE_KEYS = {
    metric_keys.MEMORY_CPU: metric_keys.MEMORY_CPU_STAGE,
    metric_keys.MEMORY_GPU: metric_keys.MEMORY_GPU_STAGE,
}
"""Metric keys of the same figure of each pipeline stage."""


class Meter:
    """Collects (sum, count) metrics of this rank since the last report."""

    def __init__(self, layout: ParallelLayout, peak: float | None = None) -> None:
        """Starts empty.

        Args:
            layout: the ranks that report together.
            peak: FLOP/s that this rank's device could do; None: not known.
        """
        self.layout, self.peak = layout, peak
        self.reset()

    def reset(self) -> None:
        """Drops everything collected since the last report."""
        self.sums: dict[str, Tensor] = {}
        self.tokens, self.flops = 0, 0.0
        self.since = time.monotonic()

    def add(self, metrics: Metrics) -> None:
        """Adds a micro-batch.

        Args:
            metrics: its sums, (2,) each: a sum and what it is to be divided by.
        """
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def report(self) -> dict[str, float]:
        """Computes means over all ranks and starts anew; called by all ranks together.

        Returns:
            Values by metric key.
        """
        # a rank may not have met a metric that others have, such as a teacher's
        names = sorted(set().union(*self.layout.ranks.gather(sorted(self.sums))))
        zero = torch.zeros(2, device=self.layout.device)
        stacked = torch.stack([self.sums.get(name, zero).float() for name in names]).double()
        values: dict[str, float] = {}
        for name, (total, count) in zip(names, self.layout.sum_over_ranks(stacked).tolist(), strict=True):
            values[KEYS.get(name, metric_keys.TRAIN_TERM.of(name))] = total / count if count else 0.0
        values[metric_keys.TRAIN_PPL] = math.exp(min(values[metric_keys.TRAIN_NLL], 50.0))
        seconds = max(time.monotonic() - self.since, 1e-9)
        values[metric_keys.TOKENS_PER_SEC] = self.tokens / seconds
        if self.peak is not None:
            values[metric_keys.MFU] = self.flops / seconds / self.peak
        self.reset()
        return values


def peak_resident() -> float:
    """Reads the peak resident memory of this process.

    Linux's own figure where there is one: getrusage's is at least what the process that started this one held then.

    Returns:
        Bytes.
    """
    import resource

    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024.0 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(layout: ParallelLayout | None = None) -> dict[str, float]:
    """Measures this rank's peak memory: of the process on the CPU, of its tensors on the GPU.

    Args:
        layout: along a pipeline also the most of any rank of each stage is reported, and all ranks call this together;
            None: of this process alone.

    Returns:
        Values by metric key.
    """
    values: dict[str, float] = {metric_keys.MEMORY_CPU: peak_resident()}
    if uses_gpu():
        values[metric_keys.MEMORY_GPU] = float(torch.cuda.max_memory_allocated())
    if layout is None or layout.pipeline_parallel_size == 1:
        return values
    stage_values: dict[str, float] = {}
    for name, key in STAGE_KEYS.items():
        if name not in values:
            continue
        most = torch.zeros(layout.pipeline_parallel_size, dtype=torch.float64, device=layout.device)
        most[layout.pipeline_parallel_rank] = values[name]
        dist.all_reduce(most, dist.ReduceOp.MAX)
        stage_values |= {key.of(str(number)): value for number, value in enumerate(most.tolist())}
    return values | stage_values

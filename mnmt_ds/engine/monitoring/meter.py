"""Sums between two reports, over micro-batches and ranks; every mean is taken once, at the report."""

import math
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds import metric_keys
from mnmt_ds.distributed import device, from_all, pipeline_parallel_rank, pipeline_parallel_size, sum_over_ranks

NAMES = {"loss": metric_keys.TRAIN_LOSS, "ce": metric_keys.TRAIN_CE, "nll": metric_keys.TRAIN_NLL}


class Meter:
    """Collects (sum, count) metrics of this rank since the last report."""

    def __init__(self, peak: float | None = None) -> None:
        self.peak = peak
        """FLOP/s that this rank's device could do; None: not known."""
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.tokens, self.flops = 0, 0.0
        self.since = time.monotonic()

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def report(self) -> dict[str, float]:
        """Means over all ranks, under their metric keys; starts anew. Called by all ranks together."""
        names = sorted(self.sums)
        # a rank may not have met a metric that its peers have, such as a teacher's
        names = sorted(set().union(*from_all(names)))
        zero = torch.zeros(2, device=device())
        stacked = torch.stack([self.sums.get(name, zero).float() for name in names]).double()
        values: dict[str, float] = {}
        for name, (total, count) in zip(names, sum_over_ranks(stacked).tolist(), strict=True):
            values[NAMES.get(name, metric_keys.TRAIN_TERM.of(name))] = total / count if count else 0.0
        values[metric_keys.TRAIN_PPL] = math.exp(min(values[metric_keys.TRAIN_NLL], 50.0))
        seconds = max(time.monotonic() - self.since, 1e-9)
        values[metric_keys.TOKENS_PER_SEC] = self.tokens / seconds
        if self.peak is not None:
            values[metric_keys.MFU] = self.flops / seconds / self.peak
        self.reset()
        return values


def peak_resident() -> float:
    """Peak resident bytes of this process: Linux's own figure where there is one, for getrusage's is at least what the
    process that started this one held then."""
    import resource

    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024.0 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory() -> dict[str, float]:
    """Peak bytes of this rank: of the process on the CPU, of its tensors on the GPU; along a pipeline also the most of
    any rank of each stage. Called by all ranks together."""
    values = {metric_keys.MEMORY_CPU: peak_resident()}
    if torch.cuda.is_available():
        values[metric_keys.MEMORY_GPU] = float(torch.cuda.max_memory_allocated())
    for name, size in list(values.items()) if pipeline_parallel_size() > 1 else ():
        most = torch.zeros(pipeline_parallel_size(), dtype=torch.float64, device=device())
        most[pipeline_parallel_rank()] = size
        dist.all_reduce(most, dist.ReduceOp.MAX)
        values |= {f"{name}/stage_{number}": value for number, value in enumerate(most.tolist())}
    return values

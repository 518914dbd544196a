"""Gradients outside of DeepSpeed's step: their norm and clipping at ZeRO 0, and those that serve no update.

The latter are read where DeepSpeed has reduced them, this rank's shard of them, and then forgotten. No rank ever holds
a whole gradient that its ZeRO stage would not hold anyway: dot products are taken of shards and summed over ranks.

Shape letters: N elements of this rank's shard.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mnmt_ds import private_apis
from mnmt_ds.distributed import RankGroup, device, uses_gpu
from mnmt_ds.models.vocab_parallel import is_vocab_sharded
from mnmt_ds.parallel_layout import ParallelLayout

BLOCK = 1 << 22
"""Elements that are widened to float64 at once."""


@contextmanager
def without_side_effects(deepspeed_engine: Any) -> Iterator[None]:
    """Runs a block of passes between two updates, then restores counters, gradient buffers and random state.

    Every backward within is one whole gradient: DeepSpeed reduces it at once.

    Args:
        deepspeed_engine: a DeepSpeedEngine.

    Returns:
        Nothing: a context manager.
    """
    counters = private_apis.counters(deepspeed_engine)
    buffers = private_apis.zero3_gradient_buffers(deepspeed_engine)
    values = [buffer.clone() for buffer in buffers]
    devices = [torch.cuda.current_device()] if uses_gpu() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            private_apis.restore_accumulation_boundary(deepspeed_engine)
            private_apis.forget_gradients(deepspeed_engine)
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)
            for owner, numbers in counters:
                vars(owner).update(numbers)


def gradient_shard(deepspeed_engine: Any, backward: Callable[[], None], ranks: RankGroup) -> Tensor:
    """Runs a backward pass and returns this rank's shard of its gradient, averaged over ranks.

    Called by all ranks together, within ``without_side_effects``.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
        backward: forward and backward of one batch.
        ranks: the ranks that the gradient is averaged over.

    Returns:
        float32 (N,). The parts of all ranks make up the gradient; how it is cut is DeepSpeed's affair (ZeRO 1 to 3), or
        by equal parts.
    """
    private_apis.forget_gradients(deepspeed_engine)
    deepspeed_engine.set_gradient_accumulation_boundary(True)
    backward()
    if device().type == "cuda":
        torch.cuda.synchronize()  # offloaded parts are copied to the CPU meanwhile
    shards = [
        private_apis.reduced_gradient_shard(parameter, ranks.rank, ranks.size)
        for parameter in deepspeed_engine.module.parameters()
        if parameter.requires_grad
    ]
    return torch.cat([shard.detach().to(device()).flatten().float() for shard in shards if shard is not None])


def dots(pairs: Sequence[tuple[Tensor, Tensor]], ranks: RankGroup) -> list[float]:
    """Computes dot products of sharded vectors, in float64.

    Args:
        pairs: this rank's shards (N,) of both vectors of each product.
        ranks: the ranks that hold the shards.

    Returns:
        The products, equal on every rank.
    """
    blocks = [zip(a_N.split(BLOCK), b_N.split(BLOCK), strict=True) for a_N, b_N in pairs]
    products = torch.stack([sum((a.double() * b.double()).sum() for a, b in block) for block in blocks])  # type: ignore[misc]
    return [float(value) for value in ranks.sum(products).tolist()]


@torch.no_grad()
def clip(module: nn.Module, layout: ParallelLayout, most: float, model_group: dist.ProcessGroup | None) -> float:
    """Clips a gradient in fp32 at ZeRO 0 and returns its norm.

    DeepSpeed tells none there, updates by a gradient that is not finite, too, and along pipeline stages clips by the
    norm of the first stage's part alone.

    Args:
        module: whose gradients are reduced: this rank's stage, with this rank's words.
        layout: the ranks.
        most: largest norm; 0: no clipping.
        model_group: the ranks that hold the parts of one copy of the model; None: it is whole.

    Returns:
        The L2 norm before clipping, equal on every rank. Where it is not finite, nothing is clipped.
    """
    held = [(parameter, parameter.grad) for parameter in module.parameters() if parameter.grad is not None]
    norms = [_counts(parameter, layout) * gradient.float().norm() for parameter, gradient in held]
    square = torch.stack([*norms, torch.zeros((), device=layout.device)]).square().sum()
    if model_group is not None:
        dist.all_reduce(square, group=model_group)
    norm = square.sqrt()
    number = float(norm)
    if most > 0 and math.isfinite(number):
        for _, gradient in held:
            gradient.mul_((most / (norm + 1e-6)).clamp(max=1.0))
    return number


def _counts(parameter: nn.Parameter, layout: ParallelLayout) -> float:
    """1, or 0 for what another rank counts: a tied matrix of two stages, what ranks that share a vocabulary all hold.

    Times a norm that is not finite, 0 is not finite either: that is noticed on every rank.
    """
    is_replica = getattr(parameter, "ds_pipe_replicated", False)
    return float(not is_replica and (layout.vocab_parallel_rank == 0 or is_vocab_sharded(parameter)))

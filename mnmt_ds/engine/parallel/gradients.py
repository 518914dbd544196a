"""Gradients that serve no update: this rank's shard of them, read where DeepSpeed has reduced them, then forgotten.

No rank ever holds a whole gradient that its ZeRO stage would not hold anyway: dot products are taken of shards and
summed over ranks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.distributed import device, rank, sum_over_ranks, world_size
from mnmt_ds.engine.parallel import state_snapshot

BLOCK = 1 << 22
"""Elements that are widened to float64 at once."""


@contextmanager
def without_side_effects(engine: Any) -> Iterator[None]:
    """Passes between two updates that leave no trace: counters, gradient buffers and random state are put back.

    Every backward within is one whole gradient: DeepSpeed reduces it at once.
    """
    counted = [(part, state_snapshot.numbers_of(part)) for part in state_snapshot.counted(engine)]
    buffers = [b for b in [getattr(engine.optimizer, "grad_partitions_flat_buffer", None)] if b is not None]
    kept = [buffer.clone() for buffer in buffers]  # ZeRO-3's, of which a pass writes the parameters that it uses
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            engine._is_gradient_accumulation_boundary = None
            forget(engine)
            for buffer, values in zip(buffers, kept, strict=True):
                buffer.copy_(values)
            for part, numbers in counted:
                vars(part).update(numbers)


def gradient_shard(engine: Any, backward: Callable[[], None]) -> Tensor:
    """float32 (N,): this rank's part of the gradient, averaged over ranks, that a backward pass leaves.

    The parts of all ranks make up the gradient; how it is cut is DeepSpeed's affair (ZeRO 1 to 3), or by equal parts.
    Called by all ranks together, within ``aside``.
    """
    forget(engine)
    engine.set_gradient_accumulation_boundary(True)
    backward()
    if device().type == "cuda":
        torch.cuda.synchronize()  # offloaded parts are copied to the CPU meanwhile
    parts = [_part(parameter) for parameter in engine.module.parameters()]
    return torch.cat([part.detach().to(device()).flatten().float() for part in parts if part is not None])


def forget(engine: Any) -> None:
    """No gradient is held or accumulated any more."""
    optimizer = engine.optimizer
    engine.zero_grad()
    optimizer.zero_grad()
    if hasattr(optimizer, "averaged_gradients"):  # ZeRO 1 to 3
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
        optimizer.micro_step_id = -1  # as after a step: what comes next is not added to anything
        optimizer.reset_cpu_buffers()
    if engine.zero_optimization_stage() == 3:
        optimizer.averaged_gradients.clear()
        optimizer.grad_partitions_flat_buffer.zero_()


def dots(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Dot products of sharded vectors, in float64, equal on every rank."""
    blocks = [zip(a.split(BLOCK), b.split(BLOCK), strict=True) for a, b in pairs]
    own = torch.stack([sum((x.double() * y.double()).sum() for x, y in block) for block in blocks])  # type: ignore[misc]
    return [float(value) for value in sum_over_ranks(own).tolist()]


def _part(parameter: Any) -> Tensor | None:
    """This rank's part of a parameter's reduced gradient; None where it has none."""
    from deepspeed.utils import safe_get_local_grad

    if hasattr(parameter, "ds_id"):  # ZeRO-3
        return safe_get_local_grad(parameter)
    if hasattr(parameter, "_hp_mapping"):  # ZeRO-1 and 2, and bf16 without ZeRO
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        found = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
        own = mapping.lp_fragment_address
        return found.narrow(0, own.start, own.numel) if found.numel() == parameter.numel() else found
    length = -(-parameter.numel() // world_size())
    whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return whole.flatten()[rank() * length : (rank() + 1) * length]

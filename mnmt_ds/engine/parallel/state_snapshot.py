"""An engine's whole training state copied aside and put back, bit for bit, at any ZeRO stage.

Copied: weights (at ZeRO-3 this rank's partitions), fp32 masters, the optimizer's moments and step counters, the loss
scaler, the counters and rates of engine and optimizer, and the random states of torch. Tensors are written in place,
since DeepSpeed's buffers are views of one another.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.errors import UserError

MASTERS = (
    "single_partition_of_fp32_groups",  # ZeRO 1 and 2
    "fp32_partitioned_groups_flat",  # ZeRO 3
    "fp32_groups_flat_partition",  # bf16 without ZeRO
    "fp32_groups_flat",  # fp16 without ZeRO
)
"""Where DeepSpeed's optimizers hold fp32 masters."""
Number = int | float | bool


class TrainingState(NamedTuple):
    """A training state."""

    tensors: list[Tensor]
    moments: dict[Any, dict[str, Any]]
    """The inner optimizer's state, by parameter."""
    numbers: list[dict[str, Number]]
    """Counters and scales of engine, optimizer and loss scaler."""
    groups: list[dict[str, Number]]
    """Learning rate and the like of each parameter group."""
    cpu_random: Tensor
    cuda_random: list[Tensor]


def capture_state(engine: Any) -> TrainingState:
    """A copy of the present state, between two updates. UserError where part of it lies on NVMe."""
    _refuse_nvme(engine)
    return TrainingState(
        [_copy(tensor) for tensor in _tensors(engine)],
        {parameter: {k: _copy(v) for k, v in state.items()} for parameter, state in _inner(engine).state.items()},
        [numbers_of(part) for part in counted(engine)],
        [_numbers(group) for group in engine.optimizer.param_groups],
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


@torch.no_grad()
def restore_state(engine: Any, kept: TrainingState) -> None:
    """The state as it was kept; called by all ranks together (at ZeRO-3 small parameters are gathered anew)."""
    partitioned = engine.zero_optimization_stage() == 3
    if partitioned:
        engine.optimizer.checkpoint_event_prologue()
    for tensor, value in zip(_tensors(engine), kept.tensors, strict=True):
        tensor.copy_(value)
    if partitioned:
        engine.optimizer.checkpoint_event_epilogue()
    state = _inner(engine).state
    for parameter in [p for p in state if p not in kept.moments]:
        del state[parameter]  # made by an update since
    for parameter, values in kept.moments.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                state[parameter][name].copy_(value)
            else:
                state[parameter][name] = value
    for part, numbers in zip(counted(engine), kept.numbers, strict=True):
        vars(part).update(numbers)
    for group, numbers in zip(engine.optimizer.param_groups, kept.groups, strict=True):
        group.update(numbers)
    torch.set_rng_state(kept.cpu_random)
    if kept.cuda_random:
        torch.cuda.set_rng_state_all(kept.cuda_random)


def _tensors(engine: Any) -> Iterator[Tensor]:
    for parameter in engine.module.parameters():
        yield parameter.ds_tensor.data if hasattr(parameter, "ds_tensor") else parameter.data
    for name in MASTERS:
        for master in getattr(engine.optimizer, name, ()):
            yield master.data


def _inner(engine: Any) -> Any:
    """torch's (or DeepSpeed's) Adam inside whatever wraps it."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def counted(engine: Any) -> list[Any]:
    """The objects of an engine that count."""
    parts = [engine, engine.optimizer, getattr(engine.optimizer, "loss_scaler", None)]
    return [part for part in parts if part is not None]


def numbers_of(part: Any) -> dict[str, Number]:
    """Its counters, scales and flags, by attribute."""
    return _numbers(vars(part))


def _numbers(values: Mapping[str, Any]) -> dict[str, Number]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _refuse_nvme(engine: Any) -> None:
    offloads = [engine.zero_offload_optimizer(), engine.zero_offload_param()]
    if any(part is not None and part.device == "nvme" for part in offloads):
        raise UserError("trials of weights: training state on NVMe cannot be copied aside; offload to the cpu instead")

"""An engine's whole training state copied aside and put back, bit for bit, at any ZeRO stage.

Copied: trained weights (at ZeRO-3 this rank's partitions), fp32 masters and their moving average, the optimizer's
moments and step counters, the loss scaler, the counters and rates of engine and optimizer, and the random states of
torch. Tensors are written in
place, since DeepSpeed's buffers are views of one another.
"""

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds import private_apis
from mnmt_ds.distributed import uses_gpu
from mnmt_ds.engine.parallel.weight_average import WeightAverage
from mnmt_ds.errors import UserError
from mnmt_ds.private_apis import Number


class TrainingState(NamedTuple):
    """A copy of a student's training state on this rank, from which the engine can go on."""

    tensors: list[Tensor]
    """Weights and fp32 masters."""
    moments: dict[Any, dict[str, Any]]
    """The inner optimizer's state, by parameter."""
    numbers: list[dict[str, Number]]
    """Counters and scales of engine, optimizer and loss scaler."""
    groups: list[dict[str, Number]]
    """Learning rate and the like of each parameter group."""
    cpu_random: Tensor
    """State of torch's CPU generator."""
    cuda_random: list[Tensor]
    """State of each CUDA device's generator."""
    average: list[Tensor]
    """The averaged weights; empty where there are none."""


def capture_state(deepspeed_engine: Any, average: WeightAverage | None = None) -> TrainingState:
    """Copies the present state, between two updates.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
        average: of its weights; None: there is none.

    Returns:
        The copy.

    Raises:
        UserError: where part of the state lies on NVMe.
    """
    _refuse_nvme(deepspeed_engine)
    moments = private_apis.inner_optimizer(deepspeed_engine).state
    return TrainingState(
        [_copy(tensor) for tensor in private_apis.weight_and_master_tensors(deepspeed_engine)],
        {parameter: {name: _copy(value) for name, value in state.items()} for parameter, state in moments.items()},
        [numbers for _, numbers in private_apis.counters(deepspeed_engine)],
        [
            {name: value for name, value in group.items() if isinstance(value, int | float)}
            for group in deepspeed_engine.optimizer.param_groups
        ],
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if uses_gpu() else [],
        [_copy(values) for values in average.values] if average is not None else [],
    )


@torch.no_grad()
def restore_state(deepspeed_engine: Any, snapshot: TrainingState, average: WeightAverage | None = None) -> None:
    """Restores a captured state; called by all ranks together.

    Args:
        deepspeed_engine: the engine that it was copied from.
        snapshot: the copy.
        average: of its weights; None: there is none.
    """
    for averaged, kept in zip(average.values if average is not None else (), snapshot.average, strict=True):
        averaged.copy_(kept)
    with private_apis.weights_written_in_place(deepspeed_engine):
        for tensor, value in zip(
            private_apis.weight_and_master_tensors(deepspeed_engine), snapshot.tensors, strict=True
        ):
            tensor.copy_(value)
    moments = private_apis.inner_optimizer(deepspeed_engine).state
    for parameter in [parameter for parameter in moments if parameter not in snapshot.moments]:
        del moments[parameter]  # made by an update since
    for parameter, values in snapshot.moments.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                moments[parameter][name].copy_(value)
            else:
                moments[parameter][name] = value
    for (owner, _), numbers in zip(private_apis.counters(deepspeed_engine), snapshot.numbers, strict=True):
        vars(owner).update(numbers)
    for group, numbers in zip(deepspeed_engine.optimizer.param_groups, snapshot.groups, strict=True):
        for name in [name for name, value in group.items() if isinstance(value, int | float) and name not in numbers]:
            del group[name]  # counted since, for the first time
        group.update(numbers)
    torch.set_rng_state(snapshot.cpu_random)
    if snapshot.cuda_random:
        torch.cuda.set_rng_state_all(snapshot.cuda_random)


def is_finite(deepspeed_engine: Any, whole_state: bool = False) -> bool:
    """Checks whether an engine's trained weights are finite on this rank; each step makes them from fp32 masters.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
        whole_state: whether the masters and the optimizer's moments must be, too.

    Returns:
        False where one is not.
    """
    count = sum(parameter.requires_grad for parameter in deepspeed_engine.module.parameters())
    tensors = private_apis.weight_and_master_tensors(deepspeed_engine)
    held = list(tensors if whole_state else itertools.islice(tensors, count))
    if whole_state:
        moments = private_apis.inner_optimizer(deepspeed_engine).state.values()
        held += [value for state in moments for value in state.values() if isinstance(value, Tensor)]
    sums = [tensor.sum(dtype=torch.float64) for tensor in held]
    return all(bool(total.isfinite()) for total in sums)  # finite numbers of 32 bits never overflow 64


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _refuse_nvme(deepspeed_engine: Any) -> None:
    offloads = [deepspeed_engine.zero_offload_optimizer(), deepspeed_engine.zero_offload_param()]
    if any(offload is not None and offload.device == "nvme" for offload in offloads):
        raise UserError("trials of weights: training state on NVMe cannot be copied aside; offload to the cpu instead")

"""The fp32 masters of an engine's weights, parameter by parameter, and the weights made from them anew.

Which of DeepSpeed's optimizers has them where: see ``private_api_list``.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mnmt_ds.private_apis import weights_written_in_place, zero3_partition


class MasterFragment(NamedTuple):
    """The part of a parameter's fp32 master that this rank holds."""

    name: str
    """The parameter's."""
    start: int
    """Where the part begins in the flattened parameter."""
    values: Tensor
    """float32 (N,), the master itself: what is written into it is the engine's state."""


def master_fragments(deepspeed_engine: Any, module: nn.Module) -> Iterator[MasterFragment]:
    """Yields this rank's parts of all trained parameters' masters; in fp32 without ZeRO weights are their own masters.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
        module: with the parameters, under the names that the fragments get.

    Yields:
        Those that are not empty, always in the same order.
    """
    optimizer = deepspeed_engine.optimizer
    whole = _whole_masters(optimizer)
    parameters: Iterator[tuple[str, Any]] = module.named_parameters()  # with what DeepSpeed has set on them
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):  # ZeRO-3
            length = zero3_partition(parameter)[1]
            start = dist.get_rank(parameter.ds_process_group) * length
            group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
            size = min(length, parameter.ds_numel - start)
            values = optimizer.fp32_partitioned_groups_flat[group].data[offset : offset + max(0, size)]
        elif hasattr(parameter, "_hp_mapping"):  # ZeRO 1 and 2, and bf16 where gradients add up in fp32
            mapping = parameter._hp_mapping
            if mapping is None:
                continue
            start, values = mapping.lp_fragment_address.start, mapping.get_hp_fragment().data
        else:
            start, values = 0, (whole[id(parameter)][1] if whole else parameter).data.view(-1)
        if values.numel():
            yield MasterFragment(name, start, values)


@torch.no_grad()
def weights_from_masters(deepspeed_engine: Any, module: nn.Module) -> None:
    """Makes the weights from their masters anew, as the optimizer does behind a step; all ranks call this together.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
        module: with the parameters.
    """
    optimizer = deepspeed_engine.optimizer
    if hasattr(optimizer, "update_lp_params"):  # ZeRO 1 and 2, and bf16 where gradients add up in fp32
        optimizer.update_lp_params()
        return
    for parameter, master in _whole_masters(optimizer).values():
        parameter.data.copy_(master.view_as(parameter))
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO-3
        parameters = dict(module.named_parameters())
        with weights_written_in_place(deepspeed_engine):
            for fragment in master_fragments(deepspeed_engine, module):
                partition, _ = zero3_partition(parameters[fragment.name])
                partition.data[: fragment.values.numel()].copy_(fragment.values)


def _whole_masters(optimizer: Any) -> Mapping[int, tuple[nn.Parameter, Tensor]]:
    """By identity, each weight and its master in bf16 and fp16 without ZeRO; nothing elsewhere.

    DeepSpeed's own Adam has one flat tensor a group, torch's one a weight.
    """
    masters_by_id: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for number, flat in enumerate(getattr(optimizer, "fp32_groups_flat", ())):
        weights = optimizer.fp16_groups[number]
        masters = flat.data.split([weight.numel() for weight in weights])
        masters_by_id |= {id(weight): (weight, master) for weight, master in zip(weights, masters, strict=True)}
    for number, group in enumerate(getattr(optimizer, "fp32_groups", ())):
        pairs = zip(optimizer.fp16_groups[number], group, strict=True)
        masters_by_id |= {id(weight): (weight, master.data) for weight, master in pairs}
    return masters_by_id

"""A step of ZeRO 1 and 2 that asks the device nothing: a gradient that is not finite is left out there, and the host
may hear of it later.

DeepSpeed's step reads the norm, and whether it is finite, before it goes on. Torch's fused Adam takes that as a tensor
(``found_inf``, as GradScaler sets it) and leaves weights, moments and counts as they are. The values are the same. See
``private_api_list``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class LateChecks:
    """Answers for one ZeRO optimizer: its norm, clipping and check stay on the device."""

    def __init__(self, optimizer: Any) -> None:
        """Takes over an optimizer's norm, clipping and check.

        Args:
            optimizer: one of those that ``late_checks`` takes.
        """
        self.optimizer = optimizer
        self.norm: Tensor = torch.zeros((), device=optimizer.device)
        """(): the last step's gradient norm before clipping."""
        self.broken: Tensor = torch.zeros((), device=optimizer.device)
        """(): 1 from the first update on that was not finite, else 0. It stays 1: nothing is updated any more."""
        optimizer.check_grad_overflow = False
        optimizer.scaled_global_norm = self._take_norm
        optimizer.unscale_and_clip_grads = self._clip

    def note(self, broken: Tensor) -> None:
        """Notes whether the coming step's losses are not finite; it is then left out.

        Args:
            broken: (), above 0 where one is not; equal on every rank.
        """
        self.broken = torch.maximum(self.broken, (broken > 0).to(self.broken.dtype))

    @torch.no_grad()
    def _take_norm(self, norm_type: float = 2) -> float:
        """Keeps the norm, and tells Adam whether to step; the answer says only that there is a norm."""
        optimizer = self.optimizer
        norms = [self._group_norm(group) for group in range(len(optimizer.bit16_groups))]
        self.norm = torch.linalg.vector_norm(torch.stack(norms))
        self.note(~torch.isfinite(self.norm))
        optimizer.optimizer.found_inf = self.broken
        return 1.0

    def _group_norm(self, group: int) -> Tensor:
        """As DeepSpeed's ``get_grad_norm_direct``, whose mark of what is not finite the host makes and sends."""
        from deepspeed.accelerator import get_accelerator
        from deepspeed.runtime.zero.stage_1_and_2 import get_norm_dtype, is_model_parallel_parameter

        optimizer = self.optimizer
        gradients = (g for g in optimizer.averaged_gradients[group] if not getattr(g, "_zero_padding", False))
        norms = [
            torch.linalg.vector_norm(gradient.detach().to(get_norm_dtype()))
            for gradient, parameter in zip(gradients, optimizer.params_in_partition[group], strict=False)
            if is_model_parallel_parameter(parameter) or optimizer.model_parallel_rank == 0
        ]
        device = get_accelerator().current_device_name()
        square = torch.stack(norms).pow(2).sum().float() if norms else torch.zeros((), device=device)
        dist.all_reduce(square, group=optimizer.dp_process_group)
        optimizer._model_parallel_all_reduce(tensor=square, op=dist.ReduceOp.SUM)
        return square.pow(0.5)

    def _clip(self, gradients: Sequence[Tensor], norm: Any) -> None:
        """Scales gradients down to the largest norm, where there is one; ``norm`` is what ``_take_norm`` answered."""
        if self.optimizer.clip_grad > 0:
            factor = ((self.norm + 1e-6) / self.optimizer.clip_grad).clamp(min=1.0)
            for gradient in gradients:
                gradient.data.mul_(1.0 / factor)


def late_checks(deepspeed_engine: Any) -> LateChecks | None:
    """Makes an engine's step ask the device nothing, where torch's fused Adam steps on the weights' device.

    Args:
        deepspeed_engine: a DeepSpeedEngine before its first update.

    Returns:
        What tells of its norms; None: another stage or optimizer, offloaded or scaled, which is left as it is.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    optimizer = deepspeed_engine.optimizer
    if type(optimizer) is not DeepSpeedZeroOptimizer or deepspeed_engine.fp16_enabled():
        return None
    inner = optimizer.optimizer
    is_fused = (
        type(inner) in (torch.optim.Adam, torch.optim.AdamW)
        and "step" not in vars(inner)  # ``private_block_step``
        and all(group["fused"] for group in inner.param_groups)
    )
    scaler = optimizer.torch_autocast_gradscaler
    if not is_fused or optimizer.cpu_offload or optimizer.zenflow or scaler is not None or optimizer.has_moe_layers:
        return None
    return LateChecks(optimizer) if optimizer.compute_grad_norm else None

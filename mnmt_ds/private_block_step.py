"""A step of ZeRO 1 and 2 on the CPU, block by block: without whole copies of the gradient, which DeepSpeed makes three
of (flattened, in float32, in float64 for its norm). Values are the same.

DeepSpeed's step itself runs; what it asks of its gradients is answered here. See ``private_api_list``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

LEAST = 1 << 24
"""Elements of a rank's part from which on the copies matter; smaller optimizers step as DeepSpeed has it."""
BLOCK = 1 << 18
"""Elements that are widened at once: they stay in the cache."""


def step_in_blocks(deepspeed_engine: Any) -> None:
    """Makes an engine's optimizer step block by block, where torch's fused Adam steps on the CPU at ZeRO 1 or 2.

    Args:
        deepspeed_engine: a DeepSpeedEngine that has just been made; any other, and a small one, is left as it is.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    optimizer = deepspeed_engine.optimizer
    if type(optimizer) is DeepSpeedZeroOptimizer and _is_fused_adam_on_cpu(optimizer) and _is_large(optimizer):
        _BlockStep(optimizer)


def _is_fused_adam_on_cpu(optimizer: Any) -> bool:
    """Whether the inner optimizer is torch's, and everything of a step is on the CPU in float32."""
    masters = optimizer.single_partition_of_fp32_groups
    return (
        type(optimizer.optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        and all(group["fused"] and not group["amsgrad"] for group in optimizer.optimizer.param_groups)
        and all(master.device.type == "cpu" and master.dtype == torch.float32 for master in masters)
        and not optimizer.cpu_offload
        and not optimizer.zenflow
        and optimizer.torch_autocast_gradscaler is None
    )


def _is_large(optimizer: Any) -> bool:
    return sum(master.numel() for master in optimizer.single_partition_of_fp32_groups) >= LEAST


class _BlockStep:
    """Answers for one ZeRO optimizer; of its methods the originals are kept."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.inner = optimizer, optimizer.optimizer
        self.norms: dict[int, Tensor] = {}  # of this step's gradients, by identity
        self.gradients: Sequence[Tensor] = ()  # of the group that is updated
        self.scale = torch.ones(1)
        self.grad_norm = optimizer.get_grad_norm_direct
        self.flat_partition = optimizer._get_preflattened_grad_partition
        self.unscale_and_clip = optimizer.unscale_and_clip_grads
        optimizer.has_overflow_partitioned_grads_serial = self.has_overflow
        optimizer.get_grad_norm_direct = self.get_grad_norm
        optimizer._get_preflattened_grad_partition = self.get_flat_partition
        optimizer.unscale_and_clip_grads = self.keep_scale
        self.inner.step = self.step
        self.copy_gradient = optimizer.copy_grads_in_partition
        optimizer.copy_grads_in_partition = self.keep_large_gradient
        if dist.get_world_size(optimizer.dp_process_group) == 1 and not any(
            map(optimizer._use_compact_grad_partition_buffer, range(len(optimizer.bit16_groups)))
        ):
            optimizer.average_tensor = lambda gradient, dtype: None  # the mean over one rank

    def keep_large_gradient(self, param: Any, group: int | None = None) -> None:
        """Copies a gradient out of the buffer of those that are reduced together; a larger one was never in it."""
        if param.numel() <= self.optimizer.reduce_bucket_size or not self.optimizer.contiguous_gradients:
            self.copy_gradient(param, group)

    def has_overflow(self) -> Tensor:
        """Whether a gradient is not finite: then its norm is not."""
        groups = [self.optimizer.averaged_gradients[i] for i in range(len(self.optimizer.bit16_groups))]
        self.norms = {id(gradient): _norm(gradient) for group in groups for gradient in group if gradient is not None}
        return torch.tensor([any(not norm.isfinite() for norm in self.norms.values())])

    def get_grad_norm(self, gradients: Sequence[Tensor], params: Any, norm_type: float = 2) -> Any:
        """The norm of gradients, from the norm of each: one number has the norm of the tensor that it stands for."""
        if norm_type != 2:
            return self.grad_norm(gradients, params, norm_type)
        return self.grad_norm([self.norm_or_padding(gradient) for gradient in gradients], params)

    def norm_or_padding(self, gradient: Tensor) -> Tensor:
        """A gradient's norm; padding, which DeepSpeed knows by a mark, as it is."""
        if getattr(gradient, "_zero_padding", False):
            return gradient
        norm = self.norms.pop(id(gradient), None)
        return _norm(gradient) if norm is None else norm

    def get_flat_partition(self, group: int) -> Any:
        """A stand-in of a group's flat gradient, without memory; the gradients themselves are kept for ``step``."""
        whole = self.flat_partition(group)
        if whole is not None:
            return whole
        self.gradients, self.scale = self.optimizer.averaged_gradients[group], torch.ones(1)
        return torch.zeros(1).expand(int(self.optimizer.partition_size[group]))

    def keep_scale(self, gradients: Sequence[Any], total_norm: Any) -> None:
        """Keeps the factor that gradients are to be scaled by."""
        self.unscale_and_clip([self.scale] if self.gradients else gradients, total_norm)

    @torch.no_grad()
    def step(self) -> None:
        """Adam's update of one group, whose state it makes where there is none yet."""
        from torch.optim.adam import adam

        [group] = self.inner.param_groups
        [master] = group["params"]
        lists: list[list[Tensor]] = [[] for _ in range(6)]  # weights, gradients, moments, largest second ones, counts
        self.inner._init_group(group, *lists)
        [first], [second], [count] = lists[2], lists[3], lists[5]
        start = 0
        for gradient in _blocks(self.gradients, master.numel()):
            block = slice(start, start := start + len(gradient))
            adam(
                [master.detach()[block]], [gradient.mul_(self.scale)], [first[block]], [second[block]], [],
                [count.clone()], fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1],
                lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=group["maximize"],
                decoupled_weight_decay=group["decoupled_weight_decay"],
            )  # fmt: skip
        count.add_(1)
        self.gradients = ()


def _blocks(gradients: Sequence[Tensor], length: int) -> Iterator[Tensor]:
    """Cuts a partition's gradients into float32 blocks; behind the last come zeros. Each block is overwritten next."""
    block, filled = torch.empty(min(BLOCK, length)), 0
    pieces = [piece for gradient in gradients for piece in gradient.reshape(-1).split(BLOCK)]
    for piece in pieces:
        while len(piece):
            room = piece[: len(block) - filled]
            block[filled : filled + len(room)].copy_(room)
            piece, filled = piece[len(room) :], filled + len(room)
            if filled == len(block):
                yield block
                length, filled = length - filled, 0
                block = block[: min(len(block), length)]
    if length:
        block[filled:].zero_()
        yield block[:length]


def _norm(gradient: Tensor) -> Tensor:
    """(1,) float64: the L2 norm, of which no whole copy is made."""
    squares = [piece.double().square_().sum() for piece in gradient.detach().reshape(-1).split(BLOCK)]
    return torch.stack([torch.zeros((), dtype=torch.float64), *squares]).sum().sqrt()[None]

"""Native code that a job needs, built on a node before its ranks start."""

import contextlib
from collections.abc import Sequence
from typing import Any

from mnmt_ds.distributed import device, uses_gpu
from mnmt_ds.kernels import deepspeed_ops
from mnmt_ds.kernels.build import BuildError
from mnmt_ds.kernels.implementations import resolve_implementation


def ops_needed(config: dict[str, Any]) -> list[str]:
    """Lists DeepSpeed's op builders that a configuration leads to.

    Args:
        config: DeepSpeed's configuration, resolved.

    Returns:
        Class names, such as ``CPUAdamBuilder``.
    """
    zero, optimizer = config.get("zero_optimization", {}), config.get("optimizer", {})
    devices = {zero.get(section, {}).get("device") for section in ("offload_optimizer", "offload_param")}
    ops = ["AsyncIOBuilder"] if "nvme" in devices else []
    if optimizer.get("type", "").lower() in ("adam", "adamw") and not optimizer["params"].get("torch_adam"):
        offloaded = zero.get("offload_optimizer", {}).get("device", "none") != "none"
        ops.append("CPUAdamBuilder" if offloaded or not uses_gpu() else "FusedAdamBuilder")
    return ops


def build_native_code(loss_implementation: str, config: dict[str, Any], optional: Sequence[str] = ()) -> list[str]:
    """Builds the native code that a job needs.

    Args:
        loss_implementation: the recipe's ``train.loss_implementation``.
        config: DeepSpeed's configuration, resolved.
        optional: further op builders; the job goes without those that cannot be built.

    Returns:
        What stands in the way, a line each.

    Raises:
        UserError: when the loss's kernels were asked for by name and cannot be built.
    """
    resolve_implementation(loss_implementation, device())
    faults = [
        f"{lock}: left by a build that was killed; later builds wait on it for ever; remove it"
        " (unless another node that shares this directory is building)"
        for lock in deepspeed_ops.stale_locks()
    ]
    if faults:
        return faults
    for name in ops_needed(config):
        try:
            deepspeed_ops.load(name)
        except BuildError as error:
            faults.append(f"DeepSpeed's {error}")
    for name in optional:
        with contextlib.suppress(BuildError):
            deepspeed_ops.load(name)
    return faults

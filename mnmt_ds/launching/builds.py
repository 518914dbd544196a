"""Native code that a job needs, built on a node before its ranks start."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from mnmt_ds.distributed import device
from mnmt_ds.kernels import deepspeed_ops
from mnmt_ds.kernels.build import BuildError
from mnmt_ds.kernels.implementations import resolve_implementation


def ops_needed(config: dict[str, Any]) -> list[str]:
    """DeepSpeed's op builders that a resolved configuration leads to."""
    zero, optimizer = config.get("zero_optimization", {}), config.get("optimizer", {})
    devices = {zero.get(part, {}).get("device") for part in ("offload_optimizer", "offload_param")}
    ops = ["AsyncIOBuilder"] if "nvme" in devices else []
    if optimizer.get("type", "").lower() in ("adam", "adamw") and not optimizer["params"].get("torch_adam"):
        offloaded = zero.get("offload_optimizer", {}).get("device", "none") != "none"
        ops.append("CPUAdamBuilder" if offloaded or not torch.cuda.is_available() else "FusedAdamBuilder")
    return ops


def build(implementation: str, config: dict[str, Any], welcome: Sequence[str] = ()) -> list[str]:
    """Builds what a job needs; returns what stands in the way, a line each.

    ``welcome``: further op builders, which the job does without where they cannot be built. The loss's kernels raise
    UserError where they were asked for by name and cannot be built.
    """
    resolve_implementation(implementation, device())
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
    for name in welcome:
        with contextlib.suppress(BuildError):
            deepspeed_ops.load(name)
    return faults

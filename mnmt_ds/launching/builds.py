"""Native code that a job needs, built on a node before its ranks start; and locks of builds that were killed.

torch's builds (DeepSpeed's ops) lock by a file's mere existence: a killed one leaves it, and every later build waits on
it without end or word. Our own kernels' locks die with their holder (kernels/build.py).
"""

import os
import time
from pathlib import Path
from typing import Any

import torch

from mnmt_ds.distributed import device
from mnmt_ds.kernels.ce_with_teacher import chosen

YOUNG = 10.0
"""Seconds: a younger lock may be that of a build that is about to be visible."""


def extension_roots() -> list[Path]:
    """Directories below which torch builds extensions, each in one of its own."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        return [Path(given)]
    from torch.utils.cpp_extension import get_default_build_root

    return sorted(Path(get_default_build_root()).glob("py*"))


def stale_locks() -> list[Path]:
    """Locks of torch's builds that no process of this node holds open, as a builder does until it is done."""
    found = [lock for root in extension_roots() for lock in sorted(root.glob("*/lock"))]
    return [lock for lock in found if _age(lock) > YOUNG and not _held(lock)]


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _held(lock: Path) -> bool:
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(handle) == str(lock.resolve()):
                return True
        except OSError:
            continue
    return False


def ops_needed(config: dict[str, Any]) -> list[str]:
    """DeepSpeed's op builders that a resolved configuration leads to."""
    zero, optimizer = config.get("zero_optimization", {}), config.get("optimizer", {})
    devices = {zero.get(part, {}).get("device") for part in ("offload_optimizer", "offload_param")}
    ops = ["AsyncIOBuilder"] if "nvme" in devices else []
    if optimizer.get("type", "").lower() in ("adam", "adamw") and not optimizer["params"].get("torch_adam"):
        offloaded = zero.get("offload_optimizer", {}).get("device", "none") != "none"
        ops.append("CPUAdamBuilder" if offloaded or not torch.cuda.is_available() else "FusedAdamBuilder")
    return ops


def build(implementation: str, config: dict[str, Any]) -> list[str]:
    """Builds what a job needs; returns what stands in the way, a line each.

    The loss's kernels raise UserError where they were asked for by name and cannot be built.
    """
    chosen(implementation, device())
    stale, faults = stale_locks(), []
    faults += [
        f"{lock}: left by a build that was killed; later builds wait on it for ever; remove it"
        " (unless another node that shares this directory is building)"
        for lock in stale
    ]
    if faults:
        return faults
    from deepspeed.accelerator import get_accelerator

    for name in ops_needed(config):
        try:
            get_accelerator().create_op_builder(name).load(verbose=False)
        except Exception as error:
            faults.append(f"DeepSpeed's {name} cannot be built: {str(error).splitlines()[0]}")
    return faults

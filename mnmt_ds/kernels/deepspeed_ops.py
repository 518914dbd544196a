"""DeepSpeed's own native ops, compiled by torch on first use; and locks of such builds that were killed.

torch locks a build by a file that is there: a killed one leaves it, and every later build waits on it without end or
word. So our processes build one at a time, under a lock that dies with its holder (build.py), and look at torch's.
"""

import os
import time
from pathlib import Path
from typing import Any

from mnmt_ds.kernels.build import BuildError, extensions_directory, locked, private

YOUNG = 10.0
"""Seconds: a younger lock may be that of a build that is about to be visible."""


def load(name: str) -> Any:
    """The module of an op by its builder's name, as AsyncIOBuilder, compiled where it must be (up to two minutes).

    BuildError, in one line, where it cannot be had. Not for use within a training step.
    """
    from deepspeed.accelerator import get_accelerator

    with locked(private(extensions_directory()) / f"{name}.lock"):
        while loose := _loose_locks():
            if stale_locks():
                raise BuildError(f"{loose[0]} was left by a build that was killed; remove it")
            time.sleep(0.5)
        builder = get_accelerator().create_op_builder(name)
        if builder is None or not builder.is_compatible(verbose=False):
            raise BuildError(f"{name} says that this machine lacks what it needs")
        try:
            return builder.load(verbose=False)
        except Exception as error:  # torch raises whatever the compiler, ninja or the loader gave it
            raise BuildError(f"{name} cannot be built: {(str(error).splitlines() or ['no message'])[0]}") from None


def extension_roots() -> list[Path]:
    """Directories below which torch builds extensions, each in one of its own."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        return [Path(given)]
    from torch.utils.cpp_extension import get_default_build_root

    return sorted(Path(get_default_build_root()).glob("py*"))


def stale_locks() -> list[Path]:
    """Locks of torch's builds that no process of this node holds open, as a builder does until it is done."""
    return [lock for lock in _loose_locks() if _age(lock) > YOUNG]


def _loose_locks() -> list[Path]:
    found = [lock for root in extension_roots() for lock in sorted(root.glob("*/lock"))]
    return [lock for lock in found if not _held(lock)]


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

"""DeepSpeed's own native ops, compiled by torch on first use; and locks of such builds that were killed.

torch locks a build by a file that is there: a killed one leaves it, and every later build waits on it without end or
word. So our processes build one at a time, under a lock that dies with its holder (build.py), and look at torch's.
"""

import os
import time
from pathlib import Path
from typing import Any

from mnmt_ds.files import lock
from mnmt_ds.kernels.build import BuildError, extensions_directory, private_directory

MIN_AGE = 10.0
"""Seconds: a younger lock may be that of a build that is about to be visible."""


def load(name: str) -> Any:
    """Loads one of DeepSpeed's native ops, compiled where it must be (up to two minutes). Not for use within a step.

    Args:
        name: its builder's name, such as AsyncIOBuilder.

    Returns:
        The op's module.

    Raises:
        BuildError: when it cannot be had, in one line.
    """
    from deepspeed.accelerator import get_accelerator

    with lock(private_directory(extensions_directory()) / f"{name}.lock", wait=True):
        while unheld := _unheld_locks():
            if stale_locks():
                raise BuildError(f"{unheld[0]} was left by a build that was killed; remove it")
            time.sleep(0.5)
        builder = get_accelerator().create_op_builder(name)
        if builder is None or not builder.is_compatible(verbose=False):
            raise BuildError(f"{name} says that this machine lacks what it needs")
        try:
            return builder.load(verbose=False)
        except Exception as error:  # torch raises whatever the compiler, ninja or the loader gave it
            raise BuildError(f"{name} cannot be built: {(str(error).splitlines() or ['no message'])[0]}") from None


def extension_roots() -> list[Path]:
    """Lists the directories below which torch builds extensions, each in one of its own.

    Returns:
        TORCH_EXTENSIONS_DIR, or torch's default ones.
    """
    directory = os.environ.get("TORCH_EXTENSIONS_DIR")
    if directory:
        return [Path(directory)]
    from torch.utils.cpp_extension import get_default_build_root

    return sorted(Path(get_default_build_root()).glob("py*"))


def stale_locks() -> list[Path]:
    """Lists locks of torch's builds that no process of this node holds open, as a builder does until it is done.

    Returns:
        Lock files older than ``MIN_AGE``.
    """
    return [path for path in _unheld_locks() if _age(path) > MIN_AGE]


def _unheld_locks() -> list[Path]:
    """Lock files of any age that no process holds open."""
    paths = [path for root in extension_roots() for path in sorted(root.glob("*/lock"))]
    return [path for path in paths if not _is_open(path)]


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _is_open(path: Path) -> bool:
    """Whether a process of this node has the file open, as far as we may see."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == str(path.resolve()):
                return True
        except OSError:
            continue
    return False

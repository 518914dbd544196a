"""A disk of a few hundred kilobytes (tmpfs), for tests of what happens when it is full; wants root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: str, options: str = "") -> Iterator[Path]:
    """Mounts a disk for as long as the block runs; skips the test where that is not allowed."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("mounting a small disk wants root")
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def fill(disk: Path, left: int = 0) -> None:
    """Fills a disk up to some bytes."""
    (disk / "filling").unlink(missing_ok=True)
    free = shutil.disk_usage(disk).free
    with (disk / "filling").open("wb") as file:
        file.write(b"\0" * max(0, free - left))


def read_only(disk: Path) -> None:
    """Makes a disk one that can only be read."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

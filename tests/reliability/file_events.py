"""Every open, write, flush, renaming and removal in a directory may go wrong by number (file_events.c, preloaded)."""

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
MODES = {"killed": (b"d", 0), "full": (b"f", errno.ENOSPC), "broken": (b"e", errno.EIO)}
"""What happens at an event: nothing reaches the disk from there on; the disk is full from there on; this one fails."""


def build(directory: Path) -> Path:
    """Compiles the library that is preloaded; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C compiler")
    library = directory / "file_events.so"
    subprocess.run(
        [compiler, "-x", "c", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True
    )
    return library


@contextmanager
def preloaded(library: Path) -> Iterator[None]:
    """Processes started in the block load the library."""
    before = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = str(library)
    try:
        yield
    finally:
        os.environ.pop("LD_PRELOAD")
        if before is not None:
            os.environ["LD_PRELOAD"] = before


@contextmanager
def going_wrong(directory: Path, number: int, mode: str) -> Iterator[None]:
    """The event of a number (from 1; 0: none) goes wrong in this process, while the block runs."""
    how, error = MODES[mode]
    _library().file_events_arm(str(directory).encode(), ctypes.c_long(number), ctypes.c_char(how), error)
    try:
        yield
    finally:
        _library().file_events_disarm()


def struck() -> bool:
    """Whether the event that goes wrong has come."""
    return bool(_library().file_events_struck())


def is_dead() -> bool:
    """Whether nothing of this process reaches the disk any more."""
    return bool(_library().file_events_is_dead())


def die() -> None:
    """From here on nothing of this process reaches the disk either."""
    _library().file_events_die()


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)

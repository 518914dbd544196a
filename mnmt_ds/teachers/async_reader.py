"""Files read past the page cache by DeepSpeed's asynchronous I/O: one window arrives while the other is copied.

DeepSpeed's C++ asserts, and so would end the process, where a file is too short, where memory cannot be locked and
where the kernel gives no context; all of that is looked at here first. It does not tell of a device's errors: callers
check what they get.
"""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.build import BuildError

ALIGNMENT = 4096
"""Bytes of which offsets, lengths and addresses must be multiples, on every disk."""
WINDOW = 2 << 20
"""Bytes of each of the two windows; both are locked in memory, of which a process may by default have 8 MiB."""
REQUEST, QUEUE = 256 << 10, 32
"""Bytes of a request to the disk, and requests under way at most."""


class AsynchronousReader:
    """Reads through ``deepspeed.ops.aio``; BuildError where this machine lets no process do so."""

    def __init__(self, module: Any) -> None:
        """``module``: what AsyncIOBuilder loads."""
        _try(module.__file__)
        self._handle = module.aio_handle(REQUEST, QUEUE, False, True, 1)
        if torch.cuda.is_available():
            windows = torch.empty(2 * WINDOW, dtype=torch.uint8, pin_memory=True)
        else:
            windows = self._handle.new_cpu_locked_tensor(2 * WINDOW, torch.empty(0, dtype=torch.uint8))
        self._windows = windows.split(WINDOW)

    def read(self, path: Path, offset: int, size: int) -> Tensor:
        """Bytes of a file; ``offset`` and ``size`` are multiples of ALIGNMENT. OSError where it is not so long, or on
        a file system that cannot be read past the page cache."""
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
        if path.stat().st_size < offset + size:
            raise OSError(f"{path.stat().st_size} bytes, {offset + size} expected")
        found = torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        self._start(path, offset, min(WINDOW, size), 0)
        for turn, start in enumerate(range(0, size, WINDOW)):
            self._handle.wait()
            stop = min(start + WINDOW, size)
            if stop < size:
                self._start(path, offset + stop, min(WINDOW, size - stop), turn + 1)
            found[start:stop] = self._windows[turn % 2][: stop - start]
        return found

    def _start(self, path: Path, offset: int, size: int, turn: int) -> None:
        if self._handle.async_pread(self._windows[turn % 2][:size], str(path), offset) != 0:
            raise OSError(f"{path} cannot be read at {offset}")


def _try(library: str) -> None:
    """BuildError where the kernel gives no context for asynchronous I/O, or lets us lock no memory."""
    known = ctypes.CDLL(library, use_errno=True)
    contexts = [ctypes.c_void_p(), ctypes.c_void_p()]  # a handle makes two
    codes = [known.io_setup(QUEUE, ctypes.byref(context)) for context in contexts]
    for context, code in zip(contexts, codes, strict=True):
        if code == 0:
            known.io_destroy(context)
    if any(codes):
        raise BuildError(f"the kernel gives no context for it: {os.strerror(-min(codes))}; see fs.aio-max-nr")
    if torch.cuda.is_available():
        return  # the windows are CUDA's pinned memory
    with mmap.mmap(-1, 2 * WINDOW) as pages:
        first = ctypes.c_char.from_buffer(pages)
        place, failed = ctypes.c_void_p(ctypes.addressof(first)), 0
        if known.mlock(place, ctypes.c_size_t(2 * WINDOW)):
            failed = ctypes.get_errno()
        known.munlock(place, ctypes.c_size_t(2 * WINDOW))
        del first
    if failed:
        raise BuildError(f"{2 * WINDOW >> 20} MiB cannot be locked in memory: {os.strerror(failed)}; see ulimit -l")

"""Reads files past the page cache by DeepSpeed's asynchronous I/O: one window arrives while the other is copied.

DeepSpeed's C++ asserts, which would end the process, where a file is too short, where memory cannot be locked and where
the kernel gives no context; all of that is checked here first. It does not report a device's errors: callers check
what they get.
"""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.distributed import uses_gpu
from mnmt_ds.kernels.build import BuildError

ALIGNMENT = 4096
"""Bytes of which offsets, lengths and addresses must be multiples, on every disk."""
WINDOW = 2 << 20
"""Bytes of each of the two windows; both are locked in memory, of which a process may by default have 8 MiB."""
REQUEST, QUEUE = 256 << 10, 32
"""Bytes of a request to the disk, and most requests under way."""


class AsynchronousReader:
    """Reads files through DeepSpeed's asynchronous I/O (``deepspeed.ops.aio``)."""

    def __init__(self, module: Any) -> None:
        """Checks that this machine allows it, and locks the windows in memory.

        Args:
            module: what DeepSpeed's AsyncIOBuilder loads.

        Raises:
            BuildError: when this machine lets no process do so.
        """
        _check_machine(module.__file__)
        self._handle = module.aio_handle(REQUEST, QUEUE, False, True, 1)
        if uses_gpu():
            windows = torch.empty(2 * WINDOW, dtype=torch.uint8, pin_memory=True)
        else:
            windows = self._handle.new_cpu_locked_tensor(2 * WINDOW, torch.empty(0, dtype=torch.uint8))
        self._windows = windows.split(WINDOW)

    def read(self, path: Path, offset: int, size: int) -> Tensor:
        """Reads bytes of a file.

        Args:
            path: the file.
            offset: first byte, a multiple of ALIGNMENT.
            size: number of bytes, a multiple of ALIGNMENT.

        Returns:
            uint8 (size,) on the CPU, pinned where there is a GPU.

        Raises:
            OSError: when the file is shorter, or its file system cannot be read past the page cache.
        """
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
        if path.stat().st_size < offset + size:
            raise OSError(f"{path.stat().st_size} bytes, {offset + size} expected")
        content = torch.empty(size, dtype=torch.uint8, pin_memory=uses_gpu())
        self._start(path, offset, min(WINDOW, size), 0)
        for number, start in enumerate(range(0, size, WINDOW)):
            self._handle.wait()
            stop = min(start + WINDOW, size)
            if stop < size:
                self._start(path, offset + stop, min(WINDOW, size - stop), number + 1)
            content[start:stop] = self._windows[number % 2][: stop - start]
        return content

    def _start(self, path: Path, offset: int, size: int, number: int) -> None:
        """Starts to fill the window whose turn it is."""
        if self._handle.async_pread(self._windows[number % 2][:size], str(path), offset) != 0:
            raise OSError(f"{path} cannot be read at {offset}")


def _check_machine(library_path: str) -> None:
    """Raises BuildError where the kernel gives no context for asynchronous I/O, or lets us lock no memory."""
    library = ctypes.CDLL(library_path, use_errno=True)
    contexts = [ctypes.c_void_p(), ctypes.c_void_p()]  # a handle makes two
    codes = [library.io_setup(QUEUE, ctypes.byref(context)) for context in contexts]
    for context, code in zip(contexts, codes, strict=True):
        if code == 0:
            library.io_destroy(context)
    if any(codes):
        raise BuildError(f"the kernel gives no context for it: {os.strerror(-min(codes))}; see fs.aio-max-nr")
    if uses_gpu():
        return  # the windows are CUDA's pinned memory
    with mmap.mmap(-1, 2 * WINDOW) as pages:
        first_byte = ctypes.c_char.from_buffer(pages)
        address, errno = ctypes.c_void_p(ctypes.addressof(first_byte)), 0
        if library.mlock(address, ctypes.c_size_t(2 * WINDOW)):
            errno = ctypes.get_errno()
        library.munlock(address, ctypes.c_size_t(2 * WINDOW))
        del first_byte
    if errno:
        raise BuildError(f"{2 * WINDOW >> 20} MiB cannot be locked in memory: {os.strerror(errno)}; see ulimit -l")

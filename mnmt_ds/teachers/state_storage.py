"""A rank's cached teacher states, block by block: CPU memory first, then files. A block may be lost, never wrong.

Letters: R rows (one a target token), W bytes of a row.
"""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.teachers.shard_storage import Version, checksum

LOG = logging.getLogger(__name__)


class BlockKey(NamedTuple):
    """Key of a block of cached states."""

    version: Version
    """The teacher."""
    pair: int
    """Number of the language pair."""
    block: int
    """Number of the block among the pair's."""


class BlockLocation(NamedTuple):
    """Location of a block in its teacher's file."""

    offset: int
    """In bytes."""
    rows: int
    checksum: int
    """CRC-32 of its bytes."""


class StateStorage:
    """Stores blocks of rows within a budget of memory and one of disk; each teacher has a file of its own."""

    def __init__(
        self,
        memory_budget: int,
        disk_budget: int,
        bytes_per_row: int,
        directory: Path | None,
        warn: Callable[[str], None] = LOG.warning,
    ) -> None:
        """Starts empty.

        Args:
            memory_budget: most bytes in CPU memory.
            disk_budget: most bytes on disk.
            bytes_per_row: W.
            directory: where the files are; None where the disk budget is 0.
            warn: called with a line for the user when the disk fails, once.
        """
        self.memory_budget, self.disk_budget = memory_budget, disk_budget
        self.bytes_per_row, self.directory = bytes_per_row, directory
        self.memory_bytes = 0
        """Bytes of states in CPU memory."""
        self._warn_user = warn
        self._in_memory: dict[BlockKey, Tensor] = {}
        self._on_disk: dict[BlockKey, BlockLocation] = {}
        self._files: dict[Version, int] = {}
        self._file_sizes: dict[Version, int] = {}
        self._warned = False

    def put(self, key: BlockKey, rows_RW: Tensor) -> None:
        """Stores a block where there is room; where there is none, or the disk fails, it is not kept.

        Args:
            key: name of the block.
            rows_RW: uint8, on the CPU.
        """
        if self.memory_bytes + rows_RW.nbytes <= self.memory_budget:
            self._in_memory[key] = rows_RW
            self.memory_bytes += rows_RW.nbytes
        elif sum(self._file_sizes.values()) + rows_RW.nbytes <= self.disk_budget:
            try:
                self._on_disk[key] = self._append(key.version, rows_RW)
            except OSError as error:
                self._warn(f"{error.strerror}")

    def get(self, key: BlockKey) -> Tensor | None:
        """Reads a block.

        Args:
            key: name of the block.

        Returns:
            uint8 (R, W) on the CPU; None where the block was not kept, or its file is short, altered or unreadable.
        """
        if key in self._in_memory:
            return self._in_memory[key]
        location = self._on_disk.get(key)
        if location is None:
            return None
        size = location.rows * self.bytes_per_row
        try:
            content = os.pread(self._files[key.version], size, location.offset)
        except OSError as error:
            self._lose(key, f"{error.strerror}")
            return None
        if len(content) != size:
            self._lose(key, "a file was cut short")
            return None
        rows_RW = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(location.rows, self.bytes_per_row)
        if checksum(rows_RW) != location.checksum:
            self._lose(key, "a file was altered")
            return None
        return rows_RW

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops the states of all other teachers.

        Args:
            versions: the teachers to keep.
        """
        kept_versions = set(versions)
        self._in_memory = {key: rows for key, rows in self._in_memory.items() if key.version in kept_versions}
        self.memory_bytes = sum(rows.nbytes for rows in self._in_memory.values())
        self._on_disk = {key: location for key, location in self._on_disk.items() if key.version in kept_versions}
        for version in [v for v in self._files if v not in kept_versions]:
            os.close(self._files.pop(version))
            del self._file_sizes[version]

    def _append(self, version: Version, rows_RW: Tensor) -> BlockLocation:
        """Writes a block to the end of its teacher's file."""
        if version not in self._files:
            self._files[version], self._file_sizes[version] = self._open(), 0
        content = rows_RW.contiguous().numpy().data.cast("B")
        location = BlockLocation(self._file_sizes[version], len(rows_RW), checksum(rows_RW))
        written = 0
        while written < len(content):
            written += os.pwrite(self._files[version], content[written:], location.offset + written)
        self._file_sizes[version] += len(content)
        return location

    def _open(self) -> int:
        """Opens a new file without a name: it is gone when the process is, however that ends."""
        assert self.directory is not None
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f".states-{os.getpid()}-{len(self._files)}"
        path.unlink(missing_ok=True)  # a link of another's must not lead to a file of ours
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        path.unlink()
        return descriptor

    def _lose(self, key: BlockKey, fault: str) -> None:
        """Forgets a block of the file."""
        self._on_disk.pop(key, None)
        self._warn(fault)

    def _warn(self, fault: str) -> None:
        """Warns once."""
        if not self._warned:
            self._warn_user(
                f"teacher states: {self.directory}: {fault}; what is lost is computed again, which takes time"
            )
        self._warned = True

"""A rank's remembered states, block by block: CPU memory first, then files. A block may be lost, never wrong."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.teachers.shard_storage import Version, checksum


class BlockKey(NamedTuple):
    """What a block of states is the block of."""

    version: Version
    pair: int
    block: int


class BlockLocation(NamedTuple):
    """Where a block lies in its file."""

    offset: int
    rows: int
    checksum: int


class StateStorage:
    """Bytes (rows, bytes a row) by key, within a budget of memory and one of disk."""

    def __init__(
        self, memory: int, disk: int, bytes_a_row: int, directory: Path | None, say: Callable[[str], None] = print
    ) -> None:
        self.memory, self.disk, self.bytes_a_row, self.directory = memory, disk, bytes_a_row, directory
        self._say = say
        self._held: dict[BlockKey, Tensor] = {}
        self._places: dict[BlockKey, BlockLocation] = {}
        self._files: dict[Version, int] = {}
        self._ends: dict[Version, int] = {}
        self._warned = False
        self.memory_bytes = 0

    def put(self, key: BlockKey, rows: Tensor) -> None:
        """Keeps a block where there is room; where there is none, or the disk fails, it is not kept."""
        if self.memory_bytes + rows.nbytes <= self.memory:
            self._held[key] = rows
            self.memory_bytes += rows.nbytes
        elif sum(self._ends.values()) + rows.nbytes <= self.disk:
            try:
                self._places[key] = self._append(key.version, rows)
            except OSError as error:
                self._warn(f"{error.strerror}")

    def get(self, key: BlockKey) -> Tensor | None:
        """A block; None where it was lost."""
        if key in self._held:
            return self._held[key]
        place = self._places.get(key)
        if place is None:
            return None
        size = place.rows * self.bytes_a_row
        try:
            raw = os.pread(self._files[key.version], size, place.offset)
        except OSError as error:
            return self._lost(key, f"{error.strerror}")
        if len(raw) != size:
            return self._lost(key, "a file was cut short")
        rows = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(place.rows, self.bytes_a_row)
        return rows if checksum(rows) == place.checksum else self._lost(key, "a file was altered")

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops the states of all teachers but these."""
        kept = set(versions)
        self._held = {key: rows for key, rows in self._held.items() if key.version in kept}
        self.memory_bytes = sum(rows.nbytes for rows in self._held.values())
        self._places = {key: place for key, place in self._places.items() if key.version in kept}
        for version in [v for v in self._files if v not in kept]:
            os.close(self._files.pop(version))
            del self._ends[version]

    def _append(self, version: Version, rows: Tensor) -> BlockLocation:
        if version not in self._files:
            self._files[version], self._ends[version] = self._open(), 0
        data = memoryview(rows.contiguous().numpy()).cast("B")
        place = BlockLocation(self._ends[version], len(rows), checksum(rows))
        done = 0
        while done < len(data):
            done += os.pwrite(self._files[version], data[done:], place.offset + done)
        self._ends[version] += len(data)
        return place

    def _open(self) -> int:
        """A file without a name: it goes with the process, however that ends."""
        assert self.directory is not None
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f".states-{os.getpid()}-{len(self._files)}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        path.unlink()
        return handle

    def _lost(self, key: BlockKey, fault: str) -> None:
        self._places.pop(key, None)
        self._warn(fault)

    def _warn(self, fault: str) -> None:
        if not self._warned:
            self._say(f"teacher states: {self.directory}: {fault}; what is lost is made again, which takes time")
        self._warned = True

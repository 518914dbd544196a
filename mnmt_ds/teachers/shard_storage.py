"""Where a rank keeps its shards of the teachers: CPU memory up to a budget, then files, checked when read.

A file is a safetensors file whose data begin and end at multiples of 4,096 bytes, so that it can be mapped and also be
read past the page cache.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mnmt_ds.teachers.async_reader import ALIGNMENT, WINDOW, AsynchronousReader

Version = int | str
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
"""Types as safetensors calls them."""


class ShardFile(NamedTuple):
    """A shard's file."""

    path: Path
    size: int
    """Bytes of the shard."""
    checksums: Sequence[int]
    """CRC-32 of each WINDOW bytes of it."""


class CorruptShard(Exception):
    """A file does not hold what was written."""


class ShardStorage:
    """This rank's shard of every teacher in use, each held once however many pairs it teaches.

    ``reload(version)`` gives a shard again from the checkpoint's own file, should a file here be lost or altered.
    ``reader`` reads the files; None: they are mapped.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        budget: int,
        directory: Path,
        reload: Callable[[Version], Tensor],
        say: Callable[[str], None] = print,
        reader: AsynchronousReader | None = None,
    ) -> None:
        self.dtype, self.budget, self.directory = dtype, budget, directory
        self._reload, self._say, self._reader = reload, say, reader
        self._held: dict[Version, Tensor] = {}
        self._files: dict[Version, ShardFile] = {}
        self._told = False

    def put(self, version: Version, shard: Tensor) -> None:
        """Keeps a shard: in memory while the budget lasts, else in a file; in memory after all where the disk fails."""
        if version in self:
            return
        if self.memory_bytes() + shard.nbytes > self.budget:
            try:
                self._files[version] = self._write(version, shard)
                return
            except OSError as error:
                self._say(
                    f"teachers: {self.directory}: {error.strerror}; teacher {version} stays in memory, over budget"
                )
        self._held[version] = shard

    def get(self, version: Version, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements ``start`` to ``stop`` of a shard, on the CPU."""
        if version in self._held:
            return self._held[version][start:stop]
        file = self._files[version]
        try:
            return self._read(file, start, file.size // self.dtype.itemsize if stop is None else stop)
        except CorruptShard:
            fault = "was altered"
        except (OSError, KeyError, SafetensorError) as error:
            fault = f"cannot be read ({error})"
        self._say(f"teachers: {file.path} {fault}; taken from the checkpoint again")
        del self._files[version]
        file.path.unlink(missing_ok=True)
        shard = self._reload(version)
        self.put(version, shard)
        return shard[start:stop]

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all but these."""
        kept = set(versions)
        self._held = {version: shard for version, shard in self._held.items() if version in kept}
        for version in [v for v in self._files if v not in kept]:
            self._files.pop(version).path.unlink(missing_ok=True)

    def __contains__(self, version: Version) -> bool:
        return version in self._held or version in self._files

    def memory_bytes(self) -> int:
        """Bytes in CPU memory."""
        return sum(shard.nbytes for shard in self._held.values())

    def _read(self, file: ShardFile, start: int, stop: int) -> Tensor:
        """Elements of a file; asynchronous I/O is given up where it fails and the mapped file does not."""
        fault: Exception | None = None
        if self._reader is not None:
            try:
                return self._checked(file, start, stop, self._reader.read)
            except (OSError, CorruptShard) as error:
                fault = error
        found = self._checked(file, start, stop, mapped)
        if fault is not None:
            self._say(f"teachers: {self.directory}: asynchronous I/O failed ({fault}); files are mapped from now on")
            self._reader = None
        return found

    def _checked(self, file: ShardFile, start: int, stop: int, read: Callable[[Path, int, int], Tensor]) -> Tensor:
        """Elements of a file, with what else stands in the windows that hold them, once these are what was written."""
        first, item = start * self.dtype.itemsize // WINDOW, self.dtype.itemsize
        begin, end = first * WINDOW, min(-(-stop * item // WINDOW) * WINDOW, file.size)
        raw = read(file.path, ALIGNMENT + begin, -(-(end - begin) // ALIGNMENT) * ALIGNMENT)[: end - begin]
        windows = zip(raw.split(WINDOW), file.checksums[first:], strict=False)
        if len(raw) < end - begin or any(checksum(window) != known for window, known in windows):
            raise CorruptShard("its bytes are not those that were written")
        return raw.view(self.dtype)[start - begin // item : stop - begin // item]

    def _write(self, version: Version, shard: Tensor) -> ShardFile:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"teacher-{str(version).replace('/', '_')}.safetensors"
        temporary = path.with_suffix(".tmp")
        raw, sums = shard.contiguous().view(torch.uint8), []
        try:
            with temporary.open("wb") as file:
                file.write(header(shard))
                for window in raw.split(WINDOW):
                    file.write(memoryview(window.numpy()))
                    sums.append(checksum(window))
                file.write(bytes(-shard.nbytes % ALIGNMENT))
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if not self._told:
            self._told = True
            how = "mapped" if self._reader is None else "read by DeepSpeed's asynchronous I/O"
            self._say(f"teachers: beyond {self.budget / 2**30:.1f} GiB a rank, kept in {self.directory}, {how}")
        return ShardFile(path, shard.nbytes, sums)


def header(shard: Tensor) -> bytes:
    """A safetensors file's first ALIGNMENT bytes: the format allows spaces at the header's end. A second tensor, of
    bytes, fills the data up to a multiple of ALIGNMENT."""
    size, filled = shard.nbytes, -(-shard.nbytes // ALIGNMENT) * ALIGNMENT
    entries = {
        "shard": {"dtype": NAMES[shard.dtype], "shape": list(shard.shape), "data_offsets": [0, size]},
        "padding": {"dtype": "U8", "shape": [filled - size], "data_offsets": [size, filled]},
    }
    text = json.dumps(entries).encode()
    text = text.ljust(ALIGNMENT - 8)
    return len(text).to_bytes(8, "little") + text


def mapped(path: Path, offset: int, size: int) -> Tensor:
    """Bytes of a shard's file by way of a mapping, ``offset`` counted from the file's beginning."""
    return load_file(path)["shard"].view(torch.uint8)[offset - ALIGNMENT :][:size]


def checksum(values: Tensor) -> int:
    """CRC-32 of a CPU tensor's bytes."""
    return zlib.crc32(memoryview(values.contiguous().view(torch.uint8).flatten().numpy()))

"""Where a rank keeps its shards of the teachers: CPU memory up to a budget, then files, checked when they are read.

A file is a safetensors file whose data begin and end at multiples of 4,096 bytes, so that it can be mapped and also be
read past the page cache.
"""

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mnmt_ds.teachers.async_reader import ALIGNMENT, WINDOW, AsynchronousReader

LOG = logging.getLogger(__name__)
Version = int | str
"""Names a teacher: the update whose weights it has, or the model directory that it came from."""
SAFETENSORS_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
"""Types as safetensors calls them."""


class ShardFile(NamedTuple):
    """A file that holds one shard."""

    path: Path
    size: int
    """Bytes of the shard."""
    checksums: Sequence[int]
    """CRC-32 of each WINDOW bytes of it."""


class CorruptShard(Exception):
    """Raised where a file does not hold what was written."""


class ShardStorage:
    """Stores this rank's shard of every teacher in use, each once however many pairs it teaches."""

    def __init__(
        self,
        dtype: torch.dtype,
        memory_budget: int,
        directory: Path,
        reload: Callable[[Version], Tensor],
        warn: Callable[[str], None] = LOG.warning,
        reader: AsynchronousReader | None = None,
    ) -> None:
        """Starts empty.

        Args:
            dtype: type of the shards.
            memory_budget: most bytes in CPU memory.
            directory: where the files of further shards are written.
            reload: gives a shard again from the checkpoint's own file, should a file here be lost or altered.
            warn: called with a line for the user, where files are used or fail.
            reader: reads the files; None: they are mapped.
        """
        self.dtype, self.memory_budget, self.directory = dtype, memory_budget, directory
        self._reload, self._warn, self._reader = reload, warn, reader
        self._in_memory: dict[Version, Tensor] = {}
        self._files: dict[Version, ShardFile] = {}
        self._said_where = False

    def put(self, version: Version, shard: Tensor) -> None:
        """Stores a shard: in memory within the budget, else in a file; in memory after all where the disk fails.

        Args:
            version: the teacher; nothing is done where its shard is here.
            shard: this rank's shard (N,), on the CPU.
        """
        if version in self:
            return
        if self.memory_bytes() + shard.nbytes > self.memory_budget:
            try:
                self._files[version] = self._write(version, shard)
                return
            except OSError as error:
                self._warn(
                    f"teachers: {self.directory}: {error.strerror}; teacher {version} stays in memory, over budget"
                )
        self._in_memory[version] = shard

    def get(self, version: Version, start: int = 0, stop: int | None = None) -> Tensor:
        """Reads a range of a shard; a file that fails is replaced from the checkpoint's own.

        Args:
            version: the teacher.
            start: first element.
            stop: end of the range; None: the shard's end.

        Returns:
            The elements, one-dimensional, on the CPU.
        """
        if version in self._in_memory:
            return self._in_memory[version][start:stop]
        file = self._files[version]
        try:
            return self._read(file, start, file.size // self.dtype.itemsize if stop is None else stop)
        except CorruptShard:
            fault = "was altered"
        except (OSError, KeyError, SafetensorError) as error:
            fault = f"cannot be read ({error})"
        self._warn(f"teachers: {file.path} {fault}; taken from the checkpoint again")
        del self._files[version]
        file.path.unlink(missing_ok=True)
        shard = self._reload(version)
        self.put(version, shard)
        return shard[start:stop]

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops the shards of all other teachers.

        Args:
            versions: the teachers to keep.
        """
        kept_versions = set(versions)
        self._in_memory = {version: shard for version, shard in self._in_memory.items() if version in kept_versions}
        for version in [v for v in self._files if v not in kept_versions]:
            self._files.pop(version).path.unlink(missing_ok=True)

    def __contains__(self, version: Version) -> bool:
        return version in self._in_memory or version in self._files

    def memory_bytes(self) -> int:
        """Sums the shards in CPU memory.

        Returns:
            Bytes.
        """
        return sum(shard.nbytes for shard in self._in_memory.values())

    def _read(self, file: ShardFile, start: int, stop: int) -> Tensor:
        """Reads elements of a file; asynchronous I/O is given up where it fails and the mapped file does not."""
        failure: Exception | None = None
        if self._reader is not None:
            try:
                return self._read_checked(file, start, stop, self._reader.read)
            except (OSError, CorruptShard) as error:
                failure = error
        elements = self._read_checked(file, start, stop, read_mapped)
        if failure is not None:
            self._warn(f"teachers: {self.directory}: asynchronous I/O failed ({failure}); files are mapped from now on")
            self._reader = None
        return elements

    def _read_checked(self, file: ShardFile, start: int, stop: int, read: Callable[[Path, int, int], Tensor]) -> Tensor:
        """Reads all windows that hold some elements, checks them against what was written, and cuts the elements out.

        CorruptShard where a window is not what was written.
        """
        itemsize = self.dtype.itemsize
        first_window = start * itemsize // WINDOW
        begin = first_window * WINDOW
        end = min(-(-stop * itemsize // WINDOW) * WINDOW, file.size)
        aligned_size = -(-(end - begin) // ALIGNMENT) * ALIGNMENT
        content = read(file.path, ALIGNMENT + begin, aligned_size)[: end - begin]
        windows = zip(content.split(WINDOW), file.checksums[first_window:], strict=False)
        if len(content) < end - begin or any(checksum(window) != written for window, written in windows):
            raise CorruptShard("its bytes are not those that were written")
        return content.view(self.dtype)[start - begin // itemsize : stop - begin // itemsize]

    def _write(self, version: Version, shard: Tensor) -> ShardFile:
        """Writes a shard's file. It is for this process alone: it need not survive a crash, so it is not flushed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"teacher-{str(version).replace('/', '_')}.safetensors"
        temporary = path.with_suffix(".tmp")
        content, checksums = shard.contiguous().view(torch.uint8), []
        try:
            temporary.unlink(missing_ok=True)  # a link of another's must not lead to a file of ours
            with temporary.open("xb") as file:
                file.write(safetensors_header(shard))
                for window in content.split(WINDOW):
                    file.write(window.numpy().data)
                    checksums.append(checksum(window))
                file.write(bytes(-shard.nbytes % ALIGNMENT))
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if not self._said_where:
            self._said_where = True
            how = "mapped" if self._reader is None else "read by DeepSpeed's asynchronous I/O"
            self._warn(f"teachers: beyond {self.memory_budget / 2**30:.1f} GiB a rank, kept in {self.directory}, {how}")
        return ShardFile(path, shard.nbytes, checksums)


def safetensors_header(shard: Tensor) -> bytes:
    """Makes the first ALIGNMENT bytes of a shard's file: the format allows spaces at the end of its header.

    A second tensor, of bytes, fills the data up to a multiple of ALIGNMENT.

    Args:
        shard: the tensor (N,) that follows.

    Returns:
        ALIGNMENT bytes.
    """
    size, padded_size = shard.nbytes, -(-shard.nbytes // ALIGNMENT) * ALIGNMENT
    entries = {
        "shard": {
            "dtype": SAFETENSORS_NAMES[shard.dtype],
            "shape": list(shard.shape),
            "data_offsets": [0, size],
        },
        "padding": {"dtype": "U8", "shape": [padded_size - size], "data_offsets": [size, padded_size]},
    }
    text = json.dumps(entries).encode().ljust(ALIGNMENT - 8)
    return len(text).to_bytes(8, "little") + text


def read_mapped(path: Path, offset: int, size: int) -> Tensor:
    """Reads bytes of a shard's file through a memory mapping.

    Args:
        path: the file.
        offset: first byte, counted from the file's beginning.
        size: number of bytes.

    Returns:
        uint8, one-dimensional, at most ``size`` elements: fewer where the shard ends before.
    """
    return load_file(path)["shard"].view(torch.uint8)[offset - ALIGNMENT :][:size]


def checksum(values: Tensor) -> int:
    """Computes the CRC-32 of a tensor's bytes.

    Args:
        values: of any shape, on the CPU.

    Returns:
        The checksum.
    """
    return zlib.crc32(values.contiguous().view(torch.uint8).flatten().numpy().data)

"""How a rank writes its files of a checkpoint: hashed on the way to the disk, flushed while the next one is written.

A rank never reads a file again for its SHA-256, and waits for no other rank's. The SHA-256 takes the place of the
CRC-32 that torch would compute of each tensor: together they would cost a save half as much again.
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from torch.serialization import get_crc32_options, set_crc32_options
from typing_extensions import Buffer

from mnmt_ds.files import sha256 as sha256_of_file
from mnmt_ds.files import sync

IN_A_THREAD = 1 << 16
"""Bytes from which a piece is hashed by another thread while this one writes it."""


class WrittenFile(NamedTuple):
    """Size and digest of a file that a checkpoint wrote, to check that all of it reached the disk."""

    size: int
    """Bytes."""
    sha256: str
    """64 hexadecimal digits."""


class WrittenFiles(NamedTuple):
    """The files of a checkpoint that one rank wrote."""

    files: dict[Path, WrittenFile]
    """Those that were hashed on the way."""
    error: Exception | None
    """The first of a file that could not be written; None where all are written and flushed."""


class CheckpointWriter:
    """DeepSpeed checkpoint engine that keeps the first error of its files and goes on, since other ranks wait."""

    def __init__(self, inner: Any) -> None:
        """Takes the place of another one; ``finish`` ends it.

        Args:
            inner: the checkpoint engine of a DeepSpeedEngine.
        """
        self._inner = inner
        self._files: dict[Path, WrittenFile] = {}
        self._error: Exception | None = None
        self._hashing, self._flushing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._flushed: list[Future[None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def save(self, state_dict: Any, path: str) -> None:
        """Writes a file, as DeepSpeed asks for it.

        Args:
            state_dict: its content.
            path: of the file.
        """
        self.keep(self._save, state_dict, Path(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Makes a directory, as DeepSpeed asks for it.

        Args:
            path: of the directory.
            exist_ok: it may be there.
        """
        self.keep(self._inner.makedirs, path, exist_ok=exist_ok)

    def keep(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Calls a function that writes, unless one failed before.

        Args:
            function: what is called.
            arguments: its arguments.
            named: by name.
        """
        if self._error is None:
            try:
                function(*arguments, **named)
            except (OSError, RuntimeError) as error:
                self._error = error

    def write(self, save: Callable[[Path], None], path: Path) -> None:
        """Writes a file in another way than DeepSpeed's, and hashes it behind that.

        Args:
            save: writes the file at the path that it is given.
            path: of the file.
        """

        def write_and_hash() -> None:
            save(path)
            sync(path)
            self._files[path] = WrittenFile(path.stat().st_size, sha256_of_file(path))

        self.keep(write_and_hash)

    def finish(self) -> WrittenFiles:
        """Waits until the files are on the disk.

        Returns:
            What was written.
        """
        for flushed in self._flushed:
            self.keep(flushed.result)
        for pool in (self._hashing, self._flushing):
            pool.shutdown()
        return WrittenFiles(self._files, self._error)

    def _save(self, state_dict: Any, path: Path) -> None:
        """Through a file of Python's, whose errors say what happened; those of torch's own do not."""
        from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

        if not isinstance(self._inner, TorchCheckpointEngine):
            self._inner.save(state_dict, str(path))
            return
        try:
            self._files[path] = write_hashed(lambda file: self._inner.save(state_dict, file), path, self._hashing)
        except (OSError, RuntimeError) as error:
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            if isinstance(cause, OSError) and cause.errno is not None:
                cause.filename = str(path)
            raise cause from None
        self._flushed.append(self._flushing.submit(sync, path))


def write_hashed(save: Callable[[io.RawIOBase], None], path: Path, hashing: ThreadPoolExecutor) -> WrittenFile:
    """Writes a file with torch and hashes it on the way.

    Args:
        save: calls ``torch.save`` with the file that it is given.
        path: file to write.
        hashing: one thread, which hashes.

    Returns:
        Its size and SHA-256.

    Raises:
        OSError: where it cannot be written.
    """
    with path.open("wb") as file, _without_crc32():
        hashed = _HashedFile(file, hashing)
        save(hashed)
    return WrittenFile(hashed.size, hashed.sha256.hexdigest())


class _HashedFile(io.RawIOBase):
    """A file that is written from its beginning to its end; without a descriptor, so that all goes through here."""

    def __init__(self, file: io.BufferedWriter, hashing: ThreadPoolExecutor) -> None:
        self._file, self._hashing = file, hashing
        self.size, self.sha256 = 0, sha256()

    def writable(self) -> bool:
        return True

    def write(self, piece: Buffer, /) -> int:
        content = memoryview(piece).cast("B")
        if len(content) < IN_A_THREAD:
            self.sha256.update(content)
            self._file.write(content)
        else:
            hashed = self._hashing.submit(self.sha256.update, content)
            try:
                self._file.write(content)
            finally:
                hashed.result()  # the memory is the caller's again when this returns
        self.size += len(content)
        return len(content)


@contextmanager
def _without_crc32() -> Iterator[None]:
    """Lets torch leave out its checksums, which the manifest's take the place of; torch.load does not look at them."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)

"""Lines of plain and compressed files, split on \\n bytes and nothing else."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from mnmt_ds.data.readers.archives import is_archive, open_member, split_member
from mnmt_ds.errors import UserError

CHUNK = 1 << 17
"""Bytes that are read at once."""
KINDS = {
    b"PK\x03\x04": ("a damaged zip archive", (), "copy or make it again"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", (), "unpack it and name the file inside"),
    b"Rar!\x1a\x07": ("a rar archive", (), "unpack it and name the file inside"),
    **{b"BZh%d1AY&SY" % level: ("bzip2", (".bz2",), "let its name end in .bz2") for level in range(1, 10)},
    b"\x1f\x8b": ("gzip", (".gz",), "let its name end in .gz"),
    b"\xfd7zXZ\x00": ("xz", (".xz",), "let its name end in .xz"),
    b"\x28\xb5\x2f\xfd": ("zstd", (".zst",), "let its name end in .zst"),
    b"\xff\xfe": ("UTF-16", (), "convert it to UTF-8"),
    b"\xfe\xff": ("UTF-16", (), "convert it to UTF-8"),
    b"PAR1\x15": ("a Parquet file", (), "name format parquet"),
}
"""First bytes of files that are no plain text: what they are, the endings with which they are read, what to do."""
TAR_AT = 257
"""Where a tar archive says that it is one."""
HEAD = TAR_AT + 5
"""Bytes at a file's start that tell what it is."""
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile)
"""What reading a compressed file raises where its content is cut short or damaged."""


def read_lines(path: str, max_bytes: int) -> Iterator[bytes | None]:
    """Reads a plain or compressed file line by line.

    Args:
        path: file, also inside a zip archive; decompressed where its name ends in .gz, .bz2, .xz or .zst.
        max_bytes: longest line, in bytes; a longer one is not held in memory.

    Yields:
        Each line without its \\n; None for a line that is too long.

    Raises:
        UserError: when the file cannot be read, or its compressed content is cut short or damaged.
    """
    number = 0
    try:
        with open_decompressed(path) as stream:
            readline = stream.readline
            while line := readline(max_bytes + 1):
                number += 1
                if line.endswith(b"\n"):
                    yield line[:-1]
                elif len(line) <= max_bytes:
                    yield line
                else:
                    while (chunk := stream.readline(CHUNK)) and not chunk.endswith(b"\n"):
                        pass
                    yield None
    except DAMAGED as error:
        raise damaged_file(f"{path}:{number + 1}", error) from None
    except OSError as error:
        raise unreadable_file(path, f"{path}:{number + 1}", error) from None


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Opens a file as ``open_decompressed`` does; what goes wrong while it is read names the file.

    Args:
        path: file to open.

    Yields:
        The stream of its (decompressed) bytes.

    Raises:
        UserError: where the file cannot be read, or is cut short or damaged.
    """
    try:
        with open_decompressed(path) as stream:
            yield stream
    except DAMAGED as error:
        raise damaged_file(path, error) from None
    except OSError as error:
        raise unreadable_file(path, path, error) from None


def unreadable_file(path: str, place: str, error: OSError) -> UserError:
    """Makes the error for a file that the system cannot read, or that bz2 says is damaged.

    Args:
        path: the file.
        place: the file, with the line that could not be read where it is known.
        error: what was raised.

    Returns:
        The error.
    """
    if error.errno is None:  # what bz2 raises for its content
        return damaged_file(place, error)
    return UserError(f"{path}: cannot be read ({error.strerror}); mend the path")


def damaged_file(place: str, error: Exception) -> UserError:
    """Makes the error for a compressed file that is not whole.

    Args:
        place: the file, with the line that could not be read where it is known.
        error: one of ``DAMAGED``.

    Returns:
        The error.
    """
    reason = str(error) or type(error).__name__
    return UserError(f"{place}: the compressed file is cut short or damaged ({reason}); copy or make it again")


def open_decompressed(path: str) -> BinaryIO:
    """Opens a file for reading, decompressed where its name ends in .gz, .bz2, .xz or .zst.

    Args:
        path: file to open; a zip archive stands for the only file in it, and may be followed by a file's name in it.

    Returns:
        The stream of its (decompressed) bytes.

    Raises:
        UserError: where the file is an archive that cannot be read in place, or compressed in a way that its name does
            not say.
    """
    archive, member = split_member(path)
    source: Any = path
    if member or is_archive(path):
        source = open_member(archive, member)
        path = f"{archive}/{source.name}"
        start = source.peek(HEAD)
    else:
        start = _first_bytes(path)
    try:
        _check_kind(path, start)
        opener = DECOMPRESSORS.get(Path(path).suffix)
        if opener is not None:
            stream = source = opener(source)
            _check_content(path, stream.peek(HEAD))
        else:
            stream = open(path, "rb", CHUNK) if source is path else io.BufferedReader(source, CHUNK)  # noqa: SIM115
    except BaseException:
        if source is not path:
            source.close()
        raise
    return cast(BinaryIO, stream)


def _first_bytes(path: str) -> bytes:
    """A file's first bytes; none of a pipe, which is read once."""
    if not Path(path).is_file():
        return b""
    with Path(path).open("rb") as file:
        return file.read(HEAD)


def _check_kind(path: str, start: bytes) -> None:
    """UserError where the first bytes are those of an archive, or of a compression that the name does not say."""
    suffix = Path(path).suffix
    for magic, (name, endings, remedy) in KINDS.items():
        if start.startswith(magic) and suffix not in endings and (name != "UTF-16" or b"\0" in start):
            raise UserError(f"{path}: this is {name}; {remedy}")
    _check_content(path, start)


def _check_content(path: str, start: bytes) -> None:
    """UserError where a file, or what is compressed in it, is a tar archive, or aligns texts that are elsewhere."""
    if start[TAR_AT : TAR_AT + 5] == b"ustar":
        raise UserError(f"{path}: this is a tar archive; unpack it and name the file inside")
    if start.lstrip().startswith(b"<?xml") and b"cesAlign" in start:
        raise UserError(
            f"{path}: this is an XCES alignment, which holds no text; take the same corpus in Moses or TMX format"
        )


class _Zstandard(io.RawIOBase):
    """Frames of a .zst file; unlike the library's own stream it says when the last one is cut short."""

    def __init__(self, source: Any) -> None:
        import zstandard

        self._file = open(source, "rb") if isinstance(source, str) else source  # noqa: SIM115 (closed by close)
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._decompressor = self._new_frame()
        self._at_frame_start = True
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if self._decompressor.eof:
                data = self._decompressor.unused_data or self._file.read(CHUNK)
                self._decompressor, self._at_frame_start = self._new_frame(), True
            else:
                data = self._file.read(CHUNK)
            if not data:
                if not self._at_frame_start:
                    raise EOFError("the last zstd frame has no end")
                return 0
            try:
                self._ready = self._decompressor.decompress(data)
            except self._error as error:
                raise EOFError(str(error)) from None
            self._at_frame_start = False
        count = min(len(self._ready), len(buffer))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


DECOMPRESSORS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda source: io.BufferedReader(_Zstandard(source), CHUNK),
}
"""What opens a path or a stream of compressed bytes, by the ending of the name."""

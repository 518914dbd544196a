"""Whether files still hold what was written: SHA-256 of the content, computed again only when a file was touched.

Beside the files, ``.hashes.jsonl`` keeps the digest of every file that was read, by the file's inode, size and times: a
line a digest, and a process reads a line once, for a corpus of thousands of language pairs has hundreds of thousands.
One process of a node computes, under a lock; the others wait for it and read what it wrote. A digest from there only
ever says that a file is well: before one is called altered, it is read again. JSON files carry a checksum in them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from mnmt_ds.files import sha256, write_all, write_json
from mnmt_ds.json_files import Object, check_shape, parse_json, read_json

CACHE = ".hashes.jsonl"
"""File of a directory that keeps the digests of the files in it."""
CHECKSUM = "checksum"
"""Key of a JSON object under which the SHA-256 of all others stands."""
SETTLED_NS = 1_000_000_000
"""Nanoseconds since a file's last change before which its times do not yet tell it from the next change."""
STALE_LINES = 1000
"""Lines of former files that a file of digests may have beside those that it needs, and as many as those."""
Digests = dict[str, list[int | str]]
"""By inode: size (bytes), mtime, ctime (nanoseconds), SHA-256."""


def first_altered(expected: Mapping[Path, str], directory: Path) -> Path | None:
    """Finds a file whose content is not the expected one.

    Args:
        expected: SHA-256 of each file's content, in hexadecimal digits.
        directory: where digests are kept; where it cannot be written, they are kept in the user's cache directory.

    Returns:
        The first such file; None where all are well.

    Raises:
        OSError: when a file cannot be read.
    """
    cache_paths = [directory / CACHE, _users_cache(directory)]
    recorded = [_read(cache_path) for cache_path in cache_paths]
    unknown = {path: digest for path, digest in expected.items() if _known_digest(recorded, path) != digest}
    if not unknown:
        return None
    cache_path = cache_paths[0] if os.access(directory, os.W_OK) else cache_paths[1]
    with _locked(cache_path) as cache:
        if cache is not None:
            recorded = [_read(cache_path) for cache_path in cache_paths]
        altered, new = None, Digests()
        for path, digest in unknown.items():
            if _known_digest(recorded, path) == digest:  # another process was first
                continue
            inode, *stamp = _stamp(path)
            if sha256(path) != digest:
                altered = path
                break
            if _stamp(path) == (inode, *stamp) and time.time_ns() - stamp[-1] > SETTLED_NS:
                new[str(inode)] = [*stamp, digest]
        if cache is not None:
            _append(cache, cache_path, new)
    return altered


def write_checked_json(path: Path, values: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes a JSON object with a checksum of its values, whole or not at all.

    Args:
        path: file to write.
        values: what ``json.dumps`` can write.
        indent: spaces a level; None: one line.
    """
    write_json(path, with_checksum(values), indent)


def read_checked_json(path: Path, shape: Any = Object) -> dict[str, Any]:
    """Reads what ``write_checked_json`` wrote; an object without a checksum is taken as it is.

    Args:
        path: the file.
        shape: as of ``parse_json``.

    Returns:
        The values, without the checksum.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is no JSON object of that shape, or its values are not those of the checksum; it says which.
    """
    values: dict[str, Any] = read_json(path)
    checksum = values.pop(CHECKSUM, None)
    if checksum is not None and checksum != with_checksum(values)[CHECKSUM]:
        raise ValueError("altered since it was written")
    check_shape(values, shape)
    return values


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the SHA-256 of an object's values, whatever their order and the file's layout.

    Args:
        values: what ``json.dumps`` can write.

    Returns:
        The values with their checksum.
    """
    plain = {key: value for key, value in json.loads(json.dumps(values)).items() if key != CHECKSUM}
    return {**plain, CHECKSUM: hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def _known_digest(recorded: Sequence[Digests], path: Path) -> str | None:
    """The digest that was computed of a file, if it was not touched since."""
    inode, *stamp = _stamp(path)
    for digests in recorded:
        *known_stamp, digest = digests.get(str(inode), [""])
        if known_stamp == stamp:
            return str(digest)
    return None


def _stamp(path: Path) -> tuple[int, ...]:
    """Inode, size, mtime and ctime: the last one changes with every write, and nobody can set it back."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _users_cache(directory: Path) -> Path:
    """Where digests are kept of a directory that cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "mnmt_ds" / f"{hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:24]}.json"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes] | None]:
    """The file of digests, for this process alone; None where there cannot be one (then every process computes)."""
    with contextlib.ExitStack() as stack:
        file: IO[bytes] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab", buffering=0))  # closing it writes nothing more
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            file = None
        yield file


class _ReadDigests(NamedTuple):
    """What this process has read of a file of digests."""

    inode: int
    offset: int
    lines: int
    digests: Digests


_read_before: dict[Path, _ReadDigests] = {}


def _read(path: Path) -> Digests:
    """The digests of a file: only what is new is read; lines that a crash or a fault of the disk left are left out."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            before = _read_before.get(path)
            if before is None or before.inode != status.st_ino or before.offset > status.st_size:
                before = _ReadDigests(status.st_ino, 0, 0, {})
            file.seek(before.offset)
            text = file.read()
    except OSError:
        return {}
    whole = text[: text.rfind(b"\n") + 1].splitlines()
    for line in whole:
        try:
            inode, *entry = parse_json(line, list[int | str])
            before.digests[str(inode)] = entry
        except ValueError:
            continue
    offset = before.offset + text.rfind(b"\n") + 1
    _read_before[path] = before._replace(offset=offset, lines=before.lines + len(whole))
    return before.digests


def _append(file: IO[bytes], path: Path, new: Digests) -> None:
    """Adds digests under the lock; a file most of whose lines are of former files is written anew."""
    with contextlib.suppress(OSError):  # a full disk costs time at the next start, nothing else
        before = _read_before.get(path)
        if before is not None and before.lines > 2 * len(before.digests) + STALE_LINES:
            new = {**before.digests, **new}
            file.truncate(0)
        lines = [json.dumps([inode, *entry]) for inode, entry in new.items()]
        # each behind a line's end of its own: what a crash or a full disk cut off is no part of it
        write_all(file.fileno(), b"".join(b"\n%s\n" % line.encode() for line in lines))

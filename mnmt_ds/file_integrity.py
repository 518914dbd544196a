"""Whether files still hold what was written: SHA-256 of the content, computed again only when a file was touched.

Beside the files, ``.hashes.json`` keeps the digest of every file that was read, by the file's inode, size and times.
One process of a node computes, under a lock; the others wait for it and read what it wrote. A digest from there only
ever says that a file is well: before one is called altered, it is read again. JSON files carry a checksum in them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mnmt_ds.files import sha256, write_json
from mnmt_ds.json_files import Object, check_shape, parse_json, read_json

CACHE = ".hashes.json"
"""File of a directory that keeps the digests of the files in it."""
CHECKSUM = "checksum"
"""Key of a JSON object under which the SHA-256 of all others stands."""
SETTLED_NS = 1_000_000_000
"""Nanoseconds since a file's last change before which its times do not yet tell it from the next change."""
Digests = dict[str, list[int | str]]
"""By inode: size (bytes), mtime, ctime (nanoseconds), SHA-256."""


def first_altered(expected: Mapping[Path, str], directory: Path) -> Path | None:
    """Looks for a file whose content is not the expected one.

    Args:
        expected: SHA-256 of each file's content, in hexadecimal digits.
        directory: where digests are kept; where it cannot be written, they are kept in the user's cache directory.

    Returns:
        The first such file; None where all are well.

    Raises:
        OSError: when a file cannot be read.
    """
    places = [directory / CACHE, _users_cache(directory)]
    known = {inode: entry for place in reversed(places) for inode, entry in _read(place).items()}
    unknown = {path: digest for path, digest in expected.items() if _known_digest(known, path) != digest}
    if not unknown:
        return None
    with _locked(places[0] if os.access(directory, os.W_OK) else places[1]) as cache:
        known |= _parse(cache.read()) if cache is not None else {}
        altered = None
        for path, digest in unknown.items():
            if _known_digest(known, path) == digest:  # another process was first
                continue
            inode, *stamp = _stamp(path)
            if sha256(path) != digest:
                altered = path
                break
            if _stamp(path) == (inode, *stamp) and time.time_ns() - stamp[-1] > SETTLED_NS:
                known[str(inode)] = [*stamp, digest]
        if cache is not None:
            _write(cache, known)
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


def _known_digest(known: Digests, path: Path) -> str | None:
    """The digest that was computed of a file, if it was not touched since."""
    inode, *stamp = _stamp(path)
    *known_stamp, digest = known.get(str(inode), [""])
    return str(digest) if known_stamp == stamp else None


def _stamp(path: Path) -> tuple[int, ...]:
    """Inode, size, mtime and ctime: the last one changes with every write, and nobody can set it back."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _users_cache(directory: Path) -> Path:
    """Where digests are kept of a directory that cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "mnmt_ds" / f"{hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:24]}.json"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str] | None]:
    """The file of digests, for this process alone; None where there cannot be one (then every process computes)."""
    with contextlib.ExitStack() as stack:
        file: IO[str] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+", encoding="utf-8", errors="replace"))
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
        except OSError:
            file = None
        yield file


def _read(path: Path) -> Digests:
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _parse(text: str) -> Digests:
    """The digests; none where a crash or a fault of the disk left something else."""
    try:
        known: Digests = parse_json(text)
    except ValueError:
        return {}
    well_formed = all(isinstance(entry, list) and entry for entry in known.values())
    return known if well_formed else {}


def _write(file: IO[str], known: Digests) -> None:
    """Written in place, under the lock: what a crash leaves of it is not read."""
    with contextlib.suppress(OSError):  # a full disk costs time at the next start, nothing else
        file.seek(0)
        file.truncate()
        json.dump(known, file)
        file.flush()

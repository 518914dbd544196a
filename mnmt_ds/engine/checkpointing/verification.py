"""Whether a checkpoint may be loaded: nobody else could have written it, and it is byte for byte what was saved.

Owner and mode are looked at before anything is read. Then every file must be named by ``manifest.json`` with its
SHA-256: a file that it does not name is refused, too, since DeepSpeed finds its files by their names.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from mnmt_ds.files import sha256
from mnmt_ds.json_files import InsidePath

MANIFEST = "manifest.json"
"""File of a checkpoint that names all others with their SHA-256."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""Mode bits with which others than the owner may write."""


def fault_of(path: Path) -> str | None:
    """Verifies a checkpoint and describes what is wrong with it.

    Args:
        path: its directory.

    Returns:
        Why it must not be loaded: the first file that others could write, that is missing, altered or unknown; None
        where all is well.
    """
    try:
        for checked_path in (path.parent.parent, path.parent, path, *_contents(path)):
            if fault := _permission_fault(checked_path, _replacing_bits(checked_path, path)):
                return fault
        return _content_fault(path)
    except OSError as error:
        return f"{error.filename or path} cannot be read ({error.strerror})"


def write_manifest(directory: Path, digests: Mapping[str, str]) -> None:
    """Writes the manifest of a checkpoint whose files are all there, and lets none but the owner write any of it.

    Args:
        directory: of the checkpoint; its parent is the directory of all checkpoints of the run.
        digests: SHA-256 of each file, by its path inside the checkpoint.
    """
    write_checked_json(directory / MANIFEST, dict(sorted(digests.items())))
    for path in (directory.parent.parent, directory.parent, directory, *_contents(directory)):
        mode = path.stat().st_mode
        if excess := mode & _replacing_bits(path, directory):  # a umask such as 002
            with contextlib.suppress(PermissionError):  # of another's directory of checkpoints
                path.chmod(stat.S_IMODE(mode) & ~excess)


def listed_files(path: Path) -> dict[str, str]:
    """Reads a checkpoint's manifest.

    Args:
        path: the checkpoint's directory.

    Returns:
        The SHA-256 of each file, by its path inside the checkpoint.

    Raises:
        OSError: where there is none.
        ValueError: where it is garbled or was altered.
    """
    return read_checked_json(path / MANIFEST, dict[InsidePath, str])


def _contents(directory: Path) -> Iterator[Path]:
    """All files and directories below a directory; an error is raised, not passed over."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _contents(Path(entry.path))


def _replacing_bits(path: Path, checkpoint: Path) -> int:
    """The mode bits of a file or directory with which others could replace something of a checkpoint.

    In a sticky directory none renames another's, except its owner. The group of a run's directory may write there, such
    as its evaluations: what it could put in the place of the checkpoints would have to belong to this user.
    """
    if path in (checkpoint.parent, checkpoint.parent.parent) and path.stat().st_mode & stat.S_ISVTX:
        return 0
    return stat.S_IWOTH if path == checkpoint.parent.parent else OTHERS_WRITE


def _permission_fault(path: Path, bits: int) -> str | None:
    """Why others could have put something else there, or None."""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user"
    if status.st_mode & bits:
        mode = stat.S_IMODE(status.st_mode)
        return f"{path} can be written by others (mode {mode:03o}; chmod -R go-w it where you trust them)"
    return None


def _content_fault(directory: Path) -> str | None:
    """The first file that is not what the manifest says, or None."""
    manifest_path = directory / MANIFEST
    try:
        expected = listed_files(directory)
    except (OSError, ValueError):
        return f"{manifest_path} is missing or garbled"
    present = set()
    for path in _contents(directory):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            return f"{path} is neither a file nor a directory"
        if path.is_file() and path != manifest_path:
            present.add(str(path.relative_to(directory)))
    if missing := sorted(expected.keys() - present):
        return f"{directory / missing[0]} is missing"
    if unknown := sorted(present - expected.keys()):
        return f"{directory / unknown[0]} is not in the checkpoint's {MANIFEST}"
    for name, digest in expected.items():
        if sha256(directory / name) != digest:
            return f"{directory / name} was altered (its SHA-256 is not the manifest's)"
    return None

"""Each step of ``prepare`` writes a directory named by a fingerprint, complete as soon as it exists.

A step writes into a temporary directory; when done, its files are hashed and synced, ``stage.json`` is written, and
one rename gives the directory its name. An interrupted step leaves a temporary directory, which the next run removes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import first_altered, read_checked_json, write_checked_json
from mnmt_ds.files import lock, replacing_directory, sha256
from mnmt_ds.json_files import InsidePath

RECORD = "stage.json"
"""File of an output's directory that holds its record (named so since the first release)."""


class BuildOutput(NamedTuple):
    """Output of a finished step of ``mnmt-ds prepare``: its directory, fingerprint and record."""

    directory: Path
    """Where its files are."""
    fingerprint: str
    """Hash of everything that its output depends on."""
    record: dict[str, Any]
    """What the step reported: counts, and under "files" the SHA-256 and size (bytes) of each file."""

    def sha256(self, name: str) -> str:
        """Looks up the hash of one of its files.

        Args:
            name: path relative to the output's directory.

        Returns:
            SHA-256 of the content, in hexadecimal digits.
        """
        return str(self.record["files"][name]["sha256"])


def fingerprint_of(*inputs: Any) -> str:
    """Hashes everything that an output depends on.

    Args:
        inputs: JSON values.

    Returns:
        24 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


class OutputJson(TypedDict):
    """JSON of an output's record, which is checked when it is read."""

    files: dict[InsidePath, dict[str, Any]]


def load_output(work: Path, name: str, fingerprint: str) -> BuildOutput | None:
    """Loads an output that was built before, if it is there.

    Args:
        work: directory of all outputs of a corpus.
        name: the output's name, such as ``clean.bs-en.train``.
        fingerprint: hash of its inputs.

    Returns:
        The output, or None where it is missing or a file of it is not what was written.
    """
    directory = work / name / fingerprint
    try:
        record = read_checked_json(directory / RECORD, OutputJson)
        expected = {directory / file: str(entry["sha256"]) for file, entry in record["files"].items()}
        is_whole = first_altered(expected, work.parent) is None
    except (OSError, ValueError, KeyError):
        return None
    return BuildOutput(directory, fingerprint, record) if is_whole else None


@contextmanager
def new_output(work: Path, name: str, fingerprint: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Makes a directory and a record to fill; they become the finished output when the block ends without an error.

    Args:
        work: directory of all outputs of a corpus.
        name: the output's name.
        fingerprint: hash of its inputs.

    Yields:
        A temporary directory for the output's files, and an empty record for JSON values about them.
    """
    with replacing_directory(work / name / fingerprint) as directory:
        record: dict[str, Any] = {}
        yield directory, record
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        record["files"] = {
            str(path.relative_to(directory)): {"sha256": sha256(path), "size": path.stat().st_size} for path in files
        }
        write_checked_json(directory / RECORD, record, indent=None)


def finished_output(work: Path, name: str, fingerprint: str) -> BuildOutput:
    """Loads an output that was just built or loaded; its files are not read again.

    Args:
        work: directory of all outputs of a corpus.
        name: the output's name.
        fingerprint: hash of its inputs.

    Returns:
        The output.
    """
    directory = work / name / fingerprint
    return BuildOutput(directory, fingerprint, read_checked_json(directory / RECORD))


def remove_unused_outputs(work: Path, used: list[BuildOutput]) -> None:
    """Removes what interrupted runs left, and outputs that the corpus no longer uses.

    Args:
        work: directory of all outputs of a corpus.
        used: the outputs that stay.
    """
    directories_in_use = {output.directory for output in used}
    for directory in work.glob("*/*"):
        if directory not in directories_in_use:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def lock_corpus(directory: Path) -> Iterator[None]:
    """Locks a corpus's directory against a second prepare; the lock ends with the process.

    Args:
        directory: the corpus's directory; made where it is missing.

    Yields:
        Nothing; the lock is held within the block.

    Raises:
        UserError: when the directory cannot be written, or another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held_lock = lock(directory / ".lock")
    except BlockingIOError:
        raise UserError(
            f"{directory}: another prepare is at work here; wait for it, or give another data.directory"
        ) from None
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror}); give another data.directory") from None
    with held_lock:
        yield

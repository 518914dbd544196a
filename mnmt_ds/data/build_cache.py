"""Work that survives: a stage's output is a directory named by its fingerprint, complete as soon as it exists.

A stage writes into a temporary directory; when done, its files are hashed and synced, ``stage.json`` is written, and
one rename gives the directory its name. An interrupted stage leaves a temporary directory, which the next run removes.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.errors import UserError


class BuildStage(NamedTuple):
    """A finished stage."""

    directory: Path
    fingerprint: str
    record: dict[str, Any]
    """What the stage reported: counts, and under "files" the SHA-256 and size of each file."""

    def sha256(self, name: str) -> str:
        """Hash of one of its files."""
        return str(self.record["files"][name]["sha256"])


def fingerprint_of(*inputs: Any) -> str:
    """Hash of everything a stage's output depends on; the inputs must be JSON."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


def load_stage(work: Path, name: str, print_: str) -> BuildStage | None:
    """The stage's output if it is there, whole by size."""
    directory = work / name / print_
    try:
        record = json.loads((directory / "stage.json").read_text())
        whole = all((directory / file).stat().st_size == facts["size"] for file, facts in record["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return BuildStage(directory, print_, record) if whole else None


@contextmanager
def new_stage(work: Path, name: str, print_: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A temporary directory and a record to fill; becomes the finished stage when the block ends without error."""
    final = work / name / print_
    temporary = final.with_name(f"{print_}.tmp{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    record: dict[str, Any] = {}
    try:
        yield temporary, record
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        record["files"] = {
            str(path.relative_to(temporary)): {"sha256": sha256(path), "size": path.stat().st_size} for path in files
        }
        (temporary / "stage.json").write_text(json.dumps(record, ensure_ascii=False))
        for path in [*files, temporary / "stage.json", temporary]:
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        sync(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_unused_stages(work: Path, used: list[BuildStage]) -> None:
    """Removes what interrupted runs left and the outputs of stages that this corpus no longer uses."""
    keep = {stage.directory for stage in used}
    for directory in work.glob("*/*"):
        if directory not in keep:
            shutil.rmtree(directory, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Puts a stage's file under its final name, atomically; a hard link where the file system has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        sync(temporary)
    if target.exists() and os.path.samefile(temporary, target):
        temporary.unlink()  # rename() of two links to one file would leave both
    else:
        os.replace(temporary, target)


def write_atomically(path: Path, text: str) -> None:
    """The whole text or the old file, never half."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flushes a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_corpus(directory: Path) -> Iterator[None]:
    """Holds the directory against a second prepare; the lock goes with the process, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror}); give another data.directory") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{directory}: another prepare is at work here; wait for it, or give another data.directory"
            ) from None
        yield

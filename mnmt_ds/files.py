"""Files that are there whole or not at all, their hashes, and locks that end with the process that holds them.

A new file or directory is written under a temporary name beside its place, flushed to the disk and renamed. A reader
sees the old content or the new one, never half, also after a crash or a power failure. The umask decides the
permissions, as for any other file. What a symbolic link points to is replaced, not the link; devices and FIFOs are
written to. An ``OSError`` that leaves this module names its file.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mnmt_ds.errors import UserError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""What a Git LFS pointer begins with."""
_TEMPORARY_FILE = re.compile(r"\..+\.\d+\.tmp")
"""Names of temporary files: the final name, and the number of the process that writes it."""
_DESCRIPTOR = re.compile(rf"/(?:proc/(?:self|thread-self|{os.getpid()})|dev)/fd/([0-9]+)")
"""Paths of this process's open files."""


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all.

    Args:
        path: file to write; its directory is made where it is missing.
        text: the whole content; line ends are written as they are.
    """
    write_bytes(path, text.encode())


def check_writable(path: Path) -> None:
    """Checks before long work that its result can be written.

    Args:
        path: of a file that is there, or will be.

    Raises:
        OSError: where it is a directory, lies in a file, or may not be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    existing_parent = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not existing_parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not is_stream(path) and not os.access(existing_parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Writes a value as a JSON file with a final line end, whole or not at all.

    Args:
        path: file to write; its directory is made where it is missing.
        value: what ``json.dumps`` can write; non-ASCII text stays readable.
        indent: spaces a level; None: one line.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.

    Args:
        path: file to write; its directory is made where it is missing.
        content: the whole content.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, whole or not at all: what a full disk cut off is taken away again.

    Args:
        path: file to add to; made where it is missing.
        line: without its end.
    """
    with errors_naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, line.encode() + b"\n")
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Writes to an open file, in as many parts as the system takes.

    Args:
        descriptor: of the file.
        content: what is written.
    """
    while content:
        content = content[os.write(descriptor, content) :]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Makes a temporary path to write to, which becomes ``path`` when the block ends without an error.

    For writers that want a path or a stream of their own, such as ``safetensors.torch.save_file``. After an error the
    temporary file is removed and ``path`` is as it was.

    Args:
        path: file to write; its directory is made where it is missing. Of a symbolic link the target is replaced; a
            device, FIFO or descriptor (``/dev/stdout``) gets the content when the block ends.

    Yields:
        The temporary path, in the same directory.
    """
    with errors_naming(path):
        if is_stream(path):
            with tempfile.TemporaryDirectory() as directory:
                yield Path(directory) / "content"
                with _open_stream(path) as stream, (Path(directory) / "content").open("rb") as content:
                    shutil.copyfileobj(content, stream)
            return
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if target.is_dir():  # also what has no name: "" and "."
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
        except OSError as error:
            if error.filename in (str(temporary), temporary):
                error.filename, error.filename2 = str(path), None
            with contextlib.suppress(OSError):  # a read-only disk says so first, under another name
                temporary.unlink()
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync(target.parent)


def write_together(contents: Mapping[Path, str]) -> None:
    """Replaces several files by texts in UTF-8. All are written under other names first: on a full disk none changes.

    Args:
        contents: texts by file.
    """
    with contextlib.ExitStack() as files:
        temporaries = []
        for path, text in contents.items():
            temporaries.append(files.enter_context(replacing(path)))
            temporaries[-1].write_text(text, encoding="utf-8")
        for temporary in temporaries:
            sync(temporary)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that is there once whole; a device, FIFO or descriptor (``/dev/stdout``) is written to directly.

    Args:
        path: as of ``replacing``.

    Yields:
        A binary stream.
    """
    with errors_naming(path):
        if is_stream(path):
            with _open_stream(path) as stream:
                yield stream
            return
        with replacing(path) as temporary, temporary.open("wb") as file:
            yield file


def is_stream(path: Path) -> bool:
    """Returns whether a path is a stream, which is written to and never replaced.

    Args:
        path: what is to be written.

    Returns:
        True for a device, a FIFO, a socket and one of this process's descriptors, also behind symbolic links.
    """
    if _descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _open_stream(path: Path) -> IO[bytes]:
    descriptor = _descriptor(path)
    return open(os.dup(descriptor) if descriptor is not None else path, "wb")


def _descriptor(path: Path) -> int | None:
    """The number of this process's descriptor that a path names, as ``/dev/stdout`` does."""
    for _ in range(40):
        if match := _DESCRIPTOR.fullmatch(os.path.abspath(path)):
            return int(match[1])
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


@contextlib.contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Adds a file's name to an ``OSError`` of the block that names none, as those of a full disk do.

    Args:
        path: the file that the block reads or writes.

    Returns:
        Nothing: a context manager.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """Makes an empty temporary directory, which becomes ``directory`` when the block ends without an error.

    Args:
        directory: directory to write; an older one there is replaced.

    Yields:
        The temporary directory, ``NAME.tmp`` beside it; what a killed process left under that name is removed first.
    """
    temporary = directory.with_name(directory.name + ".tmp")
    remove(temporary)
    temporary.mkdir(parents=True)
    try:
        with errors_naming(directory):
            yield temporary
            publish_directory(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Gives an empty temporary directory to fill, which becomes a new directory when the block ends without an error.

    For a place that a user names: nothing that stands there or beside it is touched.

    Args:
        directory: directory to write, which may be there and empty. Of a symbolic link the target is written.

    Yields:
        The temporary directory, beside the target.

    Raises:
        UserError: when it is there and not empty, or is a file.
    """
    refuse_filled(directory)
    target = Path(os.path.realpath(directory))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with errors_naming(directory):
            temporary.mkdir(parents=True)
            yield temporary
            if target.exists():
                target.rmdir()
            publish_directory(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and str(error.filename).startswith(str(temporary)):
            error.filename = str(directory) + str(error.filename).removeprefix(str(temporary))
        raise


def refuse_filled(directory: Path) -> None:
    """Checks that a directory to be written is new or empty.

    Args:
        directory: as a user gave it.

    Raises:
        UserError: where something is in it, or it is a file.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: exists and is not empty; give a new directory")


def publish_directory(temporary: Path, directory: Path) -> None:
    """Flushes a finished directory to the disk and renames it into place; whatever stands there is replaced.

    Args:
        temporary: the finished directory, on the same file system.
        directory: its final name. What stands there is moved to ``NAME.old`` first, and removed afterwards.
    """
    for path in [*temporary.rglob("*"), temporary]:
        sync(path)
    old = None
    if os.path.lexists(directory):
        old = _name_for_old(directory)
        os.rename(directory, old)
    os.rename(temporary, directory)
    sync(directory.parent)
    if old is not None:
        with contextlib.suppress(OSError):  # the new one stands; the old one may be another user's
            remove(old)


def _name_for_old(directory: Path) -> Path:
    """``NAME.old``; a further name where something under it cannot be removed."""
    for number in itertools.count(1):
        old = directory.with_name(f"{directory.name}.old{number if number > 1 else ''}")
        with contextlib.suppress(OSError):
            remove(old)
        if not os.path.lexists(old):
            return old
    raise AssertionError


def replace_link(path: Path, target: Path) -> None:
    """Points a symbolic link at a target in one atomic step; an older link there is replaced.

    Args:
        path: the link.
        target: what it points to, relative to the link's directory or absolute.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        os.replace(temporary, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # not the target's name
        temporary.unlink(missing_ok=True)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Makes a second name for a file: a hard link where the file system has them, else a copy.

    Args:
        source: a finished file.
        target: its further name, which is free.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)


def remove_temporary_files(directory: Path) -> None:
    """Removes the temporary files of this module that killed processes left in a directory (not in those inside it).

    Args:
        directory: a directory in which no other process writes at present; it may be missing.
    """
    for path in directory.glob(".*.tmp"):
        if _TEMPORARY_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Removes a file, a link (not what it points to) or a directory with all in it; nothing where there is none.

    Args:
        path: what is removed.

    Raises:
        OSError: when it or something in it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flushes a file or directory to the disk.

    Args:
        path: an existing file or directory.
    """
    with errors_naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise  # some network file systems flush directories by themselves, and say EINVAL when they are asked
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """Computes the SHA-256 of a file's content.

    Args:
        path: file to read.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(path: Path, wait: bool = False) -> IO[str]:
    """Takes an exclusive lock (flock); it is held until the file is closed or the process ends, however it ends.

    A child process that inherits the file's descriptor holds the lock, too.

    Args:
        path: the lock's file; made where it is missing, its content is lost.
        wait: whether to wait for another holder.

    Returns:
        The open file; closing it frees the lock.

    Raises:
        BlockingIOError: when another process holds the lock and ``wait`` is false.
    """
    file = path.open("w")
    try:
        with errors_naming(path):
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock of a file.

    Args:
        path: the lock's file; it may be missing, then nobody holds it.

    Returns:
        Whether it is held.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def refuse_pointer(path: Path) -> None:
    """Checks that a file is not Git LFS's note of where the file's content is.

    Args:
        path: a downloaded file; one that is missing passes.

    Raises:
        UserError: where it is such a note.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError:
        return
    if start == LFS_POINTER:
        raise UserError(f"{path}: a Git LFS pointer, not the file itself; run git lfs pull there")

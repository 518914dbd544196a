"""Exceptions that end a command with one line, and what errors of files and disks become."""

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would break a line, steer a terminal, or cannot be written as UTF-8."""


class UserError(Exception):
    """Error in something that the user gave; each fault is one line with its place and remedy.

    Each fault is ONE line, ``where: what, and what to do`` (``file:line:`` where there is a line). Most errors have
    one; a recipe's lists all of them. Commands print them without a traceback and exit with code 2.

    Args:
        faults: one line each; control characters in them are escaped.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = tuple(CONTROL.sub(lambda match: repr(match[0])[1:-1], fault) for fault in faults)
        super().__init__(*self.faults)

    def __str__(self) -> str:
        """The faults, a line each."""
        return "\n".join(self.faults)


class FaultList:
    """Collects the faults of several checks, to be raised together."""

    def __init__(self, faults: Iterable[str] = ()) -> None:
        """Begins a list.

        Args:
            faults: that are known already, a line each.
        """
        self.faults = list(faults)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Runs a block and adds its UserError to the list; what follows the block goes on.

        Returns:
            Nothing: a context manager.
        """
        try:
            yield
        except UserError as error:
            self.faults += [fault for fault in error.faults if fault not in self.faults]

    def raise_any(self) -> None:
        """Raises a UserError with the collected faults, where there are any.

        Raises:
            UserError: with all faults, where there are any.
        """
        if self.faults:
            raise UserError(*self.faults)


class RunError(RuntimeError):
    """Error that ends a run, though nothing that the user gave is known to be wrong.

    The message is ONE line, with what to do. All ranks of a student raise it together; commands print it without a
    traceback on one of them, and exit with code 1.
    """

    def __init__(self, message: str, is_shown: bool = True) -> None:
        """Makes the exception.

        Args:
            message: one line.
            is_shown: whether this rank prints it.
        """
        super().__init__(message)
        self.is_shown = is_shown


_ELSEWHERE = "or write elsewhere; what was there before is unharmed"
_FAULTS = {
    errno.ENOSPC: f"no space left on the disk; free some, {_ELSEWHERE}",
    errno.EDQUOT: f"the disk quota is used up; free some, {_ELSEWHERE}",
    errno.EFBIG: f"larger than a file may be there (ulimit -f, or the file system's limit); raise it, {_ELSEWHERE}",
    errno.EROFS: f"the file system is read-only; mount it for writing, {_ELSEWHERE}",
    errno.EACCES: "permission denied; change the permissions, or name another place",
    errno.EPERM: "permission denied; change owner or permissions, or name another place",
    errno.EIO: "the disk failed (input/output error); look into the system's log, or use another disk",
    errno.ESTALE: "the network file system lost it (stale file handle); mount it again",
    errno.ENXIO: "no such device, or nobody reads from it; name another place",
    errno.ENODEV: "no such device; name another place",
    errno.EBUSY: "in use, such as a mounted directory; name another place",
    errno.ELOOP: "symbolic links go in a circle; mend them, or name another place",
    errno.ENOENT: "no such file or directory; name another place",
    errno.ENOLCK: "the file system has no locks (those of NFS want lockd); name a place on another",
    errno.ENOSYS: "the file system cannot do that (locks on Lustre want the option flock); name a place on another",
    errno.EOPNOTSUPP: "the file system cannot do that, such as locks or links; name a place on another",
    errno.EISDIR: "is a directory; name a file",
    errno.ENOTDIR: "part of the path is a file, not a directory; name another place",
    errno.EEXIST: "exists and is no directory; name another place",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine; raise its limit (sysctl fs.file-max)",
    errno.ENAMETOOLONG: "the name is too long; name another place",
}
"""What happened and what helps, by error number."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_RUST = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors, tokenizers) tell an error number."""


def file_fault(error: BaseException, path: Path | None = None, needed: int = 0) -> UserError | None:
    """Explains an error of a file or disk to the user, also where a library has wrapped it in another error.

    Args:
        error: any.
        path: what was written or read, where the error does not name it.
        needed: bytes that would be needed there; 0: not known.

    Returns:
        One line that names the file and the remedy; None where the error is of another kind.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        number = link.errno if isinstance(link, OSError) else None
        if number == errno.ENOENT and str(getattr(link, "strerror", "")).startswith("No usable temporary directory"):
            return UserError("no temporary directory can be written; free space in one, or set TMPDIR to another")
        if number is None and (match := _RUST.search(str(link))):
            number = int(match[1])
        if number in _FAULTS:
            names = [getattr(link, name, None) for name in ("filename2", "filename")]  # a copy's target comes second
            name = next((name for name in names if name), path or "a file")
            text = f"{os.fsdecode(name) if isinstance(name, str | bytes) else name}: {_FAULTS[number]}"
            return UserError(text + (_space(name, needed) if number in _FULL else ""))
        link = link.__cause__ or link.__context__
    return None


def _space(name: object, needed: int) -> str:
    """How much is free where a file was to be written, and how much is needed, in brackets."""
    path = Path(os.fsdecode(name) if isinstance(name, str | bytes) else str(name)).absolute()
    facts = [f"about {needed / 1e6:,.0f} MB are needed"] if needed else []
    for directory in (path, *path.parents):
        try:
            facts.insert(0, f"{shutil.disk_usage(directory).free / 1e6:,.1f} MB are free")
            break
        except OSError:
            continue
    return f" ({', '.join(facts)})" if facts else ""

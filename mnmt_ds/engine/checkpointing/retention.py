"""Which checkpoints stay on disk: as many as asked for that verify; what does not verify never counts."""

import os
from collections.abc import Callable
from pathlib import Path

from mnmt_ds.engine.checkpointing.step_directories import step_directories, step_number
from mnmt_ds.engine.checkpointing.verification import MANIFEST, fault_of, listed_files
from mnmt_ds.files import remove

Signature = tuple[tuple[int, int, int], ...]
"""Inode, size and time of change of a checkpoint's files; none where one is missing."""


class CheckpointRetention:
    """Removes old checkpoints after each save, on the main rank.

    A checkpoint is read and hashed once; after that it counts as good while no file of it has changed.
    """

    def __init__(self, run: Path, keep: int, warn: Callable[[str], None]) -> None:
        """Knows no checkpoint yet.

        Args:
            run: the run's directory.
            keep: checkpoints that stay.
            warn: hears, once of each, of checkpoints that do not count, and of those that cannot be removed.
        """
        self.run, self.keep, self._warn = run, keep, warn
        self._good: dict[Path, Signature] = {}
        self._said: set[str] = set()

    def note_good(self, path: Path) -> None:
        """Records a checkpoint that was just written or verified.

        Args:
            path: its directory.
        """
        self._good[path] = _signature(path)

    def remove_old(self, written: Path) -> None:
        """Removes the checkpoints older than the ``keep`` newest good ones, of which the one just written is the first.

        What has a higher number is of no concern here. What does not verify stays as long as it is newer than the
        last good one that is kept. Links, other users' directories and such as were never published are left alone.

        Args:
            written: the checkpoint just written.
        """
        self.note_good(written)
        kept_count = 1
        for path in step_directories(self.run):
            if step_number(path) >= step_number(written) or path.is_symlink():
                continue
            if kept_count < self.keep:
                kept_count += self._is_good(path)
            elif (path / MANIFEST).is_file() and path.stat().st_uid == os.geteuid():
                self._remove(path)

    def _is_good(self, path: Path) -> bool:
        signature = _signature(path)
        if signature and self._good.get(path) == signature:
            return True
        fault = fault_of(path)
        if fault is None:
            self._good[path] = signature
        else:
            self._say(f"{fault}; {path.name} does not count among the checkpoints that train.keep_checkpoints keeps")
        return fault is None

    def _remove(self, path: Path) -> None:
        self._good.pop(path, None)
        temporary = path.with_name(path.name + ".tmp")  # half removed, it is taken for no checkpoint
        try:
            remove(temporary)
            os.rename(path, temporary)
            remove(temporary)
        except OSError as error:
            self._say(f"{error.filename or path}: cannot be removed ({error.strerror}); the training goes on")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._warn(text)


def _signature(path: Path) -> Signature:
    try:
        stats = [(path / name).stat() for name in (MANIFEST, *listed_files(path))]
    except (OSError, ValueError, TypeError):
        return ()
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)

"""How far a run has come, from its log: each look reads what was written since the last one."""

from pathlib import Path
from typing import NamedTuple

from mnmt_ds import metric_keys
from mnmt_ds.json_files import parse_json


class LogProgress(NamedTuple):
    """Progress of a run, as its log shows it."""

    inode: int
    """Inode of the log: a resumed run may replace it."""
    offset: int
    """Bytes that were read."""
    epoch: float | None
    """Epoch of the last record; None before the first."""
    best_dev: float | None
    """Lowest mean dev loss, nats a token; None before the first validation."""


def read_progress(log: Path, before: LogProgress | None = None) -> LogProgress | None:
    """Reads from a run's log how far it has come.

    Args:
        log: its ``metrics.jsonl``; a line that is being written, or that is damaged, is left out.
        before: what the last look gave; the same file is read from there on.

    Returns:
        The progress; None where there is no log.
    """
    try:
        with log.open("rb") as file:
            inode, size = (fact := log.stat()).st_ino, fact.st_size
            if before is None or before.inode != inode or before.offset > size:
                before = LogProgress(inode, 0, None, None)
            file.seek(before.offset)
            text = file.read()
    except OSError:
        return None
    whole = text[: text.rfind(b"\n") + 1]
    epoch, best = before.epoch, before.best_dev
    for line in whole.splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        epoch = record.get("epoch", epoch)
        if (dev := record.get(metric_keys.VALID_MACRO)) is not None:
            best = dev if best is None else min(best, dev)
    return LogProgress(inode, before.offset + len(whole), epoch, best)

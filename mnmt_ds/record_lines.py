"""The lines of ``metrics.jsonl``: one JSON record each, with a checksum that tells an altered or missing line.

``crc`` is the CRC-32 of the line before that key, begun with the one of the line above. Lines of earlier versions have
none.
"""

import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.errors import UserError
from mnmt_ds.json_files import parse_json
from mnmt_ds.packed_records import unpack

Record = dict[str, Any]
_SEALED = re.compile(rb'(.*), "crc": "([0-9a-f]{8})"\}', re.DOTALL)


class RecordLine(NamedTuple):
    """A line of a log that was verified as it was written."""

    text: bytes
    """The line, without its end."""
    record: Record
    """Without ``crc``."""
    crc: int
    """Checksum of the line; 0 where it has none."""
    number: int = 0
    """From 1 in its file."""


def seal(text: bytes, before: int) -> RecordLine:
    """Makes the line of a record, with its checksum.

    Args:
        text: the record as JSON, without ``crc``.
        before: ``crc`` of the line above, 0 for the first one.

    Returns:
        The line, with ``crc`` as its last key.
    """
    head = text.removesuffix(b"}")
    crc = zlib.crc32(head, before)
    return RecordLine(head + f', "crc": "{crc:08x}"}}'.encode(), json.loads(text), crc)


def write_lines(records: Iterable[Record]) -> str:
    """Formats records as the whole text of a file.

    Args:
        records: in order.

    Returns:
        Lines with their ends.
    """
    crc, lines = 0, []
    for record in records:
        line = seal(json.dumps(record).encode(), crc)
        crc = line.crc
        lines.append(f"{line.text.decode()}\n")
    return "".join(lines)


def check_lines(path: Path) -> tuple[list[RecordLine], list[str]]:
    """Reads a file; a last line that a crash cut off is left out.

    Args:
        path: the file.

    Returns:
        The lines that are as they were written, and a sentence about each one that is not: ``FILE:LINE: fault``.
    """
    lines: list[RecordLine] = []
    faults: list[str] = []
    above, last_update = 0, float("-inf")
    *whole, rest = path.read_bytes().split(b"\n")
    for number, text in enumerate([*whole, rest], 1):
        if not text.strip() or (number > len(whole) and _is_cut(text)):
            continue
        sealed = _SEALED.fullmatch(text)
        try:
            record: Record | None = parse_json(text)
        except ValueError:
            record = None
        if record is None:
            fault = "is no JSON record"
        elif sealed is None and (above or "crc" in record):
            fault = "has no checksum"
        elif sealed is not None and zlib.crc32(sealed[1], above) != int(sealed[2], 16):
            fault = "was altered, or lines above it are gone"
        elif sealed is None and record.get("kind") != "run" and _update(record) < last_update:
            fault = f"has update {_update(record):g} after update {last_update:g}"
        else:
            fault = ""
            record.pop("crc", None)
            lines.append(RecordLine(text, record, int(sealed[2], 16) if sealed else 0, number))
            last_update = _update(record)
        if fault:
            faults.append(f"{path}:{number}: {fault}")
        above = int(sealed[2], 16) if sealed else above
    return lines, faults


def read_records(path: Path) -> list[Record]:
    """Reads all records of a ``metrics.jsonl``; a last line that a crash cut off is left out.

    Args:
        path: the file.

    Returns:
        Flat records, in the file's order.

    Raises:
        UserError: that names the first line that is not as it was written.
    """
    lines, faults = check_lines(path)
    if faults:
        raise UserError(f"{faults[0]}; restore the file from a copy, or resume the run, which drops such lines")
    try:
        return [unpack(line.record) for line in lines]
    except ValueError as error:
        raise UserError(f"{path}: {error}; restore the file from a copy") from None


def last_crc(path: Path) -> int:
    """Reads the ``crc`` of a file's last line, which the next line depends on.

    Args:
        path: the file; it may be missing.

    Returns:
        ``crc`` of its last whole line; 0 where there is none.
    """
    if not path.exists():
        return 0
    lines, _ = check_lines(path)
    return lines[-1].crc if lines else 0


class KeptLines(NamedTuple):
    """Lines of a log that stay when a run goes on from a checkpoint."""

    text: str
    """The lines."""
    crc: int
    """Checksum of the last line."""
    records: int
    """How many are of another kind than "run"."""
    faults: list[str]
    """Faults of the lines that are left out."""


def kept_lines(path: Path, update: int, records: int | None = None) -> KeptLines:
    """Picks the lines that stay when a run goes on from a checkpoint.

    Args:
        path: the file.
        update: the checkpoint's.
        records: those of the file when the checkpoint was written, of another kind than "run"; None: all up to that
            update.

    Returns:
        The lines.
    """
    lines, faults = check_lines(path)
    kept_text, crc, count = [], 0, 0
    for position, line in enumerate(lines, 1):
        counts, damaged_before = line.record.get("kind") != "run", line.number - position
        is_later = counts and records is not None and count + damaged_before >= records
        if line.record.get("update", 0) > update or is_later:
            continue
        sealed = _SEALED.fullmatch(line.text)
        again = seal(sealed[1] + b"}", crc) if sealed else line
        crc, count = again.crc, count + counts
        kept_text.append(again.text.decode() + "\n")
    return KeptLines("".join(kept_text), crc, count, faults)


def _is_cut(text: bytes) -> bool:
    """Whether a last line without an end is a line's beginning, as a crash leaves it."""
    try:
        json.JSONDecoder().raw_decode(text.decode(errors="replace"))
    except (ValueError, RecursionError):
        return True
    return False


def _update(record: Record) -> float:
    update = record.get("update")
    return float(update) if isinstance(update, int | float) else float("-inf")

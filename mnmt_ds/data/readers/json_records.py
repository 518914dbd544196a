"""JSON: an object a line (JSON Lines), or one array of objects, read piece by piece."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import opened
from mnmt_ds.data.readers.records import rows_of_records
from mnmt_ds.errors import UserError

CHUNK = 1 << 16
"""Bytes of an array that are read at once."""
_SPACE = " \t\r\n"
_NEXT = re.compile(r"[ \t\r\n]*,[ \t\r\n]*(?={)")


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads two languages' texts of every record.

    Args:
        request: one path; ``columns`` or ``codes`` name the fields (with dots into inner records) where they are not
            called as the languages; ``min_scores`` by field.

    Yields:
        A row a record, numbered by its line; in an array by its place.

    Raises:
        UserError: when the file is not JSON, or has no such texts.
    """
    yield from rows_of_records(request.paths[0], records(request), request)


def records(request: ReadRequest) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads records.

    Args:
        request: one path.

    Yields:
        Number and fields of every record.

    Raises:
        UserError: when the file is not JSON.
    """
    (path,) = request.paths
    with opened(path) as stream:
        start = stream.peek(1 << 12)  # type: ignore[attr-defined]
        is_array = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        yield from _elements(path, stream) if is_array else _lines(path, stream, request.max_line_bytes * 4)


def _lines(path: str, stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of every line that is not empty."""
    number = 0
    readline, decode = stream.readline, json.JSONDecoder().scan_once  # type: ignore[attr-defined]
    while line := readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            raise UserError(f"{path}:{number}: a record of more than {max_bytes} bytes; is this JSON Lines?")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            text = line.decode()
            record, end = decode(text, 0)  # what json.loads does, without a search for white space on either side
            rest = text[end:]
        except (ValueError, RecursionError, StopIteration):
            record, rest = None, ""
        if type(record) is not dict or (rest != "\n" and rest.strip(_SPACE)):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.strip():
                    continue
                raise UserError(f"{path}:{number}: not a JSON object on one line ({error}); mend the file") from None
            record = _checked(path, number, record)
        yield number, record


def _elements(path: str, stream: IO[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place and record of every element of an array."""
    decode = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
    text_of = codecs.getincrementaldecoder("utf-8-sig")()
    buffer, position, number, expected_marks, ended = "", 0, 0, "[", False
    while True:
        while position < len(buffer) and buffer[position] in _SPACE:
            position += 1
        mark = buffer[position : position + 1]
        if mark and expected_marks and mark in expected_marks:
            position += 1
            if mark == "]":
                return
            expected_marks = "" if number or mark == "," else "]?"
            continue
        if mark and expected_marks in ("", "]?"):
            try:
                record, position = decode(buffer, position)
            except (ValueError, RecursionError, StopIteration) as error:
                if ended or isinstance(error, RecursionError):
                    reason = "Expecting value" if isinstance(error, StopIteration) else error
                    raise UserError(f"{path}: record {number + 1} of its array is not JSON ({reason})") from None
            else:
                number += 1
                expected_marks = ",]"
                yield number, record if type(record) is dict else _checked(path, number, record)
                if ahead := _NEXT.match(buffer, position):
                    position, expected_marks = ahead.end(), ""
                continue
        elif mark:
            raise UserError(f"{path}: not a JSON array: '{mark}' after record {number}, where , or ] is wanted")
        if ended:
            raise UserError(f"{path}: the JSON array has no end; it is cut short after record {number}")
        buffer, position, ended = _more(path, stream, buffer[position:], text_of)


def _more(path: str, stream: IO[bytes], rest: str, text_of: codecs.IncrementalDecoder) -> tuple[str, int, bool]:
    """The rest with as much again of the file behind it (a long record is not tried byte by byte), from place 0."""
    data = stream.read(max(CHUNK, len(rest)))
    try:
        return rest + text_of.decode(data, not data), 0, not data
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); convert the file") from None


def _checked(path: str, number: int, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise UserError(
            f"{path}:{number}: a {kind} where an object with texts by language is wanted; name another file"
        )
    return record


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    rows = [{"fr": "un chat", "en": "a cat"}, {"fr": "deux chats", "en": "two cats"}]
    (folder / "text.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return {"path": str(folder / "text.jsonl")}

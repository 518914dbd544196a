"""CSV: a header that names the columns, and quotes around cells that hold separators, quotes or line ends."""

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import opened
from mnmt_ds.data.readers.records import names_in
from mnmt_ds.data.readers.scores import Thresholds
from mnmt_ds.errors import UserError

SEPARATORS = ",;\t|"
"""What may stand between cells; the header decides."""


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads two columns of every record.

    Args:
        request: one path; ``columns`` or ``codes`` name the columns where they are not called as the languages;
            ``min_scores`` by column.

    Yields:
        A row a record, numbered by the line on which it begins; the header is line 1.

    Raises:
        UserError: when a column is missing, a record has another number of cells than the header, a quote is not
            closed, or the text is not UTF-8.
    """
    (path,) = request.paths
    with opened(path) as stream:
        if stream.peek(4).startswith(codecs.BOM_UTF8):  # type: ignore[attr-defined]
            stream.read(len(codecs.BOM_UTF8))
        text = io.TextIOWrapper(stream, "utf-8", newline="")
        header, separator = _header(path, text)
        source, target = (_index(path, header, name) for name in names_in(path, request, header))
        thresholds = Thresholds(path, request)
        for name in thresholds.columns:
            _index(path, header, str(name))
        reader = csv.reader(text, delimiter=separator, strict=True)
        number, width, filtered = 2, len(header), bool(thresholds.columns)
        try:
            for cells in reader:
                if len(cells) == width:
                    if not filtered or thresholds.pass_row(number, lambda name: cells[header.index(str(name))]):  # noqa: B023
                        yield number, cells[source], cells[target], None
                elif cells:
                    raise UserError(f"{path}:{number}: {len(cells)} cells, but the header has {width}; mend the line")
                number = reader.line_num + 2
        except csv.Error as error:
            raise UserError(
                f"{path}:{number}: not whole CSV ({error}); a quote is not closed, or not doubled within a cell; mend"
                " it, or take format tsv for text without quotes"
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 after line {number} ({error.reason}); convert the file") from None
        thresholds.log()


def _header(path: str, text: io.TextIOWrapper) -> tuple[list[str], str]:
    """Names of the columns, and what separates them."""
    try:
        line = text.readline(1 << 20)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); convert the file") from None
    if not line.strip():
        raise UserError(f"{path}:1: no header; the first line names the columns")
    counts = {mark: len(next(csv.reader([line], delimiter=mark))) for mark in SEPARATORS}
    separator = max(counts, key=counts.__getitem__)
    return [name.strip() for name in next(csv.reader([line], delimiter=separator))], separator


def _index(path: str, header: list[str], name: str) -> int:
    if header.count(name) != 1:
        count = "no column" if name not in header else "several columns"
        raise UserError(f"{path}:1: {count} '{name}'; the columns are {', '.join(header[:80])}: say which in 'columns'")
    return header.index(name)


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    text = 'id,fr,en\n1,un chat,a cat\n2,"deux chats, ""grands""","two cats, ""big"""\n'
    (folder / "text.csv").write_bytes(codecs.BOM_UTF8 + text.encode())
    return {"path": str(folder / "text.csv")}

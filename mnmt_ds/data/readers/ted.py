"""TED's all_talks TSV: a header that names a column a language, a line a sentence in all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import read_lines
from mnmt_ds.data.readers.records import names_in
from mnmt_ds.errors import UserError

ABSENT = (b"", b"__NULL__", b"_ _ NULL _ _")
"""How a TED talk says that a language has no translation of a line."""


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads the columns of two languages; lines without a translation in one of them are skipped.

    Args:
        request: ``columns`` or ``codes`` name the columns where they are not called as the languages.

    Yields:
        A row a line that has both languages; the header is line 1.

    Raises:
        UserError: when a column is missing, or a line has another number of columns than the header.
    """
    (path,) = request.paths
    lines = read_lines(path, 100 * request.max_line_bytes)
    header = (next(lines, b"") or b"").removeprefix(b"\xef\xbb\xbf").removesuffix(b"\r").decode("utf-8", "replace")
    columns = header.split("\t")
    names = names_in(path, request, columns)
    for name in names:
        if name not in columns:
            raise UserError(f"{path}:1: no column '{name}'; the columns are {', '.join(columns[:80])}")
    first, second = (columns.index(name) for name in names)
    for number, line in enumerate(lines, 2):
        if line is None:
            yield number, None, None, None
            continue
        cells = line.removesuffix(b"\r").split(b"\t")
        if len(cells) != len(columns):
            raise UserError(f"{path}:{number}: {len(cells)} columns, but the header has {len(columns)}; mend the line")
        if not (_is_absent(cells[first]) or _is_absent(cells[second])):
            yield number, cells[first], cells[second], None


def _is_absent(cell: bytes) -> bool:
    return cell.strip() in ABSENT


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    text = "talk_name\ten\tfr\nfirst\ta cat\tun chat\nfirst\ta dog\t__NULL__\nsecond\ttwo cats\tdeux chats\n"
    (folder / "all_talks_train.tsv").write_text(text, encoding="utf-8")
    return {"path": str(folder / "all_talks_train.tsv")}

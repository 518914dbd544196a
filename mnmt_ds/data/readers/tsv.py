"""TSV: two columns of a file without header and without quoting."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import read_lines
from mnmt_ds.data.readers.scores import Thresholds
from mnmt_ds.errors import UserError


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads two columns of every line.

    Args:
        request: ``columns`` are two numbers from 1; without them, the first two; ``min_scores`` by number.

    Yields:
        A row a line.

    Raises:
        UserError: when ``columns`` are no numbers from 1, or a line has too few columns.
    """
    (path,) = request.paths
    first, second = _column_numbers(request)
    thresholds = Thresholds(path, request)
    last = max(first, second, *map(int, thresholds.columns))
    for number, line in enumerate(read_lines(path, 4 * request.max_line_bytes), 1):
        if line is None:
            yield number, None, None, None
            continue
        cells = line.removesuffix(b"\r").split(b"\t")
        if len(cells) < last:
            raise UserError(
                f"{path}:{number}: {len(cells)} columns where column {last} is wanted; mend it, or 'columns'"
            )
        if thresholds.columns and not thresholds.pass_row(number, lambda place: cells[place - 1]):  # noqa: B023
            continue
        yield number, cells[first - 1], cells[second - 1], None
    thresholds.log()


def _column_numbers(request: ReadRequest) -> tuple[int, int]:
    first, second = request.columns or (1, 2)
    if not (isinstance(first, int) and isinstance(second, int) and min(first, second) > 0):
        raise UserError(f"data.corpora.{request.pair}: 'columns' of a TSV are two numbers from 1, such as [1, 2]")
    for name in request.min_scores:
        if not (isinstance(name, int) and name > 0):
            raise UserError(
                f"data.corpora.{request.pair}: 'min_scores' of a TSV are by columns' numbers from 1, not '{name}'"
            )
    return first, second


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    (folder / "text.tsv").write_text("1\tun chat\ta cat\n2\tdeux chats\ttwo cats\n", encoding="utf-8")
    return {"path": str(folder / "text.tsv"), "columns": [2, 3]}

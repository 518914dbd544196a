"""Plain text in one language, a sentence a line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import read_lines


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads lines of monolingual text.

    Args:
        request: one path.

    Yields:
        A row a line, the line on both sides.
    """
    (path,) = request.paths
    for number, line in enumerate(read_lines(path, request.max_line_bytes), 1):
        yield number, line, line, None


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    (folder / "text").write_text("un chat\ndeux chats\n", encoding="utf-8")
    return {"path": str(folder / "text")}

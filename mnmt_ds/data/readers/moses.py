"""Moses: two files of aligned lines."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import read_lines
from mnmt_ds.errors import UserError

_END = object()


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads line i of one file with line i of the other.

    Args:
        request: two paths, the source's and the target's.

    Yields:
        A row a line.

    Raises:
        UserError: when one file has more lines than the other, with both counts.
    """
    source_path, target_path = request.paths
    sources, targets = (read_lines(path, request.max_line_bytes) for path in request.paths)
    for number, (source, target) in enumerate(zip_longest(sources, targets, fillvalue=_END), 1):
        if source is _END or target is _END:
            line_count = number + sum(1 for _ in (targets if source is _END else sources))
            short, long = (source_path, target_path) if source is _END else (target_path, source_path)
            raise UserError(
                f"{short}:{number}: has {number - 1} lines, but {long} has {line_count}; line i of one must translate"
                " line i of the other"
            )
        yield number, source, target, None  # type: ignore[misc]


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    (folder / "text.fr").write_text("un chat\ndeux chats\n", encoding="utf-8")
    (folder / "text.en").write_text("a cat\ntwo cats\n", encoding="utf-8")
    return {"path": str(folder / "text.{source}"), "target_path": str(folder / "text.{target}")}

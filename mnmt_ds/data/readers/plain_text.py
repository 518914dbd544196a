"""Plain text in one language, a sentence a line."""

from collections.abc import Iterator

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

"""Moses: two files of aligned lines, also in a zip archive as OPUS gives them."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import read_lines
from mnmt_ds.data.readers.places import beside, is_pattern, matching, paired_files
from mnmt_ds.errors import UserError

_END = object()


def locate(request: ReadRequest) -> list[ReadRequest]:
    """Finds the two files, or all pairs of files.

    Args:
        request: two paths, which may be patterns; or one, a directory, a zip archive or a pattern of files whose names
            end in the languages: ``codes`` say how where that is not the recipe's name or another code of it.

    Returns:
        One request for each two files.

    Raises:
        UserError: when there are none, or a file of one language has no other beside it.
    """
    if len(request.paths) == 1:
        pairs = paired_files(request.paths[0], request.names, request.role)
        default = Path(request.paths[0]).name
        return [
            request._replace(paths=(source, target), domain=stem if request.domain == default else request.domain)
            for source, target, stem in pairs
        ]
    source_path, target_path = request.paths
    if not is_pattern(source_path):
        return [request]
    located = []
    for source in matching(source_path):
        target = beside(source_path, source, target_path)
        if not Path(target).exists():
            raise UserError(f"{target}: is not there, but {source} is; each needs the other")
        own_domain = request.domain == Path(source_path).name
        located.append(
            request._replace(paths=(source, target), domain=Path(source).name if own_domain else request.domain)
        )
    return located


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

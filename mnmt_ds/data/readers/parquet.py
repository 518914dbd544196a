"""Parquet: columns with texts by language, read by pyarrow, some rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.archives import disk_file, is_archive
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.records import names_in, rows_of_records
from mnmt_ds.errors import UserError

TEXTS = ("string", "large_string", "string_view")
"""pyarrow's types of text."""
BATCH = 1000
"""Rows that are read at once."""


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads two languages' texts of every row.

    Args:
        request: one path; ``columns`` or ``codes`` name the columns (with dots into structures) where they are not
            called as the languages; ``min_scores`` by column.

    Yields:
        A row a record.

    Raises:
        UserError: when pyarrow is missing, or the file is no Parquet, or has no such texts.
    """
    (path,) = request.paths
    with _opened(path) as file:
        columns = file.schema_arrow
        source, target = names = names_in(path, request, columns.names)
        are_texts = all(columns.names.count(name) == 1 and str(columns.field(name).type) in TEXTS for name in names)
        if request.min_scores or not are_texts:
            yield from rows_of_records(path, _records(path, file, request, names), request)
            return
        number = 0
        for batch in file.iter_batches(batch_size=BATCH, columns=list(dict.fromkeys(names))):
            for texts in zip(batch[source].to_pylist(), batch[target].to_pylist(), strict=True):
                number += 1
                yield number, texts[0] or "", texts[1] or "", None


def records(request: ReadRequest) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads records.

    Args:
        request: one path, and what it names of ``columns``, ``codes`` and ``min_scores``.

    Yields:
        Number and fields of every row, of the columns that are asked for.

    Raises:
        UserError: when pyarrow is missing, or the file is no Parquet, or has none of the columns.
    """
    (path,) = request.paths
    with _opened(path) as file:
        yield from _records(path, file, request, request.names)


def _records(
    path: str, file: Any, request: ReadRequest, names: tuple[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and fields of every row of an open file."""
    requested_columns = {str(name) for name in (*names, *request.min_scores)}
    requested_columns |= {name.split(".")[0] for name in requested_columns} | {"translation"}
    columns = [name for name in file.schema_arrow.names if name in requested_columns]
    if not columns:
        have = ", ".join(file.schema_arrow.names[:20])
        raise UserError(f"{path}: no column '{names[0]}'; the columns are {have}: say which in 'columns'")
    number = 0
    for batch in file.iter_batches(batch_size=BATCH, columns=columns):
        for record in batch.to_pylist():
            number += 1
            yield number, record


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A pyarrow ParquetFile; what goes wrong while it is read names the file."""
    if disk_file(path) != path or is_archive(path):
        raise UserError(f"{path}: a Parquet file is not read inside an archive; unpack it and name the file")
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path}: reading this needs the package 'pyarrow'; pip install 'mnmt_ds[parquet]'") from None
    try:
        with ParquetFile(path) as file:
            yield file
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{path}: cannot be read ({error.strerror}); mend the path in the recipe") from None
        raise UserError(f"{path}: the Parquet file is damaged ({_line(error)}); copy it again") from None
    except ArrowException as error:
        raise UserError(f"{path}: not a whole Parquet file ({_line(error)}); copy it again") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    table = pyarrow.table({"fr": ["un chat", "deux chats"], "en": ["a cat", "two cats"]})
    write_table(table, folder / "text.parquet")
    return {"path": str(folder / "text.parquet")}

"""Parquet: columns with texts by language, read by pyarrow, some rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.archives import disk_file, is_archive
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.records import rows_of_records
from mnmt_ds.errors import UserError


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
    yield from rows_of_records(path, records(request), request)


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
    if disk_file(path) != path or is_archive(path):
        raise UserError(f"{path}: a Parquet file is not read inside an archive; unpack it and name the file")
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path}: reading this needs the package 'pyarrow'; pip install 'mnmt_ds[parquet]'") from None
    requested_columns = {str(name).split(".")[0] for name in (*request.names, *request.min_scores)} | {"translation"}
    requested_columns |= {str(name) for name in (*request.names, *request.min_scores)}
    number = 0
    try:
        with ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in requested_columns]
            if not names:
                columns = ", ".join(file.schema_arrow.names[:20])
                raise UserError(
                    f"{path}: no column '{request.names[0]}'; the columns are {columns}: say which in 'columns'"
                )
            for batch in file.iter_batches(batch_size=1000, columns=names):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
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

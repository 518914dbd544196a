"""The registry of corpus formats: a reader is a function in a file of its own, and one line here.

A reader takes a ``ReadRequest`` and yields ``Row`` tuples ``(number, source, target, key)``, lazily: it must not hold a
whole large file in memory. Its contract:

- ``number`` is the line, entry or record of the file that holds the row, from 1, and never falls from one row to the
  next. It stands in every message about the row (``FILE:NUMBER``). A row that the reader skips, such as one that has no
  text in one of the languages, keeps its number: the next row has a higher one.
- ``source`` and ``target`` are one sentence each, in that order, whatever the file's order is. Bytes mean text that is
  not yet decoded: cleaning decodes UTF-8 and says which byte is wrong. ``None`` is a line of more than
  ``request.max_line_bytes`` bytes. An empty side is yielded as it is; cleaning drops and counts it. A reader for
  monolingual text yields the text on both sides.
- ``key`` is None; or, where neither side is in ``request.key_language``, the sentence in that language.
- Reading the same files again yields the same rows.
- What is wrong with a file is a ``UserError`` of one line with the path, the number where there is one, and what to
  do: raised while iterating, after the rows before the fault. Faults inside one line's text are not the reader's
  business.
- An optional package (``datasets``) is imported inside the function; a missing one is a ``UserError`` that names it.

``mnmt-ds prepare`` and ``mnmt-ds validate`` use the registry alone: the allowed values of ``format`` in a recipe, the
keys that a format needs, and the parts of a pair's text all come from ``READERS``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data.readers import (
    android,
    catalog,
    cldr,
    csv_table,
    flores,
    huggingface,
    json_records,
    moses,
    ntrex,
    parquet,
    plain_text,
    qt,
    system_catalogs,
    tatoeba,
    ted,
    tmx,
    tsv,
    xliff,
)
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row


def as_requested(request: ReadRequest) -> list[ReadRequest]:
    """Finds the parts of a format whose paths in the recipe are its files: the one that was asked for.

    Args:
        request: paths and keys of the recipe's entry.

    Returns:
        The request alone.
    """
    return [request]


def no_example_files(folder: Path) -> dict[str, Any]:
    """Declares a format whose text comes from no file.

    Args:
        folder: not used.

    Returns:
        Keys of the recipe's entry: none.
    """
    return {}


class ReaderEntry(NamedTuple):
    """Declaration of one corpus format and its reader."""

    read: Callable[[ReadRequest], Iterator[Row]]
    """Yields the rows of one part."""
    description: str
    """What the format is, in a few words, for messages and documentation."""
    needs: tuple[str, ...] = ("path",)
    """Keys of the recipe's entry that must be given."""
    accepts: tuple[str, ...] = ()
    """Further keys that the format looks at, of ``target_path``, ``columns``, ``split``, ``codes`` and ``min_scores``;
    all formats have ``domain``."""
    endings: tuple[str, ...] = ()
    """How names of the format's files end, compression aside: a directory or zip archive stands for all of these in it.
    None: a path is what ``locate`` takes it for."""
    monolingual: bool = True
    """Whether the format may stand under ``data.monolingual``."""
    locate: Callable[[ReadRequest], list[ReadRequest]] = as_requested
    """Finds the parts: one request each, with the paths and the domain of that part."""
    catalog: bool = False
    """Text of user interfaces: cleaning strips accelerator marks and context prefixes."""
    tolerant: bool = False
    """Files that the user did not choose: what is wrong with them is counted, and no error."""
    example: Callable[[Path], dict[str, Any]] = no_example_files
    """Writes two or more rows of fr-en into an empty directory; returns the keys of the recipe's entry."""


READERS: dict[str, ReaderEntry] = {
    "moses": ReaderEntry(
        moses.read,
        "two files of aligned lines, or a directory or zip archive of such files",
        accepts=("target_path", "codes"),
        locate=moses.locate,
        example=moses.example,
    ),
    "tsv": ReaderEntry(
        tsv.read,
        "two columns of a TSV file without header",
        accepts=("columns", "min_scores"),
        endings=(".tsv", ".txt"),
        example=tsv.example,
    ),
    "csv": ReaderEntry(
        csv_table.read,
        "two columns of a CSV file with header and quotes",
        accepts=("columns", "codes", "min_scores"),
        endings=(".csv",),
        example=csv_table.example,
    ),
    "json": ReaderEntry(
        json_records.read,
        "JSON Lines, or an array of objects",
        accepts=("columns", "codes", "min_scores"),
        endings=(".jsonl", ".json", ".ndjson"),
        example=json_records.example,
    ),
    "parquet": ReaderEntry(
        parquet.read,
        "Parquet file",
        accepts=("columns", "codes", "min_scores"),
        endings=(".parquet",),
        example=parquet.example,
    ),
    "tmx": ReaderEntry(
        tmx.read, "translation memory (XML)", accepts=("columns", "codes"), endings=(".tmx",), example=tmx.example
    ),
    "xliff": ReaderEntry(
        xliff.read,
        "XLIFF 1.2 or 2",
        accepts=("columns", "codes"),
        endings=(".xlf", ".xliff", ".sdlxliff", ".mqxliff"),
        monolingual=False,
        example=xliff.example,
    ),
    "qt": ReaderEntry(
        qt.read,
        "Qt Linguist's .ts file",
        accepts=("columns", "codes"),
        endings=(".ts",),
        catalog=True,
        monolingual=False,
        example=qt.example,
    ),
    "android": ReaderEntry(
        android.read,
        "directory of Android's string resources",
        accepts=("codes",),
        locate=android.locate,
        catalog=True,
        monolingual=False,
        example=android.example,
    ),
    "po": ReaderEntry(
        catalog.read_po,
        "gettext catalog, source",
        endings=(".po",),
        locate=catalog.with_key_language,
        catalog=True,
        example=catalog.example_po,
    ),
    "mo": ReaderEntry(
        catalog.read_mo,
        "gettext catalog, compiled",
        endings=(".mo", ".gmo"),
        locate=catalog.with_key_language,
        catalog=True,
        example=catalog.example_mo,
    ),
    "flores": ReaderEntry(
        flores.read,
        "FLORES-200 or FLORES+ directory",
        accepts=("split", "codes"),
        locate=flores.locate,
        example=flores.example,
    ),
    "ntrex": ReaderEntry(
        ntrex.read, "NTREX-128 directory", accepts=("codes",), locate=ntrex.locate, example=ntrex.example
    ),
    "tatoeba": ReaderEntry(
        tatoeba.read,
        "directory of Tatoeba's exports",
        accepts=("columns", "codes"),
        locate=tatoeba.locate,
        monolingual=False,
        example=tatoeba.example,
    ),
    "huggingface": ReaderEntry(
        huggingface.read,
        "Hugging Face dataset saved on disk",
        accepts=("columns", "split", "codes"),
        example=huggingface.example,
    ),
    "ted": ReaderEntry(
        ted.read, "TED's all_talks TSV with a header", accepts=("columns", "codes"), example=ted.example
    ),
    "text": ReaderEntry(
        plain_text.read,
        "plain text in one language, for ``monolingual``",
        endings=("",),
        example=plain_text.example,
    ),
    "gettext": ReaderEntry(
        system_catalogs.read_system,
        "the system's gettext catalogs",
        needs=(),
        monolingual=False,
        locate=system_catalogs.locate_system,
        catalog=True,
        tolerant=True,
        example=system_catalogs.example_system,
    ),
    "cldr": ReaderEntry(cldr.read, "names, dates and amounts of Babel's CLDR data", needs=(), locate=cldr.locate),
}
"""Every corpus format by the name that a recipe's ``format`` gives."""


def describe_formats() -> str:
    """Describes every format, for the documentation of the recipe's ``format`` key.

    Returns:
        One line: ``name (description), ...``.
    """
    return ", ".join(f"{name} ({reader.description})" for name, reader in READERS.items())

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
    catalog,
    cldr,
    flores,
    huggingface,
    moses,
    plain_text,
    system_catalogs,
    ted,
    tmx,
    tsv,
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
    """One corpus format."""

    read: Callable[[ReadRequest], Iterator[Row]]
    """Yields the rows of one part."""
    description: str
    """What the format is, in a few words, for messages and documentation."""
    needs: tuple[str, ...] = ("path",)
    """Keys of the recipe's entry that must be given; with ``target_path`` the format is of two files."""
    accepts: tuple[str, ...] = ()
    """Further keys that the format looks at, of ``columns``, ``split`` and ``codes``; all formats have ``domain``."""
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
        moses.read, "two files of aligned lines", needs=("path", "target_path"), example=moses.example
    ),
    "tsv": ReaderEntry(tsv.read, "two columns of a TSV file without header", accepts=("columns",), example=tsv.example),
    "tmx": ReaderEntry(tmx.read, "translation memory (XML)", accepts=("columns", "codes"), example=tmx.example),
    "po": ReaderEntry(
        catalog.read_po,
        "gettext catalog, source",
        locate=catalog.with_key_language,
        catalog=True,
        example=catalog.example_po,
    ),
    "mo": ReaderEntry(
        catalog.read_mo,
        "gettext catalog, compiled",
        locate=catalog.with_key_language,
        catalog=True,
        example=catalog.example_mo,
    ),
    "flores": ReaderEntry(
        flores.read, "FLORES-200 directory", accepts=("split", "codes"), locate=flores.locate, example=flores.example
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
    "text": ReaderEntry(plain_text.read, "plain text in one language, for ``monolingual``", example=plain_text.example),
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


def formats_with_target_path() -> list[str]:
    """Lists the formats that read the two sides from two files.

    Returns:
        Names of formats, in the registry's order.
    """
    return [name for name, reader in READERS.items() if "target_path" in reader.needs]


def describe_formats() -> str:
    """Describes every format, for the documentation of the recipe's ``format`` key.

    Returns:
        One line: ``name (description), ...``.
    """
    return ", ".join(f"{name} ({reader.description})" for name, reader in READERS.items())

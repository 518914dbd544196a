"""What a reader is given, and what it yields: numbered rows of one part of a pair's text."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mnmt_ds.data.language_pairs import split_pair

if TYPE_CHECKING:
    from mnmt_ds.data.settings import CleanSettings, SyntheticText

Text = str | bytes | None
"""Bytes are decoded (and their faults found) by the cleaning workers; None is a line over the byte limit."""
Row = tuple[int, Text, Text, str | None]
"""Line, entry or record number from 1; source; target; the key text where it is neither side's text, else None."""


class ReadRequest(NamedTuple):
    """A reader's arguments: the paths and keys of one entry of the recipe, for one language pair."""

    pair: str = ""
    """Name of the language pair, such as ``bs-en``; of monolingual text the language."""
    format: str = ""
    """The format's name in the recipe, for messages."""
    paths: tuple[str, ...] = ("",)
    """Path of the file, or of the source's and the target's; ``('',)`` for text that comes from no file."""
    domain: str = ""
    """Name for the cap per domain and for ``clean.drop_domains``."""
    columns: tuple[int | str, int | str] | None = None
    """Source and target column as the recipe gives them."""
    split: str = ""
    """Split as the recipe gives it."""
    role: str = "train"
    """What the rows are for: train, dev, test or mono."""
    codes: Mapping[str, str] = {}
    """What a language is called in the file where that differs from its name in the recipe."""
    min_scores: Mapping[int | str, float] = {}
    """The least score by column."""
    key_language: str = "en"
    """Language whose text is hashed to choose held-out rows; as the pair names it where a side is in it."""
    max_line_bytes: int = 1_000_000
    """Longest line, in bytes; a longer one is yielded as None."""
    catalog_roots: tuple[str, ...] = ()
    """Directories that hold LANGUAGE/LC_MESSAGES/*.mo."""

    @property
    def source(self) -> str:
        """Source language."""
        return split_pair(self.pair)[0]

    @property
    def target(self) -> str:
        """Target language; the source language again for monolingual text."""
        return split_pair(self.pair)[1] or self.source

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two languages in the file: from ``columns``, else from ``codes``, else as in the recipe."""
        if self.columns is not None:
            return str(self.columns[0]), str(self.columns[1])
        return self.codes.get(self.source, self.source), self.codes.get(self.target, self.target)


class CorpusPart(NamedTuple):
    """A file, a pair of files or a catalog, with the function that reads it."""

    read: Callable[[], Iterator[Row]]
    """Starts reading from the first row; may be called again."""
    files: tuple[str, ...]
    """One path, or the source's and the target's; '' where the text comes from no file."""
    domain: str
    """Name for the cap per domain and for ``clean.drop_domains``."""
    catalog: bool = False
    """Text of user interfaces: accelerator marks and context prefixes are stripped."""
    keys: tuple[Any, ...] = ()
    """What of the recipe's entry decides which rows are read, where it is not what it is by default."""
    tolerant: bool = False
    """The system's own files: what is wrong with them is counted, and no error."""
    clean: "CleanSettings | None" = None
    """Cleaning rules of its own; None: those of the corpus."""
    synthetic: "SyntheticText | None" = None
    """How text that a model translated is taken in; None: real text."""

"""What every reader yields: numbered rows of one part of a pair's text."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

Text = str | bytes | None
"""Bytes are decoded (and faults found) by the cleaning workers; None is a line over the byte limit."""
Row = tuple[int, Text, Text, str | None]
"""Line, entry or record number from 1; source; target; key where it is neither side's text (else None)."""


class CorpusPart(NamedTuple):
    """A file, a pair of files or a catalog."""

    read: Callable[[], Iterator[Row]]
    files: tuple[str, ...]
    """One path, or the source's and the target's; '' where the text comes from no file."""
    domain: str
    catalog: bool = False
    """Text of user interfaces: accelerator marks and context prefixes are stripped."""
    tolerant: bool = False
    """The system's own files: what is wrong with them is counted, and no error."""

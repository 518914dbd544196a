"""Pictures that other commands drew, such as ``mnmt-ds analyse``, put into a page."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Picture(NamedTuple):
    """An image as a page holds it."""

    title: str
    """Where it is: ``run: analysis/prune``."""
    uri: str
    """The file itself, as a data URI."""


def read_pictures(directories: Iterable[Path], pattern: str = "**/*.png") -> list[Picture]:
    """Reads PNG files.

    Args:
        directories: where to look.
        pattern: of the files, below each directory.

    Returns:
        The pictures, by directory and in the order of their names.
    """
    return [
        Picture(
            f"{directory.name}: {path.relative_to(directory).with_suffix('')}",
            "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"),
        )
        for directory in directories
        for path in sorted(directory.glob(pattern))
    ]

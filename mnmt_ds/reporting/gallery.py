"""Pictures that other commands drew, such as ``mnmt-ds analyse``, put into a page."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Picture(NamedTuple):
    """An image as a page holds it."""

    title: str
    """Where it was found: ``run: analysis/prune``."""
    uri: str
    """The file itself, as a data URI."""


def pictures(places: Iterable[Path], below: str = "**/*.png") -> list[Picture]:
    """Every PNG below the directories, in the order of its name."""
    return [
        Picture(
            f"{place.name}: {path.relative_to(place).with_suffix('')}",
            "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"),
        )
        for place in places
        for path in sorted(place.glob(below))
    ]

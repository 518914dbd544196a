"""Files that come with the package: DeepSpeed configurations, launchers, recipes and studies.

In a checkout they are its directories ``ds_configs/`` and ``launchers/``; an installed package has copies of both.
"""

import os
from pathlib import Path

INSTALLED = Path(__file__).parent / "_shipped"
CHECKOUT = Path(__file__).parents[1]


def shipped_file(name: str) -> Path:
    """Returns the path of a file that comes with the package.

    Args:
        name: its path in a checkout, such as ``ds_configs/zero1.json``.

    Returns:
        Its path here.
    """
    return (INSTALLED if INSTALLED.is_dir() else CHECKOUT) / name


def find_file(path: Path, beside: Path | None = None) -> Path:
    """Finds a file: as it is given, then upward from another file, then among those that come with the package.

    Args:
        path: the file; an absolute path is taken as it is.
        beside: a file from whose directory on upward a relative path is tried; None: none.

    Returns:
        The first path at which there is a file; ``path`` itself where there is none.
    """
    if path.is_absolute() or os.path.exists(path):
        return path
    parents = beside.resolve().parents if beside is not None else ()
    candidates = [*(parent / path for parent in parents), shipped_file(str(path))]
    return next((candidate for candidate in candidates if os.path.exists(candidate)), path)

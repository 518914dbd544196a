"""Paths in settings and on command lines: ``~`` and ``$VARIABLES`` are expanded; none is empty, none breaks a line."""

import argparse
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from mnmt_ds.errors import CONTROL

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w*)\})")


def expanded(value: Any) -> Any:
    """Expands ``~``, ``~user``, ``$NAME`` and ``${NAME}`` as a shell does.

    A path that exists as it is written stays as it is. The result names no variable, so it means the same when a
    run's own copy of its recipe is read again.

    Args:
        value: a path; what is none is given back, for pydantic to refuse.

    Returns:
        The path, as text.

    Raises:
        ValueError: names a variable that is not set, or a user that there is not; or the path has control characters.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and ("$" in value or value.startswith("~")) and not os.path.exists(value):
        value = os.path.expanduser(VARIABLE.sub(_variable, value))
        if value.startswith("~"):
            raise ValueError(f"there is no home directory for '{value.split('/')[0]}'; write the path out")
    if isinstance(value, str) and (control := CONTROL.search(value)):
        raise ValueError(f"has {control[0]!a} in it, which would break the lines that name it; rename it")
    return value


def _variable(match: re.Match[str]) -> str:
    name = match[1] or match[2]
    if not os.environ.get(name):
        raise ValueError(f"${name} is not set in the environment; export it, or write the path out")
    return os.environ[name]


def not_empty(value: Any) -> Any:
    """Refuses an empty path, which would mean the present directory: a variable that is not set leaves one.

    Args:
        value: a path; what is none is given back, for pydantic to refuse.

    Returns:
        The path.

    Raises:
        ValueError: where it is empty.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; name a path ('.' is the present directory)")
    return value


def path_option(text: str) -> Path:
    """Reads a path of a command line, for argparse.

    Args:
        text: as it was given.

    Returns:
        The path, expanded as in recipes.

    Raises:
        ArgumentTypeError: where it is empty, is ``-`` or cannot be expanded.
    """
    if text == "-":
        raise argparse.ArgumentTypeError("- is standard input or output, which has no place here; name a path"
                                         " (./- is a file of that name)")  # fmt: skip
    try:
        return Path(expanded(not_empty(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def stream_option(text: str) -> Path | None:
    """Reads a path of a command line that may be standard input or output, for argparse.

    Args:
        text: as it was given.

    Returns:
        The path; None for ``-``.

    Raises:
        ArgumentTypeError: where it is empty, or cannot be expanded.
    """
    return None if text == "-" else path_option(text)


FilePath = Annotated[Path, BeforeValidator(expanded), BeforeValidator(not_empty)]
"""A path in a recipe."""
PathText = Annotated[str, BeforeValidator(expanded)]
"""A path in a recipe that may hold placeholders, or that stays text."""
FilledPathText = Annotated[PathText, BeforeValidator(not_empty)]
"""The same where no path is no choice."""

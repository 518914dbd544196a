"""JSON that is read from files: whatever is wrong with one is a ValueError of one sentence.

A file may come from anywhere, cut off, edited or made by another version. ``json`` itself raises RecursionError where a
file nests deeply, and leaves shapes to its callers.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError


def _inside(path: str) -> str:
    if not path or "\0" in path or os.path.isabs(path) or ".." in path.split("/"):
        raise ValueError("a path that leads out of the directory")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]
"""Path of a file below the directory that a file stands for."""
Object = dict[str, Any]
"""Any JSON object."""


def parse_json(text: str | bytes, shape: Any = Object) -> Any:
    """Parses JSON and checks its shape.

    Args:
        text: a document; bytes in UTF-8.
        shape: type of the value, such as ``dict[str, str]`` or a TypedDict, whose unnamed keys may be there.

    Returns:
        The value as it stands there.

    Raises:
        ValueError: says what is wrong, and where in the document.
    """
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not valid JSON, {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError("nests too deeply") from None
    except ValueError:
        raise ValueError("a number has too many digits") from None
    check_shape(value, shape)
    return value


def read_json(path: Path, shape: Any = Object) -> Any:
    """Reads a JSON file and checks its shape.

    Args:
        path: the file.
        shape: as of ``parse_json``.

    Returns:
        The value as it stands there.

    Raises:
        OSError: where it cannot be read.
        ValueError: says what is wrong, and where in the file.
    """
    return parse_json(path.read_bytes(), shape)


def check_shape(value: Any, shape: Any) -> None:
    """Checks that a value is of a type.

    Args:
        value: what a file holds.
        shape: as of ``parse_json``.

    Raises:
        ValueError: names the first part that is not, and what it should be.
    """
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key_path = ".".join(map(str, first["loc"]))
        raise ValueError(f"{key_path + ': ' if key_path else ''}{first['msg']}") from None


_adapter = cache(TypeAdapter)


def reason(error: OSError | ValueError) -> str:
    """Explains in a few words why a file could not be read.

    Args:
        error: of ``read_json``.

    Returns:
        The words, on one line.
    """
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())

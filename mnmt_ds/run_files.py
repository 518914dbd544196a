"""What stands in a run's directory, for all who read one without building anything of it."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnmt_ds.config.yaml_values import parse_yaml
from mnmt_ds.files import write_text

RECIPE = "recipe.yaml"
"""The resolved recipe."""
METRICS = "metrics.jsonl"
"""Every record, one JSON object a line."""
SECTIONS = ("data", "model", "train", "method", "sampler", "validation", "denoising", "tracking", "framing")
"""Sections of a recipe that are mappings; what is none is left out."""
LOCK = "lock"
"""Locked by the process that trains."""
_MARK = "# as the run wrote it, SHA-256 of the lines below: "


def write_recipe(run: Path, text: str) -> None:
    """Writes a run's resolved recipe, with a comment that tells whether it was altered since.

    Args:
        run: the run's directory.
        text: YAML.
    """
    write_text(run / RECIPE, f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def recipe_fault(run: Path) -> str | None:
    """Checks whether a run's recipe is still what the run wrote.

    Args:
        run: the run's directory.

    Returns:
        A sentence where it was altered or cannot be read; None also where an earlier version wrote it or there is none.
    """
    path = run / RECIPE
    if not path.exists():
        return None
    first, _, rest = path.read_bytes().partition(b"\n")
    if first.startswith(_MARK.encode()) and first != _MARK.encode() + hashlib.sha256(rest).hexdigest().encode():
        return f"{path}: altered since the run wrote it; its settings may not be those that were trained with"
    if not read_recipe(run):
        return f"{path}: cannot be read; the run's settings are not known"
    return None


def read_recipe(run: Path) -> dict[str, Any]:
    """Reads a run's resolved recipe without checking it.

    Args:
        run: the run's directory.

    Returns:
        Plain values by section; empty where there is no recipe or none that can be read.
    """
    try:
        values = parse_yaml((run / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if name not in SECTIONS or isinstance(value, dict)}


def data_directory(run: Path, recipe: Mapping[str, Any] | None = None) -> Path | None:
    """Finds the prepared corpus of a run.

    Args:
        run: the run's directory.
        recipe: what ``read_recipe`` gave; None: it is read.

    Returns:
        The corpus that the run's recipe names, seen from here or from a directory above the run; None where it is at
        none of these.
    """
    named = ((read_recipe(run) if recipe is None else recipe).get("data") or {}).get("directory")
    if named is None:
        return None
    for base in (Path(), *run.absolute().parents):
        directory = base / str(named)
        if os.path.exists(directory / "manifest.json"):  # false for any name that cannot be one
            return directory
    return None

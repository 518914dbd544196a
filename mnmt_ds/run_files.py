"""What stands in a run's directory, for all who read one without building anything of it."""

from pathlib import Path
from typing import Any

from mnmt_ds.config.yaml_values import parse_yaml

RECIPE = "recipe.yaml"
"""The resolved recipe."""
METRICS = "metrics.jsonl"
"""Every record, one JSON object a line."""
SECTIONS = ("data", "model", "train", "method", "sampler", "validation", "denoising", "tracking", "framing")
"""Sections of a recipe that are mappings; what is none is left out."""
LOCK = "lock"
"""Locked by the process that trains."""


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


def data_directory(run: Path) -> Path | None:
    """Finds the prepared corpus of a run.

    Args:
        run: the run's directory.

    Returns:
        The corpus that the run's recipe names, seen from here or from a directory above the run; None where it is at
        none of these.
    """
    named = (read_recipe(run).get("data") or {}).get("directory")
    if named is None:
        return None
    for base in (Path(), *run.absolute().parents):
        directory = base / str(named)
        if (directory / "manifest.json").exists():
            return directory
    return None

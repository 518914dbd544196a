"""The entries of the registries, and a minimal recipe of each, as the entry itself declares it.

Nothing of the engine is imported here: a method or sampler may be registered after this module is imported.
"""

import copy
from typing import Any, NamedTuple

from mnmt_ds.methods.registry import METHODS
from mnmt_ds.samplers.registry import SAMPLERS

PLAIN_RUN = "{plain_run}"
"""Stands in an example for the directory of a finished plain run."""


class Entry(NamedTuple):
    """An entry of a registry."""

    kind: str
    """method or sampler."""
    name: str

    def __str__(self) -> str:
        """Its id in test names and file names."""
        return f"{self.kind}-{self.name}"


def entries() -> list[Entry]:
    """Lists every method and every sampler that is registered.

    Returns:
        The entries, methods first.
    """
    return [*(Entry("method", name) for name in METHODS), *(Entry("sampler", name) for name in SAMPLERS)]


def sections_of(entry: Entry, plain_run: str) -> dict[str, Any]:
    """Reads the recipe sections of an entry's example.

    Args:
        entry: a method or sampler.
        plain_run: directory of a finished plain run on the same data.

    Returns:
        Recipe sections; the section that names the entry is among them.
    """
    registered: Any = (METHODS if entry.kind == "method" else SAMPLERS)[entry.name]
    sections = filled(copy.deepcopy(dict(registered.example)), plain_run)
    if entry.kind not in sections:
        sections[entry.kind] = {"name": entry.name}
    return dict(sections)


def filled(value: Any, plain_run: str) -> Any:
    """Puts the plain run's directory into all texts of an example.

    Args:
        value: sections, or a part of them.
        plain_run: the directory.

    Returns:
        The same with every ``{plain_run}`` replaced.
    """
    if isinstance(value, str):
        return value.replace(PLAIN_RUN, plain_run)
    if isinstance(value, dict):
        return {key: filled(inner, plain_run) for key, inner in value.items()}
    return [filled(inner, plain_run) for inner in value] if isinstance(value, list | tuple) else value

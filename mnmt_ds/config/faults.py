"""What is wrong with a recipe's values, in one line that names place and remedy."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mnmt_ds.config.sections import sections
from mnmt_ds.config.settings import Settings, settings_classes, tag

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of a recipe to a value."""


def explain(kind: type[Settings], error: ValidationError, where: Mapping[KeyPath, str], path: Path | None) -> str:
    """Describes the first fault of a recipe.

    Args:
        kind: settings class of the whole recipe.
        error: of its validation.
        where: ``file:line`` or override by path of keys.
        path: the recipe's file, for faults without a place.

    Returns:
        One line with place and remedy, and a count of the other faults.
    """
    faults = error.errors()
    fault: Mapping[str, Any] = faults[0]
    keys = _without_tags(tuple(fault["loc"]), where)
    if keys not in where and keys[-1:] == keys[-2:-1]:  # a tag that is the name of the field below it
        keys = keys[:-1]
    tags = {tag(section.kind) for section in sections(kind)}  # without the names that older recipes use
    if keys not in where and keys[-1:] and keys[-1] in tags and isinstance(fault["input"], dict):
        keys = keys[:-1]  # the fault is the section's
    name = ".".join(map(str, keys))
    label = f"{name}: " if name else ""
    at_fault = keys
    if fault["type"] == "extra_forbidden":
        known = _known_keys(kind, tuple(fault["loc"])[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        message = f"unknown key '{name}'; {remedy}"
    elif fault["type"] == "union_tag_invalid":
        at_fault = (*keys, "name")
        known = [value for value in _quoted(fault["ctx"]["expected_tags"]) if value in tags]
        message = _no_such(_noun(kind, keys), fault["ctx"]["tag"], known)
    elif fault["type"] == "union_tag_not_found":
        message = f"{label}'name' is missing; say which it is"
    elif fault["type"] == "literal_error" and isinstance(fault["input"], str):
        message = label + _no_such("value", fault["input"], _quoted(fault["ctx"]["expected"]))
    elif fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = f"{label}takes keys and values, not {fault['input']!r}"
    else:
        reason = fault["msg"].removeprefix("Value error, ")
        message = f"{label}{reason}"
        if "input" in fault and not isinstance(fault["input"], dict | list | BaseModel) and fault["type"] != "missing":
            message += f" (got {fault['input']!r})"
        at_fault = _named_key(keys, reason, where)
    place = next((where[at_fault[:n]] for n in range(len(at_fault), 0, -1) if at_fault[:n] in where), path)
    return f"{place or 'settings'}: {message}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _no_such(noun: str, given: str, known: Sequence[str]) -> str:
    """The message about a name that is not known, with the nearest one."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    names = f"known: {', '.join(known)}"
    return f"no such {noun} '{given}'; " + (f"did you mean '{near[0]}'? ({names})" if near else names)


def _quoted(text: str) -> list[str]:
    """The words in quotes in pydantic's lists."""
    return re.findall(r"'([^']*)'", text)


def _noun(kind: type[Settings], keys: KeyPath) -> str:
    """What a section chosen by ``name`` is: method, sampler, task ...; the outermost such section's key."""
    fields = [field for section in sections(kind) for field in section.kind.model_fields.items()]
    chosen = {name for name, field in fields if len(settings_classes(field.annotation)) > 1}
    return next((str(key).removesuffix("s") for key in keys if key in chosen), "name")


def _named_key(keys: KeyPath, reason: str, where: Mapping[KeyPath, str]) -> KeyPath:
    """The key inside a section that a message about the section names: one that was overridden, else the first."""
    inside = [other for other in where if len(other) == len(keys) + 1 and other[: len(keys)] == keys]
    positions = {key: re.search(rf"\b{re.escape(str(key[-1]))}\b", reason) for key in inside}
    named = [(not where[key].startswith("override"), match.start(), key) for key, match in positions.items() if match]
    return min(named, key=lambda item: item[:2])[2] if named else keys


def _without_tags(loc: KeyPath, where: Mapping[KeyPath, str]) -> KeyPath:
    """A fault's path without the tags that pydantic adds for a union's chosen member."""
    keys: KeyPath = ()
    for n, key in enumerate(loc):
        if (*keys, key) in where or n == len(loc) - 1:
            keys = (*keys, key)
    return keys


def _known_keys(kind: type[Settings], loc: KeyPath) -> list[str]:
    """The fields of the settings class that a fault's path leads to."""
    choices: list[type[Settings]] = [kind]
    for key in loc:
        tagged = [choice for choice in choices if tag(choice) == key]
        fields = [choice.model_fields[key] for choice in choices if key in choice.model_fields]  # type: ignore[index]
        if tagged:
            choices = tagged
        elif fields:
            choices = settings_classes(fields[0].annotation) or choices
    return [name for choice in choices for name in choice.model_fields]

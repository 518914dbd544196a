"""Recipes: defaults < YAML (``extends:`` first) < ``a.b=c`` overrides.

An unknown key, a duplicate key or a value of the wrong kind is a UserError that names file, line and remedy.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mnmt_ds.config.settings import Settings, merged, settings_classes, tag
from mnmt_ds.config.yaml_values import YamlLoader, format_document, parse_yaml
from mnmt_ds.errors import UserError

S = TypeVar("S", bound=Settings)
KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of a recipe to a value."""


def load(kind: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Reads a YAML file, applies overrides and checks all.

    Args:
        kind: settings class of the whole file.
        path: the file; None: defaults alone.
        overrides: such as ``train.max_tokens=512``; the value is YAML.

    Returns:
        The settings.

    Raises:
        UserError: for the first fault, with file, line and remedy.
    """
    where: dict[KeyPath, str] = {}
    values: dict[str, Any] = _read(path, where, ()) if path is not None else {}
    for override in overrides:
        _apply(values, override, where)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(kind, error, where, path)) from None


def key_locations(path: Path) -> dict[KeyPath, str]:
    """Finds where every key of a YAML file, and of those that it extends, stands: for messages about one of them.

    Args:
        path: the file.

    Returns:
        ``file:line`` by path of keys.

    Raises:
        UserError: when a file cannot be read.
    """
    where: dict[KeyPath, str] = {}
    _read(path, where, ())
    return where


def dump(settings: Settings) -> str:
    """Formats settings as YAML that ``load`` reads back to an equal object.

    Args:
        settings: any settings.

    Returns:
        A YAML document with every value.
    """
    return format_document(settings.model_dump(mode="json"))


def _read(path: Path, where: dict[KeyPath, str], seen: tuple[Path, ...]) -> dict[str, Any]:
    """A file's values on top of those that it extends; ``where`` gets the places of all keys."""
    path = path.resolve()
    if path in seen:
        raise UserError(f"{path}:1: 'extends' leads back to this file; remove the cycle")
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML recipe") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the recipe as UTF-8") from None
    try:
        root = yaml.compose(text, Loader=YamlLoader)
        values = _build(root, path, (), where) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem}); mend that line") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: a recipe is a mapping of sections, this is a {type(values).__name__}")
    base = values.pop("extends", None)
    if base is None:
        return values
    inherited: dict[KeyPath, str] = {}
    result = merged(_read(path.parent / str(base), inherited, (*seen, path)), values)
    for keys, place in inherited.items():
        where.setdefault(keys, place)
    return result


def _build(node: yaml.Node, path: Path, keys: KeyPath, where: dict[KeyPath, str]) -> Any:
    """YAML node to plain values, remembering where each key stood; duplicate keys are refused."""
    where[keys] = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                raise UserError(f"{path}:{key_node.start_mark.line + 1}: key '{key}' is given twice; keep one")
            result[key] = _build(value_node, path, (*keys, key), where)
            where[(*keys, key)] = f"{path}:{key_node.start_mark.line + 1}"
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, path, (*keys, i), where) for i, child in enumerate(node.value)]
    return YamlLoader("").construct_object(node)


def _apply(values: dict[str, Any], override: str, where: dict[KeyPath, str]) -> None:
    """Puts an override's value into the tree."""
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"override '{override}': not of the form section.key=value")
    try:
        value = parse_yaml(text) if text else None
    except yaml.YAMLError:
        raise UserError(f"override '{override}': the value is not valid YAML; quote it") from None
    *parents, last = name.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    values[last] = value
    keys = tuple(name.split("."))
    where[keys] = f"override '{override}'"
    for n in range(1, len(keys)):
        where.setdefault(keys[:n], f"override '{override}'")


def _explain(kind: type[Settings], error: ValidationError, where: dict[KeyPath, str], path: Path | None) -> str:
    """One line for the first fault, with a count of the others."""
    faults = error.errors()
    fault = faults[0]
    keys = _without_tags(tuple(fault["loc"]), where)
    if keys not in where and keys[-1:] == keys[-2:-1]:  # a tag that is the name of the field below it
        keys = keys[:-1]
    place = next((where[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in where), str(path or "settings"))
    name = ".".join(map(str, keys))
    if fault["type"] == "extra_forbidden":
        known = _known_keys(kind, tuple(fault["loc"])[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        message = f"{place}: unknown key '{name}'; {remedy}"
    else:
        reason = fault["msg"].removeprefix("Value error, ")
        message = f"{place}: {name + ': ' if name else ''}{reason}"
        if "input" in fault and not isinstance(fault["input"], dict | list | BaseModel) and fault["type"] != "missing":
            message += f" (got {fault['input']!r})"
    return message + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _without_tags(loc: KeyPath, where: dict[KeyPath, str]) -> KeyPath:
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

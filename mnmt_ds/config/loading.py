"""Recipes: defaults < YAML (``extends:`` first) < ``a.b=c`` overrides.

An unknown key, a duplicate key or a value of the wrong kind is a UserError that names file, line and remedy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mnmt_ds.config.faults import KeyPath, explain
from mnmt_ds.config.settings import Settings, merged
from mnmt_ds.config.yaml_values import YamlLoader, format_document, parse_yaml
from mnmt_ds.errors import UserError

S = TypeVar("S", bound=Settings)


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
        raise UserError(explain(kind, error, where, path)) from None


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
    base_path = path.parent / str(base)
    if not base_path.exists():
        raise UserError(f"{where['extends',]}: extends: {base}: no such file; give its path as seen from this recipe")
    inherited: dict[KeyPath, str] = {}
    result = merged(_read(base_path, inherited, (*seen, path)), values)
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
    for replaced in [other for other in where if other[: len(keys)] == keys]:
        del where[replaced]
    where[keys] = f"override '{override}'"
    for n in range(1, len(keys)):
        where.setdefault(keys[:n], f"override '{override}'")

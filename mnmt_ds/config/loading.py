"""Recipes: defaults < YAML (``extends:`` first) < ``a.b=c`` overrides.

An unknown key, a duplicate key or a value of the wrong kind is a UserError that names file, line and remedy.
"""

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from mnmt_ds.config.faults import Fault, KeyPath, find_faults, in_order
from mnmt_ds.config.paths import expanded
from mnmt_ds.config.settings import Settings, merged
from mnmt_ds.config.yaml_values import MAX_CHARACTERS, format_document, parse_yaml, read_yaml
from mnmt_ds.errors import UserError

S = TypeVar("S", bound=Settings)
MAX_FAULTS = 200
"""Faults that are listed; a file with more is another file."""


class Loaded(NamedTuple, Generic[S]):
    """A configuration that was read, and the faults that were found in it."""

    settings: S | None
    """Without the values that are at fault, which have their defaults; None where the others are not enough."""
    faults: list[str]
    """A line each, with file, line and remedy."""
    at_fault: list[KeyPath]
    """Paths of what is at fault, and of what an unknown key may have meant."""


def load(kind: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Reads a YAML file, applies overrides and checks all.

    Args:
        kind: settings class of the whole file.
        path: the file; None: defaults alone.
        overrides: such as ``train.max_tokens=512``; the value is YAML.

    Returns:
        The settings.

    Raises:
        UserError: lists every fault, a line each, with file, line and remedy.
    """
    loaded = load_with_faults(kind, path, overrides)
    if loaded.faults or loaded.settings is None:
        raise UserError(*loaded.faults)
    return loaded.settings


def load_with_faults(
    kind: type[S], path: Path | None, overrides: Sequence[str] = (), needed: Sequence[str] = ()
) -> Loaded[S]:
    """Loads a configuration as ``load`` does, but returns its faults beside the parts that are without fault.

    Args:
        kind: settings class of the whole file.
        path: the file; None: defaults alone.
        overrides: such as ``train.max_tokens=512``; the value is YAML.
        needed: top-level keys that are kept alone, where the file as a whole cannot be made valid.

    Returns:
        Settings and faults.

    Raises:
        UserError: where a file as a whole cannot be read.
    """
    where: dict[KeyPath, str] = {}
    faults: list[Fault] = []
    values: dict[str, Any] = _read(path, where, (), faults) if path is not None else {}
    for override in overrides:
        try:
            _apply(values, override, where)
        except ValueError as error:
            faults.append(Fault(f"override '{override}'", str(error)))
    settings, at_fault = None, list[KeyPath]()
    try:
        settings = kind.model_validate(values)
    except ValidationError:
        new, rest = find_faults(kind, values, where, path)
        faults += new
        at_fault = [keys for fault in new for keys in (*fault.concerns, *fault.meant)]
        settings, replaced = _valid_part(kind, rest, needed)
        at_fault += [(name,) for name in replaced]
    lines = in_order(faults, path)
    more = [f"{path or 'settings'}: {len(lines) - MAX_FAULTS} more faults"] if len(lines) > MAX_FAULTS else []
    return Loaded(settings, [*lines[:MAX_FAULTS], *more], at_fault)


def _valid_part(kind: type[S], values: dict[str, Any], needed: Sequence[str]) -> tuple[S | None, list[str]]:
    """As many of the values as are valid together, and the top-level keys that are not as given.

    Where all are not, what must be given is replaced by its example; then what is not needed is left out.
    """
    examples = {name: field.examples[0] for name, field in kind.model_fields.items() if field.examples}
    required = {name: value for name, value in examples.items() if kind.model_fields[name].is_required()}
    for kept_keys, example_values in itertools.product((kind.model_fields.keys(), needed), ({}, required)):
        kept_values = {name: value for name, value in values.items() if name in kept_keys}
        with contextlib.suppress(ValidationError):
            settings = kind.model_validate(kept_values | example_values)
            return settings, [name for name in kind.model_fields if name not in kept_keys or name in example_values]
    return None, list(kind.model_fields)


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
    _read(path, where, (), [])
    return where


def dump(settings: Settings) -> str:
    """Formats settings as YAML that ``load`` reads back to an equal object.

    Args:
        settings: any settings.

    Returns:
        A YAML document with every value.
    """
    return format_document(settings.model_dump(mode="json"))


def _read(path: Path, where: dict[KeyPath, str], seen: tuple[Path, ...], faults: list[Fault]) -> dict[str, Any]:
    """A file's values on top of those that it extends; ``where`` gets the places of all keys, ``faults`` what is wrong.

    UserError where the file as a whole cannot be read.
    """
    path = path.resolve()
    if path in seen:
        raise UserError(f"{path}:1: 'extends' leads back to this file; remove the cycle")
    places: dict[KeyPath, int] = {}
    faults_before = len(faults)
    values = read_yaml(_text(path), lambda line, message: faults.append(Fault(f"{path}:{line}", message)), places)
    where.update({keys: f"{path}:{line}" for keys, line in places.items()})
    if values is None and len(faults) > faults_before:
        raise UserError(*in_order(faults, path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: a recipe is a mapping of sections, this is a {type(values).__name__}")
    base = values.pop("extends", None)
    if base is None:
        return values
    try:
        base_path = path.parent / str(expanded(base))
    except ValueError as error:
        raise UserError(f"{where['extends',]}: extends: {error}") from None
    if not os.path.exists(base_path):  # false for any name that cannot be one
        raise UserError(f"{where['extends',]}: extends: {base}: no such file; give its path as seen from this recipe")
    inherited: dict[KeyPath, str] = {}
    result = merged(_read(base_path, inherited, (*seen, path), faults), values)
    for keys, place in inherited.items():
        where.setdefault(keys, place)
    return result


def _text(path: Path) -> str:
    """A recipe's text; UserError where it cannot be read, or is none."""
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_CHARACTERS + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML recipe") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte {error.start} is not UTF-8; save the recipe as UTF-8") from None


def _apply(values: dict[str, Any], override: str, where: dict[KeyPath, str]) -> None:
    """Puts an override's value into the tree; ValueError where it is none."""
    name, separator, text = override.partition("=")
    if not separator or not all(name.split(".")):
        raise ValueError("not of the form section.key=value")
    try:
        value = parse_yaml(text) if text else None
    except ValueError as error:
        raise ValueError(f"the value: {error}; quote it where it is text") from None
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

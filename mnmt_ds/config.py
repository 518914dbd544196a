"""Strict settings: defaults < YAML (``extends:`` first) < ``a.b=c`` overrides.

An unknown key, a duplicate key or a value of the wrong kind is a UserError that names file, line and remedy.
Each component's settings class stands beside the component; this file knows none of them.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, model_validator

from mnmt_ds.errors import UserError


class Settings(BaseModel):
    """Base of every settings class: immutable, no unknown key, the docstring under a field is its description.

    Values that are not given are filled once, when a recipe is read: those of a profile by ``released``, those that
    depend on the language pairs by ``resolved``. What a recipe holds afterwards is what a run uses.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, values: Any) -> Any:
        """Other toolkits' names become ours; a setting given under two names is refused."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, field in cls.model_fields.items():
            names = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else ()
            for other in (str(choice) for choice in names if choice != name and choice in values):
                if values.get(name) is not None:
                    raise ValueError(f"'{other}' is another name of '{name}'; give one of them")
                values[name] = values.pop(other)
        return values

    @model_validator(mode="before")
    @classmethod
    def _fill_profile(cls, values: Any) -> Any:
        """Fills what ``profile: released`` sets; null stands for a value that is not given, as in older recipes."""
        if not isinstance(values, dict) or not (released := cls.released(values)):
            return values
        values = {name: value for name, value in values.items() if value is not None or name not in released}
        return merged(released, values) if values.get("profile") == "released" else values

    @classmethod
    def released(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Lists the settings in which the authors' released code departs from their paper.

        Args:
            given: the section's values as they were given; some others may depend on them.

        Returns:
            Their values under ``profile: released``, wherever they are not given.
        """
        return {}

    def resolved(self, pairs: Sequence[str]) -> Self:
        """Fills the values that depend on the language pairs, here and in the settings inside.

        Args:
            pairs: the recipe's language pairs, such as bs-en.

        Returns:
            These settings, complete.
        """
        changes = {name: _resolved(value, pairs) for name, value in self}
        return self.model_copy(update=changes)


def _resolved(value: Any, pairs: Sequence[str]) -> Any:
    """A field's value, with all settings inside resolved."""
    if isinstance(value, Settings):
        return value.resolved(pairs)
    if isinstance(value, tuple | list):
        return type(value)(_resolved(item, pairs) for item in value)
    if isinstance(value, dict):
        return {key: _resolved(item, pairs) for key, item in value.items()}
    return value


S = TypeVar("S", bound=Settings)
Keys = tuple[str | int, ...]


def load(kind: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Reads a YAML file (None: defaults alone), applies overrides such as ``train.max_tokens=512``, and checks all."""
    where: dict[Keys, str] = {}
    values: dict[str, Any] = _read(path, where, ()) if path is not None else {}
    for override in overrides:
        _apply(values, override, where)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(kind, error, where, path)) from None


def places(path: Path) -> dict[Keys, str]:
    """``file:line`` of every key of a YAML file and of those that it extends, for messages about one of them."""
    where: dict[Keys, str] = {}
    _read(path, where, ())
    return where


def dump(settings: Settings) -> str:
    """The settings as YAML that ``load`` reads back to an equal object."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe(kind: type[Settings], indent: str = "") -> list[str]:
    """One line a key: name, default and description; what ``--help-config`` prints."""
    lines: list[str] = []
    for name, field in kind.model_fields.items():
        nested = _settings_classes(field.annotation)
        for inner in nested:
            lines += [f"{indent}{name}:", *describe(inner, indent + "  ")]
        if not nested:
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            lines.append(f"{indent}{name}: {default}   # {' '.join((field.description or '').split())}")
    return lines


class Yaml(yaml.SafeLoader):
    """YAML 1.2's plain scalars: ``no`` is a language and ``off`` a word, not false; 1e-5 is a number, 1:30 is none."""


Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "float", "int")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag_name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag_name}", re.compile(f"^(?:{_pattern})$"), list(_first))


def plain(text: str) -> Any:
    """YAML text to plain values."""
    loader = Yaml(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _read(path: Path, where: dict[Keys, str], seen: tuple[Path, ...]) -> dict[str, Any]:
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
        root = yaml.compose(text, Loader=Yaml)
        values = _build(root, path, (), where) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1 if (error.problem_mark or error.context_mark) else 1
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem}); mend that line") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: a recipe is a mapping of sections, this is a {type(values).__name__}")
    base = values.pop("extends", None)
    if base is None:
        return values
    inherited: dict[Keys, str] = {}
    result = merged(_read(path.parent / str(base), inherited, (*seen, path)), values)
    for keys, place in inherited.items():
        where.setdefault(keys, place)
    return result


def _build(node: yaml.Node, path: Path, keys: Keys, where: dict[Keys, str]) -> Any:
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
    return Yaml("").construct_object(node)


def _apply(values: dict[str, Any], override: str, where: dict[Keys, str]) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"override '{override}': not of the form section.key=value")
    try:
        value = plain(text) if text else None
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


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Merges two trees of values.

    Args:
        base: values by key.
        top: values that win, key by key at every level.

    Returns:
        A new tree.
    """
    result = dict(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            value = merged(result[key], value)
        result[key] = value
    return result


def _explain(kind: type[Settings], error: ValidationError, where: dict[Keys, str], path: Path | None) -> str:
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


def _without_tags(loc: Keys, where: dict[Keys, str]) -> Keys:
    """A fault's path without the tags that pydantic adds for a union's chosen member."""
    keys: Keys = ()
    for n, key in enumerate(loc):
        if (*keys, key) in where or n == len(loc) - 1:
            keys = (*keys, key)
    return keys


def _known_keys(kind: type[Settings], loc: Keys) -> list[str]:
    """The fields of the settings class that a fault's path leads to."""
    choices: list[type[Settings]] = [kind]
    for key in loc:
        tagged = [choice for choice in choices if _tag(choice) == key]
        fields = [choice.model_fields[key] for choice in choices if key in choice.model_fields]  # type: ignore[index]
        if tagged:
            choices = tagged
        elif fields:
            choices = _settings_classes(fields[0].annotation) or choices
    return [name for choice in choices for name in choice.model_fields]


def _tag(kind: type[Settings]) -> object:
    return kind.model_fields["name"].default if "name" in kind.model_fields else None


def _settings_classes(annotation: Any) -> list[type[Settings]]:
    """The Settings classes inside an annotation such as ``X``, ``X | Y``, ``list[X]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Settings) else []
    return [found for argument in get_args(annotation) for found in _settings_classes(argument)]

"""Settings as commented YAML: what ``--help-config`` prints, and what a person can copy as a recipe."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mnmt_ds.config.ranges import LARGE, range_text
from mnmt_ds.config.sections import example_of, instance_of, member_of
from mnmt_ds.config.settings import Settings, aliases, settings_classes, tag
from mnmt_ds.config.yaml_values import format_value

WIDTH = 110
"""Columns of a comment at most."""


def help_yaml(kind: type[Settings], path: str = "", noun: str = "recipe") -> str:
    """Writes a recipe, or one section of it, as YAML with every default and its meaning.

    Args:
        kind: the recipe's class.
        path: dotted path of a section or of one key; empty: everything. Other methods, samplers and sections that are
            absent by default then follow as comments under headings of their own.
        noun: what the whole is called in its first line.

    Returns:
        Valid YAML that loads to the defaults, with a final line end.

    Raises:
        UserError: when the path leads nowhere.
    """
    if path:
        return "\n".join(_path_lines(kind, path.split("."), path, "")) + "\n"
    head = [
        f"# A {noun} with every default. Keep what you change: a value that is given wins over presets and profiles."
    ]
    return "\n".join([*head, *_field_lines(instance_of(kind), "", alternatives=True)]) + "\n"


def _path_lines(kind: type[Settings], keys: Sequence[str], path: str, indent: str) -> list[str]:
    """The section at the end of a path, inside the keys that lead to it."""
    field, member, rest = member_of(kind, list(keys), path)
    name, value = keys[0], _shown(kind, keys[0])
    tagged = member is not None and len(settings_classes(field.annotation)) > 1
    comment = _comment(summary_of(member) if tagged and member else description_of(field), indent)
    if member is None or (len(keys) == 1 and _holds_settings(value)):
        return [*comment, *_entry(name, value, indent), *(_alternatives(kind, name, value) if len(keys) == 1 else [])]
    lines = [*(comment if not rest else []), f"{indent}{name}:"]
    wrappers = _wrappers(field.annotation, value)
    for wrapper in wrappers:
        indent += "  "
        lines.append(f"{indent}{wrapper}")
    indent += "  "
    if not rest:
        return lines + _field_lines(_instance(kind, name, member), indent)
    is_item = not tagged and "-" in wrappers  # an item of a list has no other place where the rest of it stands
    needed = {key: value for key, value in example_of(member).items() if key != rest[0]} if is_item else {}
    lines += [f"{indent}name: {tag(member)}"] if tagged else []
    lines += [line for key, value in needed.items() for line in _entry(key, value, indent)]
    return lines + _path_lines(member, rest, path, indent)


def _field_lines(settings: Settings, indent: str, alternatives: bool = False) -> list[str]:
    """All fields of a section, ``name`` first."""
    kind = type(settings)
    lines: list[str] = []
    for name, field in sorted(kind.model_fields.items(), key=lambda item: item[0] != "name"):
        lines += _comment(description_of(field), indent)
        lines += _entry(name, getattr(settings, name), indent)
        if alternatives:
            lines += _alternatives(kind, name, getattr(settings, name))
    return lines


def _entry(name: str, value: Any, indent: str) -> list[str]:
    """A key with its value, over several lines where settings are inside."""
    if not _holds_settings(value):
        return [f"{indent}{format_value(name)}: {format_value(_plain(value))}"]
    return [f"{indent}{format_value(name)}:", *_nested(value, indent + "  ")]


def _nested(value: Any, indent: str) -> list[str]:
    """Settings, or a dict or list with settings inside."""
    if isinstance(value, Settings):
        return _field_lines(value, indent)
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _entry(str(key), item, indent)]
    return [line for item in value for line in [f"{indent}-", *_nested(item, indent + "  ")]]


def _alternatives(kind: type[Settings], name: str, value: Any) -> list[str]:
    """What a field of the whole recipe may hold instead, as comments under headings."""
    members = settings_classes(kind.model_fields[name].annotation)
    others = [member for member in members if len(members) > 1 and not isinstance(value, member)]
    blocks = [_path_lines(kind, [name, str(tag(member))], name, "") for member in others]
    if members and not others and not value:
        blocks.append(_path_lines(kind, [name], name, ""))
    titles = [f"{name}.{tag(member)}" for member in others] or [name]
    lines: list[str] = []
    for title, block in zip(titles, blocks, strict=False):
        lines += ["", f"# ---- {title} ----", *(f"# {line}" for line in block)]
    return [*lines, ""] if lines else []


def _wrappers(annotation: Any, shown: Any) -> list[str]:
    """The lines between a field's key and the settings in its value: keys of dicts, dashes of lists."""
    origin = get_origin(annotation)
    if origin is dict:
        key, item = next(iter(shown.items())) if shown else ("NAME", None)
        return [f"{format_value(str(key))}:", *_wrappers(get_args(annotation)[1], item)]
    if origin in (list, tuple):
        return ["-", *_wrappers(get_args(annotation)[0], shown[0] if shown else None)]
    return []


def _shown(kind: type[Settings], name: str) -> Any:
    """A field's default, or its example where the default is empty or absent."""
    field = kind.model_fields[name]
    value = getattr(instance_of(kind), name)
    if value or not field.examples:
        return value
    return getattr(instance_of(kind, **{name: field.examples[0]}), name)


def _instance(kind: type[Settings], name: str, member: type[Settings]) -> Settings:
    """A member's settings: as the field's default or example has them, else from the member's own defaults."""
    values = list(_inside(_shown(kind, name)))
    return next((value for value in values if type(value) is member), None) or instance_of(member)


def _inside(value: Any) -> Iterable[Settings]:
    """The settings in a field's value."""
    if isinstance(value, Settings):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _inside(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _inside(item)


def _holds_settings(value: Any) -> bool:
    """Whether settings are in a field's value."""
    return next(iter(_inside(value)), None) is not None


def _plain(value: Any) -> Any:
    """A field's value without settings inside, as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def summary_of(kind: type[Settings]) -> str:
    """Returns the first paragraph of a section's docstring.

    Args:
        kind: the section's class.

    Returns:
        One line.
    """
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def description_of(field: FieldInfo) -> str:
    """Describes a field: its meaning, its values where that does not name them all, its other names.

    Args:
        field: a field of a settings class.

    Returns:
        One paragraph with the range of a number, which ends with "Required." where the field must be given.
    """
    text = " ".join((field.description or "").split())
    if not text and (members := settings_classes(field.annotation)):
        text = summary_of(members[0])
    values = [str(value) for value in _literals(field.annotation)]
    if len(values) > 1 and not set(values) <= set(re.findall(r"[\w.-]*\w", text)):
        text += f" One of {', '.join(values)}."
    allowed = range_text(field, below=LARGE)
    text += f" {allowed[0].upper()}{allowed[1:]}." if allowed else ""
    others = aliases("", field)[1:]
    text += f" Also called {', '.join(others)}." if others else ""
    return text + (" Required." if field.is_required() else "")


def _literals(annotation: Any) -> tuple[Any, ...]:
    """The values of the Literal in an annotation."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((values for argument in get_args(annotation) if (values := _literals(argument))), ())


def _comment(text: str, indent: str) -> list[str]:
    """A meaning as comment lines."""
    return [f"{indent}# {line}" for line in textwrap.wrap(text, WIDTH - len(indent), break_on_hyphens=False)]

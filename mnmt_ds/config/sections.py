"""The sections of a recipe by their dotted paths, such as ``train``, ``method.lssd`` or ``data.corpora``."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from mnmt_ds.config.settings import Settings, merged, settings_classes, tag
from mnmt_ds.errors import UserError


class Section(NamedTuple):
    """A settings class and the place where a recipe holds it."""

    path: str
    """Dotted path; empty: the whole recipe. Members of a union are told apart by their ``name``: method.lssd."""
    kind: type[Settings]
    """Its class."""


class ListedElsewhere:
    """Marks a field whose settings class is listed where another field has it."""


def sections(kind: type[Settings]) -> list[Section]:
    """Lists every settings class of a recipe once, each where it is met first.

    Args:
        kind: the recipe's class.

    Returns:
        Sections, the whole recipe first, those that lie deeper later.
    """
    result = [Section("", kind)]
    for path, outer in result:  # grows on the way: what lies less deep comes first
        for name, field in outer.model_fields.items():
            is_elsewhere = any(isinstance(mark, ListedElsewhere) for mark in field.metadata)
            members = [] if is_elsewhere else settings_classes(field.annotation)
            for member in members:
                inner = f"{path}.{name}" if path else name
                if member not in [section.kind for section in result]:
                    result.append(Section(f"{inner}.{tag(member)}" if len(members) > 1 else inner, member))
    return result


def example_of(kind: type[Settings]) -> dict[str, Any]:
    """Returns the smallest set of values with which a section is valid.

    Args:
        kind: the section's class.

    Returns:
        The class's ``example``, and an example of each field without a default.
    """
    required = {name: field.examples[0] for name, field in kind.model_fields.items()
                if field.is_required() and field.examples}  # fmt: skip
    return merged(required, kind.example)


def instance_of(kind: type[Settings], **values: Any) -> Settings:
    """Makes settings from defaults and examples.

    Args:
        kind: a settings class.
        values: further values.

    Returns:
        The settings.
    """
    return kind.model_validate(merged(example_of(kind), values))


def member_of(kind: type[Settings], keys: list[str], path: str) -> tuple[FieldInfo, type[Settings] | None, list[str]]:
    """Follows a section's path by one field.

    Args:
        kind: the class to start from.
        keys: what is left of the path, at least one key.
        path: the whole path, for the message.

    Returns:
        The field; the settings class in it that the path leads to, None where it leads to a value; the keys left.

    Raises:
        UserError: when the class has no such field, or the field no such member.
    """
    name, *rest = keys
    if name not in kind.model_fields:
        deeper = [section.path for section in sections(kind)] if path == ".".join(keys) else []
        raise unknown_section(path, name, list(kind.model_fields), deeper)
    field = kind.model_fields[name]
    members = settings_classes(field.annotation)
    if not members or not rest:
        if rest:
            raise UserError(f"--help-config {path}: {name} has no section inside; leave out '.{'.'.join(rest)}'")
        return field, members[0] if len(members) == 1 else None, rest
    if len(members) == 1:
        return field, members[0], rest
    by_tag = {tag(member) or "": member for member in members}
    if rest[0] not in by_tag:
        before = path.removesuffix(".".join(keys))
        raise unknown_section(path, rest[0], [f"{before}{name}.{valid_tag}" for valid_tag in by_tag])
    return field, by_tag[rest[0]], rest[1:]


def unknown_section(path: str, key: str, valid_names: list[str], deeper: Sequence[str] = ()) -> UserError:
    """Makes the error for a path that leads nowhere.

    Args:
        path: what the user gave.
        key: the key of it that is not known.
        valid_names: names that would be right at that place.
        deeper: paths of sections whose last key may be what was meant.

    Returns:
        The error, with the nearest name or all of them.
    """
    names = {name.rpartition(".")[2]: name for name in [*reversed(deeper), *valid_names]}
    near = [
        match for word in (key, path.rpartition(".")[2])
        for match in difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    ]  # fmt: skip
    remedy = f"did you mean '{names[near[0]]}'?" if near else f"known here: {', '.join(valid_names)}"
    return UserError(f"--help-config {path}: no such section; {remedy}")

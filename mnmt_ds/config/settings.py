"""The base of every settings class, and what can be asked of such a class."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo


class PaperDifference(NamedTuple):
    """Difference of a setting to a paper and its released code: a row of docs/paper_differences.md."""

    paper: str = ""
    """What the paper says; empty: the default is the paper's."""
    released: str = ""
    """What the released code or its scripts do, beside the value of ``profile: released``; empty: the same."""
    why: str = ""
    """Why the default is what it is."""


class Settings(BaseModel):
    """Base of every settings class: immutable, no unknown key, the docstring under a field is its description.

    Values that are not given are filled once, when a recipe is read: those of a profile by ``released``, those that
    depend on the language pairs by ``resolved``. What a recipe holds afterwards is what a run uses.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True, validate_default=True,
        allow_inf_nan=False,
    )  # fmt: skip
    example: ClassVar[dict[str, Any]] = {}
    """Values with which ``--help-config`` shows a section whose defaults alone are not valid."""
    released_values: ClassVar[Mapping[str, Any]] = {}
    """What ``profile: released`` sets, where it does not depend on other values."""
    later: ClassVar[tuple[str, ...]] = ()
    """Settings of the profile that came after version 0.1.0. A section that has a value for every other key was written
    out by a run, which goes on with their defaults."""
    differences: ClassVar[Mapping[str, PaperDifference]] = {}
    """By setting, where paper, released code and default are not alike."""

    @model_validator(mode="before")
    @classmethod
    def _rename_aliases(cls, values: Any) -> Any:
        """Other toolkits' names become ours; a setting given under two names is refused."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, field in cls.model_fields.items():
            for alias in (alias for alias in aliases(name, field) if alias in values):
                if values.get(name) is not None:
                    raise ValueError(f"'{alias}' is another name of '{name}'; give one of them")
                values[name] = values.pop(alias)
        return values

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_as_numbers(cls, values: Any) -> Any:
        """pydantic takes true for 1; a person who writes it means something else."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if field is not None and _holds_truth_value(value) and _is_number(field.annotation):
                raise ValueError(f"{name} takes a number, not true or false")
        return values

    @model_validator(mode="before")
    @classmethod
    def _fill_profile(cls, values: Any) -> Any:
        """Fills what ``profile: released`` sets; null stands for a value that is not given, as in older recipes."""
        if not isinstance(values, dict) or not (released := cls.released(values)):
            return values
        values = {name: value for name, value in values.items() if value is not None or name not in released}
        return cls.with_released(values) if values.get("profile") == "released" else values

    @classmethod
    def with_released(cls, explicit: dict[str, Any]) -> dict[str, Any]:
        """Fills the settings that are not given with the values of ``profile: released``.

        Args:
            explicit: the section's values as they were given.

        Returns:
            These, and the profile's where none is given.
        """
        written_out = cls.model_fields.keys() - set(cls.later) <= explicit.keys()
        released = cls.released(explicit)
        return merged({k: v for k, v in released.items() if not (written_out and k in cls.later)}, explicit)

    @classmethod
    def released(cls, explicit: Mapping[str, Any]) -> dict[str, Any]:
        """Lists the settings in which the authors' released code departs from their paper.

        Args:
            explicit: the section's values as they were given; some others may depend on them.

        Returns:
            Their values under ``profile: released``, wherever they are not given.
        """
        return dict(cls.released_values)

    def resolved(self, pairs: Sequence[str]) -> Self:
        """Fills the values that depend on the language pairs, here and in the settings inside.

        Args:
            pairs: the recipe's language pairs, such as bs-en.

        Returns:
            These settings, complete.
        """
        changes = {name: _resolved(value, pairs) for name, value in self}
        return self.model_copy(update=changes)


def _holds_truth_value(value: Any) -> bool:
    """Whether a value is true or false, or a list or dict with one inside."""
    if isinstance(value, dict | list | tuple):
        return any(map(_holds_truth_value, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


def _is_number(annotation: Any) -> bool:
    """Whether an annotation takes numbers, alone or in a list or dict, and neither truth values nor settings."""
    if get_args(annotation):
        kinds = {leaf for argument in get_args(annotation) for leaf in _leaves(argument)}
        return bool(kinds & {int, float}) and bool not in kinds and not settings_classes(annotation)
    return annotation in (int, float)


def _leaves(annotation: Any) -> list[Any]:
    """The plain types in an annotation."""
    inner = get_args(annotation)
    return [leaf for argument in inner for leaf in _leaves(argument)] if inner else [annotation]


def _resolved(value: Any, pairs: Sequence[str]) -> Any:
    """A field's value, with all settings inside resolved."""
    if isinstance(value, Settings):
        return value.resolved(pairs)
    if isinstance(value, tuple | list):
        return type(value)(_resolved(item, pairs) for item in value)
    if isinstance(value, dict):
        return {key: _resolved(item, pairs) for key, item in value.items()}
    return value


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Merges two trees of values; the second one's values win.

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


def aliases(name: str, field: FieldInfo) -> list[str]:
    """Lists a field's names in other toolkits.

    Args:
        name: the field's own name.
        field: the field.

    Returns:
        The other names that a recipe may give it.
    """
    choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else ()
    return [str(choice) for choice in choices if choice != name]


def settings_classes(annotation: Any) -> list[type[Settings]]:
    """Finds the settings classes inside an annotation such as ``X``, ``X | Y``, ``list[X]`` or ``dict[str, X]``.

    Args:
        annotation: a field's annotation.

    Returns:
        The classes, in the annotation's order.
    """
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Settings) else []
    return [kind for argument in get_args(annotation) for kind in settings_classes(argument)]


def tag(kind: type[Settings]) -> str | None:
    """Returns the value of ``name`` that tells a class apart from the others of a union.

    Args:
        kind: a settings class.

    Returns:
        The default of its ``name``; None where it has no such field.
    """
    return str(kind.model_fields["name"].default) if "name" in kind.model_fields else None

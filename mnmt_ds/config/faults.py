"""What is wrong with a recipe's values: every fault in one line that names place and remedy."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mnmt_ds.config.ranges import range_text, special_values
from mnmt_ds.config.sections import sections
from mnmt_ds.config.settings import Settings, aliases, settings_classes, tag

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of a recipe to a value."""
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
"""pydantic's types of faults of numbers."""
MAX_VALUE = 80
"""Characters of a wrong value that are shown."""
MAX_ROUNDS = 50
"""Times that what is left of a recipe is checked again; each round finds what the faults before it hid."""


class Fault(NamedTuple):
    """One fault of a configuration, with the place where it is."""

    place: str
    """``file:line``, or the override."""
    message: str
    """What, and what to do."""
    concerns: tuple[KeyPath, ...] = ()
    """The values that it is about; checks that need them cannot be made."""
    is_of_section: bool = False
    """Whether it was found by a check of a section as a whole, which sees several values."""
    meant: tuple[KeyPath, ...] = ()
    """The values that were meant by a key that is not known."""

    def __str__(self) -> str:
        """The line that a user reads."""
        return f"{self.place}: {self.message}"


def in_order(faults: Iterable[Fault], path: Path | None) -> list[str]:
    """Sorts faults into the order in which a reader meets them.

    Args:
        faults: of a recipe, those that it extends, and overrides.
        path: the recipe's file.

    Returns:
        Lines: those of the file by line, then those of the files that it extends, then those of overrides; each once.
    """

    def key(fault: Fault) -> tuple[int, str, int]:
        if fault.place.startswith("override "):
            return 2, "", 0
        file, _, line = fault.place.rpartition(":")
        name = file if line.isdigit() else fault.place
        return int(path is None or Path(name) != path.resolve()), name, int(line) if line.isdigit() else 0

    return list(dict.fromkeys(str(fault) for fault in sorted(faults, key=key)))


def find_faults(
    kind: type[Settings], values: dict[str, Any], where: Mapping[KeyPath, str], path: Path | None
) -> tuple[list[Fault], dict[str, Any]]:
    """Lists every fault of a recipe's values.

    What is at fault is left out and the rest checked again, until nothing more is found: so the checks of a section as
    a whole are made, too, except where they are about a value that is at fault already.

    Args:
        kind: settings class of the whole recipe.
        values: the recipe's values, at least one of which is wrong.
        where: ``file:line`` or override by path of keys.
        path: the recipe's file, for faults without a place.

    Returns:
        The faults, each once; and the values without those at fault.
    """
    faults: list[Fault] = []
    left_out: set[KeyPath] = set()
    for _ in range(MAX_ROUNDS):
        try:
            kind.model_validate(values)
            break
        except ValidationError as error:
            new = list(_explained(kind, error, where, path))
        faults += [fault for fault in new if not _follows(fault, left_out)]
        concerned = {keys for fault in new for keys in fault.concerns} - left_out
        values = _without(values, concerned)
        left_out |= concerned
        if not concerned:
            break
    return faults, values


def _follows(fault: Fault, left_out: Iterable[KeyPath]) -> bool:
    """Whether a fault may only be there because values were left out."""
    names = [str(keys[-1]) for keys in left_out]
    return fault.is_of_section and any(re.search(rf"\b{re.escape(name)}\b", fault.message) for name in names)


def _without(values: Any, paths: Iterable[KeyPath], keys: KeyPath = ()) -> Any:
    """A tree of values without those at some paths."""
    paths = set(paths)
    if isinstance(values, dict):
        return {key: _without(value, paths, (*keys, key)) for key, value in values.items() if (*keys, key) not in paths}
    if isinstance(values, list):
        return [_without(value, paths, (*keys, n)) for n, value in enumerate(values)]
    return values


def _explained(
    kind: type[Settings], error: ValidationError, where: Mapping[KeyPath, str], path: Path | None
) -> Iterator[Fault]:
    """The faults that one check found; of a value that may be one of several kinds, the first."""
    seen = set()
    for details in error.errors(include_url=False):
        keys = _keys_of(kind, details, where)
        if details["type"] == "extra_forbidden" or keys not in seen:
            seen.add(keys)
            yield _fault(kind, details, keys, where, path)


def _fault(
    kind: type[Settings], details: Mapping[str, Any], keys: KeyPath, where: Mapping[KeyPath, str], path: Path | None
) -> Fault:
    """One fault of a value or of a section."""
    name = ".".join(map(str, keys))
    label = f"{name}: " if name else ""
    input_value, fault_type = details.get("input"), details["type"]
    tags = {tag(section.kind) for section in sections(kind)}  # without the names that older recipes use
    at_fault, concerns, is_of_section = keys, tuple(filter(None, [_value_path(keys)])), False
    meant: tuple[KeyPath, ...] = ()
    if fault_type == "extra_forbidden":
        valid_names = [name for choice in _classes_at(kind, tuple(details["loc"])[:-1]) for name in choice.model_fields]
        near = difflib.get_close_matches(str(keys[-1]), valid_names, n=1, cutoff=0.5)
        meant = tuple((*keys[:-1], name) for name in near)
        remedy = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(valid_names))}"
        message = f"unknown key '{shortened(name)}'; {remedy}"
    elif fault_type == "union_tag_invalid":
        at_fault = (*keys, "name")
        valid_names = [value for value in _quoted(details["ctx"]["expected_tags"]) if value in tags]
        message = _no_such(_noun(kind, keys), details["ctx"]["tag"], valid_names)
    elif fault_type == "union_tag_not_found":
        message = f"{label}'name' is missing; say which it is"
    elif fault_type == "literal_error" and isinstance(input_value, str):
        message = label + _no_such("value", input_value, _quoted(details["ctx"]["expected"]))
    elif fault_type in ("model_type", "model_attributes_type", "dict_type"):
        message = f"{label}takes keys and values, not {shortened(repr(input_value))}"
    elif fault_type in OUT_OF_RANGE:
        message = f"{label}must be {_range(kind, details)}, not {shortened(str(input_value))}{_remedy(kind, details)}"
    else:
        reason = details["msg"].removeprefix("Value error, ")
        message = f"{label}{reason}"
        is_of_section = fault_type == "missing" or isinstance(input_value, dict | BaseModel)
        if input_value is not None and not isinstance(input_value, dict | list | BaseModel) and fault_type != "missing":
            message += f" (got {shortened(repr(input_value))})"
        if is_of_section:
            named = _named_keys(keys, reason, where)
            at_fault = named[0] if named else keys
            concerns = tuple(named) or concerns
    place = next((where[at_fault[:n]] for n in range(len(at_fault), 0, -1) if at_fault[:n] in where), None)
    return Fault(str(place or path or "settings"), message, concerns, is_of_section, meant)


def shortened(text: str) -> str:
    """Shortens what a user gave, for messages.

    Args:
        text: any text.

    Returns:
        Its start and "…" where it is long.
    """
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"


def _range(kind: type[Settings], details: Mapping[str, Any]) -> str:
    """The range of a number in words."""
    field = _field_at(kind, tuple(details["loc"]))
    bounds = [f"{word} {details['ctx'][key]}" for key, word in
              (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
              if key in details.get("ctx", {})]  # fmt: skip
    return (range_text(field) if field is not None else "") or " and ".join(bounds) or "a finite number"


def _remedy(kind: type[Settings], details: Mapping[str, Any]) -> str:
    """What single values of a number mean, such as 0: what a user of another toolkit may look for."""
    field = _field_at(kind, tuple(details["loc"]))
    meaning = special_values(field) if field is not None else ""
    return f" ({meaning})" if meaning else ""


def _no_such(noun: str, name: str, valid_names: Sequence[str]) -> str:
    """The message about a name that is not known, with the nearest one."""
    near = difflib.get_close_matches(name, valid_names, n=1, cutoff=0.5) if len(name) <= MAX_VALUE else []
    names = f"known: {', '.join(valid_names)}"
    message = f"no such {noun} '{shortened(name)}'; "
    return message + (f"did you mean '{near[0]}'? ({names})" if near else names)


def _quoted(text: str) -> list[str]:
    """The words in quotes in pydantic's lists."""
    return re.findall(r"'([^']*)'", text)


def _noun(kind: type[Settings], keys: KeyPath) -> str:
    """What a section chosen by ``name`` is: method, sampler, task ...; the outermost such section's key."""
    fields = [field for section in sections(kind) for field in section.kind.model_fields.items()]
    chosen = {name for name, field in fields if len(settings_classes(field.annotation)) > 1}
    return next((str(key).removesuffix("s") for key in keys if key in chosen), "name")


def _named_keys(keys: KeyPath, reason: str, where: Mapping[KeyPath, str]) -> list[KeyPath]:
    """The keys inside a section that a message about it names: those that were overridden, then in its order."""
    inside = [other for other in where if len(other) == len(keys) + 1 and other[: len(keys)] == keys]
    positions = {key: re.search(rf"\b{re.escape(str(key[-1]))}\b", reason) for key in inside}
    named = [(not where[key].startswith("override"), match.start(), key) for key, match in positions.items() if match]
    return [key for _, _, key in sorted(named, key=lambda item: item[:2])]


def _value_path(keys: KeyPath) -> KeyPath:
    """The path of a value that can be left out: of a list the whole, since its other items would move."""
    while keys and isinstance(keys[-1], int):
        keys = keys[:-1]
    return keys


def _keys_of(kind: type[Settings], details: Mapping[str, Any], where: Mapping[KeyPath, str]) -> KeyPath:
    """The path of what is at fault as the recipe has it: without the tags that pydantic adds, under the name given."""
    loc: KeyPath = tuple(details["loc"])
    keys: KeyPath = ()
    for n, key in enumerate(loc):
        choices = _classes_at(kind, loc[:n])
        is_tag = len(choices) > 1 and any(tag(choice) == key for choice in choices)
        if is_tag and not (loc[n - 1] in _names_at(kind, loc[: n - 1]) and _is_mapping(_field_at(kind, loc[:n]))):
            continue  # a tag, also where a field inside has its name
        field = _field_at(kind, loc[: n + 1])
        names = [key, *(aliases(str(key), field) if field is not None else [])]
        names_in_file = [name for name in names if (*keys, name) in where]
        if names_in_file or (n == len(loc) - 1 and details["type"] in ("missing", "extra_forbidden")):
            keys = (*keys, names_in_file[0] if names_in_file else key)
        elif n == len(loc) - 1 and (field is not None and key in _names_at(kind, loc[:n])):
            keys = (*keys, key)
    return keys


def _names_at(kind: type[Settings], loc: KeyPath) -> set[str]:
    """The names of the fields of the settings classes at a fault's path."""
    return {name for choice in _classes_at(kind, loc) for name in choice.model_fields}


def _classes_at(kind: type[Settings], loc: KeyPath) -> list[type[Settings]]:
    """The settings classes that a fault's path leads to, or through to a value."""
    return _follow(kind, loc)[0]


def _field_at(kind: type[Settings], loc: KeyPath) -> FieldInfo | None:
    """The field whose value, or part of a value, a fault's path leads to."""
    return _follow(kind, loc)[1]


def _is_mapping(field: FieldInfo | None) -> bool:
    """Whether a field's value is a mapping with keys of the user's own."""
    return field is not None and get_origin(field.annotation) in (dict, Mapping)


def _follow(kind: type[Settings], loc: KeyPath) -> tuple[list[type[Settings]], FieldInfo | None]:
    choices: list[type[Settings]] = [kind]
    field: FieldInfo | None = None
    is_mapping_key = False
    for key in loc:
        if is_mapping_key:  # whatever it is called
            is_mapping_key = False
            continue
        tagged = [choice for choice in choices if tag(choice) == key]
        fields = [choice.model_fields[key] for choice in choices if key in choice.model_fields]  # type: ignore[index]
        if fields and not (tagged and len(choices) > 1):
            field = fields[0]
            choices = settings_classes(field.annotation) or choices
            is_mapping_key = _is_mapping(field)
        elif tagged:
            choices = tagged
    return choices, field

"""Reference pages of settings: one table a section, an anchor a key."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mnmt_ds.config.help_text import description_of, summary_of
from mnmt_ds.config.sections import Section, instance_of, sections
from mnmt_ds.config.settings import Settings, settings_classes, tag
from mnmt_ds.config.yaml_values import format_value


class Column(NamedTuple):
    """An additional column of the settings tables."""

    title: str
    """Its head."""
    cell: Callable[[str, str], str]
    """From a section's path and a key to what stands there."""


def settings_pages(kind: type[Settings], prefix: str = "", extra: Column | None = None) -> list[str]:
    """Writes the reference of all sections of a recipe.

    Args:
        kind: the recipe's class.
        prefix: what the anchors begin with.
        extra: a further column, before the meanings; None: none.

    Returns:
        Lines of Markdown: a heading and a table for each section.
    """
    listed = sections(kind)
    paths = {section.kind: section.path for section in listed}
    return [line for section in listed for line in _section(section, paths, prefix, extra)]


def _section(section: Section, paths: dict[type[Settings], str], prefix: str, extra: Column | None) -> Iterator[str]:
    """One section's heading, first paragraph and table."""
    yield f'<a id="{prefix}{section.path or "top"}"></a>'
    yield f"## {section.path or 'Top level'}"
    yield ""
    yield escape(summary_of(section.kind))
    yield ""
    titles = ["key", "default", *([extra.title] if extra else []), "meaning"]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    values = instance_of(section.kind).model_dump(mode="json")
    released = section.kind.released({})
    for name, field in sorted(section.kind.model_fields.items(), key=lambda item: item[0] != "name"):
        key = f"{section.path}.{name}" if section.path else name
        default = "" if field.is_required() else f"`{escape(format_value(values[name]))}`"
        if links := [_link(member, name, paths, prefix) for member in settings_classes(field.annotation)]:
            absent = f"{default}; " if values[name] in (None, [], {}) and default else ""
            default = absent + "see " + ", ".join(links)
        elif name in released and released[name] != values[name]:
            default += f"; released `{escape(format_value(released[name]))}`"
        anchor = "" if key in paths.values() else f'<a id="{prefix}{key}"></a>'  # a section has its own
        cells = [f"{anchor}`{name}`", default, *([extra.cell(section.path, name)] if extra else [])]
        yield f"| {' | '.join([*cells, escape(description_of(field))])} |"
    yield ""


def _link(member: type[Settings], name: str, paths: dict[type[Settings], str], prefix: str) -> str:
    """A link to the section of a class."""
    return f"[{tag(member) or name}](#{prefix}{paths[member]})"


def escape(text: str) -> str:
    """Writes text so that it stands in a Markdown table as it is.

    Args:
        text: one line; code between double backquotes.

    Returns:
        The line, code between single backquotes.
    """
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")

"""All methods by name: a new one is a file beside this, one line here, and a recipe."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mnmt_ds.config import Settings
from mnmt_ds.objectives.lssd import LssdSettings, lssd
from mnmt_ds.objectives.method import Context, Method
from mnmt_ds.objectives.translation import TranslationSettings, translation


class Entry(NamedTuple):
    """A method's settings (with a ``name`` of the method's) and the function that builds it."""

    settings: type[Settings]
    build: Callable[[Any, Context], Method]


METHODS: dict[str, Entry] = {
    "translation": Entry(TranslationSettings, translation),
    "lssd": Entry(LssdSettings, lssd),
}


def build(settings: Settings, context: Context) -> Method:
    """The method that the recipe's ``method:`` section asks for."""
    return METHODS[settings.name].build(settings, context)  # type: ignore[attr-defined]

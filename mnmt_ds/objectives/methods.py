"""All methods by name: a new one is a file beside this, one line here, and a recipe."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mnmt_ds.config import Settings
from mnmt_ds.objectives.lssd import LssdSettings, lssd
from mnmt_ds.objectives.method import Context, Method
from mnmt_ds.objectives.pareto import ParetoSettings, pareto
from mnmt_ds.objectives.pareto import check as check_pareto
from mnmt_ds.objectives.peers import Facts
from mnmt_ds.objectives.translation import TranslationSettings, translation


def anything(settings: Any, facts: Facts) -> None:
    """The ``check`` of a method that runs on any data."""


class Entry(NamedTuple):
    """A method's settings (with a ``name`` of the method's) and the function that builds it."""

    settings: type[Settings]
    build: Callable[[Any, Context], Method]
    check: Callable[[Any, Facts], None] = anything
    """UserError where the method cannot run on these students and pairs."""


METHODS: dict[str, Entry] = {
    "translation": Entry(TranslationSettings, translation),
    "lssd": Entry(LssdSettings, lssd),
    "pareto": Entry(ParetoSettings, pareto, check_pareto),
}


def build(settings: Settings, context: Context) -> Method:
    """The method that the recipe's ``method:`` section asks for."""
    return METHODS[settings.name].build(settings, context)  # type: ignore[attr-defined]


def check(settings: Settings, facts: Facts) -> None:
    """UserError where the recipe's method cannot run on these students and pairs."""
    METHODS[settings.name].check(settings, facts)  # type: ignore[attr-defined]

"""What a method's file declares of it; the registry is a table of these."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from mnmt_ds.config import Settings
from mnmt_ds.methods.method import Method
from mnmt_ds.requirements import Requirements, needs_nothing


class RunFacts(NamedTuple):
    """Facts about a run that are known before anything is built."""

    pairs: Sequence[str]
    """Its language pairs, such as fr-en."""
    sizes: Mapping[str, int]
    """Training sentences of each pair."""
    students: Sequence[str]
    """Names of its students; one where it has no ``students`` section."""
    samplers: Sequence[Any]
    """Each student's sampler settings."""
    bleu_every: int = 0
    """Validations between two that score the dev sets; 0: none does."""


def holds_no_methods(settings: Any) -> Mapping[str, Settings]:
    """Declares a method that is built of no others.

    Args:
        settings: the method's settings.

    Returns:
        An empty mapping.
    """
    return {}


def accept_any_run(settings: Any, facts: RunFacts) -> None:
    """Declares a method that trains on any students and pairs.

    Args:
        settings: the method's settings.
        facts: what is known of the run.
    """


class MethodEntry(NamedTuple):
    """A method's declaration: its settings, how it is built, what it needs."""

    settings: type[Settings]
    """Its section of the recipe, with a field ``name: Literal["..."]`` by which recipes ask for it."""
    build: Callable[..., Method]
    """(settings, context) -> Method; with a third argument, the built inner methods by name, if ``inside`` has any."""
    requires: Callable[[Any], Requirements] = needs_nothing
    """What it needs of the run, by its settings; what inner methods need is added by the registry."""
    inside: Callable[[Any], Mapping[str, Settings]] = holds_no_methods
    """The sections of the methods that it is built of, by the names under which ``build`` gets them."""
    check: Callable[[Any, RunFacts], None] = accept_any_run
    """Raises UserError where the method cannot train on these students and pairs; inner methods are checked, too."""
    tasks: Callable[[Any], Collection[str]] | None = None
    """Names of the tasks that it trains on, by its settings; None: those of the methods inside it, or translation where
    it has none."""
    example: Mapping[str, Any] = {}
    """Sections of a minimal recipe that uses it; ``method`` is left out where its ``name`` is enough. ``{plain_run}``
    in a text stands for the directory of a finished plain run on the same data."""

"""The packages that identify a text's language: one of them is chosen, and every report says which.

Both are right on most texts of 20 letters or more, and disagree on close languages; they know other languages.
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from mnmt_ds.data.language_codes import may_be_same
from mnmt_ds.errors import UserError

Identifier = Literal["py3langid", "lingua"]


class IdentifierEntry(NamedTuple):
    """An identifier's package, and how it is asked."""

    package: str
    """Its name on PyPI."""
    extra: str
    """The extra of ours that installs it."""
    identify: Callable[[str], tuple[str, float]]
    """A text's language and its probability."""
    languages: Callable[[], Sequence[str]]
    """Codes of the languages that it knows."""


def _py3langid(text: str) -> tuple[str, float]:
    """By py3langid's scores, scaled by the text's length, as its ``norm_probs`` does."""
    from py3langid import rank

    scores = rank(text)
    temperature = math.sqrt(len(text.encode()) or 1)
    return str(scores[0][0]), 1 / sum(math.exp((score - scores[0][1]) / temperature) for _, score in scores)


def _py3langid_languages() -> list[str]:
    from py3langid import rank

    return [str(code) for code, _ in rank("text")]


@functools.cache
def _lingua_detector() -> Any:
    """Its mode of high accuracy: the other one takes 3 % of strings from catalogs for another language for certain."""
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().build()


def _lingua(text: str) -> tuple[str, float]:
    [best, *_] = _lingua_detector().compute_language_confidence_values(text)
    return best.language.iso_code_639_1.name.lower(), float(best.value)


def _lingua_languages() -> list[str]:
    from lingua import Language

    return sorted(language.iso_code_639_1.name.lower() for language in Language.all())


IDENTIFIERS: dict[Identifier, IdentifierEntry] = {
    "py3langid": IdentifierEntry("py3langid", "langid", _py3langid, _py3langid_languages),
    "lingua": IdentifierEntry("lingua-language-detector", "lingua", _lingua, _lingua_languages),
}
"""By the name that a recipe gives (``data.clean.language_identifier``)."""


@functools.cache
def identifier_version(identifier: Identifier) -> str | None:
    """Looks up an identifier's version.

    Args:
        identifier: its name.

    Returns:
        The version; None where it is not installed.
    """
    try:
        return importlib.metadata.version(IDENTIFIERS[identifier].package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_installed(identifier: Identifier, wanted_by: str) -> None:
    """Checks that an identifier can be asked.

    Args:
        identifier: its name.
        wanted_by: what asks for it.

    Raises:
        UserError: where it is not installed.
    """
    entry = IDENTIFIERS[identifier]
    if identifier_version(identifier) is None:
        raise UserError(f"{wanted_by} needs the package '{entry.package}'; pip install 'mnmt_ds[{entry.extra}]'")


@functools.cache
def is_known(language: str, identifier: Identifier) -> bool:
    """Returns whether an identifier knows a language.

    Args:
        language: any code of it.
        identifier: its name.

    Returns:
        Whether one of its codes may mean it.
    """
    return any(may_be_same(code, language) for code in IDENTIFIERS[identifier].languages())

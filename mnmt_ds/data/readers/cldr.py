"""Parallel text from Babel's CLDR data: names, dates, amounts and lists, the same items in every language.

Stands in where a machine has no catalogs, so that every command can be tried; it is no evidence for any method.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

from mnmt_ds.data.language_codes import canonical_language
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.scripts import SCRIPT_CODES, script_fraction, script_of_code
from mnmt_ds.errors import UserError

if TYPE_CHECKING:
    from babel import Locale

LISTS, DATES, AMOUNTS = 6000, 1500, 750
"""Items of each kind: lists, dates, and amounts (of money, and of measures)."""


def locate(request: ReadRequest) -> list[ReadRequest]:
    """Returns the one part of the text, named by the version of Babel that the text depends on.

    Args:
        request: the recipe's entry; its paths are not looked at.

    Returns:
        One request without a file, whose domain is the version.
    """
    import babel

    return [request._replace(paths=("",), domain=f"babel {babel.__version__}")]


def read(request: ReadRequest) -> Iterator[Row]:
    """Yields what CLDR names in both languages; the key is the rendering in the key language.

    Args:
        request: the languages alone are looked at.

    Yields:
        A row an item that both languages and the key language have; the number is its place among the source
        language's items.

    Raises:
        UserError: when Babel does not know a language.
    """
    source_texts, target_texts, key_texts = (
        _render_items(language) for language in (request.source, request.target, request.key_language)
    )
    for number, item in enumerate(source_texts, 1):
        if item in target_texts and item in key_texts:
            yield number, source_texts[item], target_texts[item], key_texts[item]


@cache
def _render_items(language: str) -> dict[str, str]:
    """Every item that the language can say, by the item's name."""
    locale = _locale(language)
    texts: dict[str, str] = {}
    for kind, table in (("l", locale.languages), ("t", locale.territories), ("s", locale.scripts),
                        ("c", locale.currencies), ("v", locale.variants)):  # fmt: skip
        for code, name in table.items():
            texts[f"{kind}:{code}"] = str(name)
    for item, render in _phrases().items():
        text = render(locale)
        if text:
            texts[item] = text
    return texts


def _locale(language: str) -> "Locale":
    """Babel's data of a language in the script that its code names: Babel reads sr@latin and srp_Latn as Cyrillic."""
    from babel import Locale, UnknownLocaleError

    canonical, script = canonical_language(language), script_of_code(language)
    named = [f"{canonical}_{code.title()}" for code, name in SCRIPT_CODES.items() if name == script]
    suffixed = [name for name in named if name[-4:].lower() in language.lower()]
    for code in (*suffixed, *named, language, canonical) if script else (language, canonical):
        with contextlib.suppress(UnknownLocaleError, ValueError):
            locale = Locale.parse(code)
            if script is None or script_fraction(" ".join(locale.languages.values()), language) > 0.5:
                return locale
    script_text = f" in the script {script}" if script else ""
    raise UserError(
        f"language '{language}': Babel's CLDR data does not have it{script_text}; give files in data.corpora"
    )


@cache
def _phrases() -> dict[str, Callable[["Locale"], str | None]]:
    """Dates, amounts and lists, drawn once for all languages."""
    from babel import Locale

    generator = random.Random("cldr")
    english = Locale.parse("en")
    territories = sorted(str(code) for code in english.territories if len(str(code)) == 2)
    languages = sorted(str(code) for code in english.languages if len(str(code)) == 2)
    currencies = sorted(str(code) for code in english.currencies)
    measures = sorted({name.partition("-")[2] or name for name in english._data["unit_patterns"]})
    phrases: dict[str, Callable[[Locale], str | None]] = {}
    for i in range(LISTS):
        kind, codes = generator.choice((("territories", territories), ("languages", languages)))
        sampled = generator.sample(codes, generator.choice((2, 3)))
        style: Literal["standard", "or"] = generator.choice(("standard", "or"))
        phrases[f"list{i}"] = partial(_render_list, kind, sampled, style)
    for i in range(DATES):
        day = date(1950, 1, 1) + timedelta(generator.randrange(40000))
        phrases[f"date{i}"] = partial(_render_date, day, generator.choice(("full", "long", "medium")))
    for i in range(AMOUNTS):
        phrases[f"money{i}"] = partial(_render_price, generator.randrange(2, 500), generator.choice(currencies))
        phrases[f"unit{i}"] = partial(_render_measure, generator.randrange(2, 500), generator.choice(measures))
    return phrases


def _render_list(kind: str, codes: list[str], style: Literal["standard", "or"], locale: "Locale") -> str | None:
    from babel.lists import format_list

    names = [getattr(locale, kind).get(code) for code in codes]
    return format_list([str(name) for name in names], style, locale) if all(names) else None


def _render_date(day: date, style: Literal["full", "long", "medium"], locale: "Locale") -> str:
    from babel.dates import format_date

    return format_date(day, style, locale)


def _render_price(count: int, code: str, locale: "Locale") -> str | None:
    from babel.numbers import format_currency

    if code not in locale.currencies:
        return None
    return format_currency(count, code, locale=locale, format_type="name", currency_digits=False)


def _render_measure(count: int, unit: str, locale: "Locale") -> str | None:
    from babel.units import UnknownUnitError, format_unit

    try:
        return format_unit(count, unit, "long", locale=locale)
    except (UnknownUnitError, KeyError):  # this language's data lacks the unit
        return None

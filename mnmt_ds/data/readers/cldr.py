"""Parallel text from Babel's CLDR data: names, dates, amounts and lists, the same items in every language.

Stands in where a machine has no catalogs, so that every command can be tried; it is no evidence for any method.
"""

import random
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

from mnmt_ds.data.readers.corpus_part import Row
from mnmt_ds.errors import UserError

if TYPE_CHECKING:
    from babel import Locale

LISTS, DATES, AMOUNTS = 6000, 1500, 750


def cldr(source: str, target: str, english: str = "en") -> Iterator[Row]:
    """What CLDR names in both languages; the key is the English rendering."""
    sides = [_rendered(language) for language in (source, target, english)]
    for number, name in enumerate(sides[0], 1):
        if name in sides[1] and name in sides[2]:
            yield number, sides[0][name], sides[1][name], sides[2][name]


def version() -> str:
    """What the text depends on."""
    import babel

    return f"babel {babel.__version__}"


@cache
def _rendered(language: str) -> dict[str, str]:
    """Every item that the language can say, by the item's name."""
    from babel import Locale, UnknownLocaleError

    try:
        locale = Locale.parse(language)
    except (UnknownLocaleError, ValueError):
        raise UserError(
            f"language '{language}': Babel's CLDR data does not know it; give files in data.corpora"
        ) from None
    found: dict[str, str] = {}
    for kind, table in (("l", locale.languages), ("t", locale.territories), ("s", locale.scripts),
                        ("c", locale.currencies), ("v", locale.variants)):  # fmt: skip
        for code, name in table.items():
            found[f"{kind}:{code}"] = str(name)
    for name, say in _phrases().items():
        text = say(locale)
        if text:
            found[name] = text
    return found


@cache
def _phrases() -> dict[str, Callable[["Locale"], str | None]]:
    """Dates, amounts and lists, drawn once for all languages."""
    from babel import Locale

    draw = random.Random("cldr")
    english = Locale.parse("en")
    territories = sorted(str(code) for code in english.territories if len(str(code)) == 2)
    languages = sorted(str(code) for code in english.languages if len(str(code)) == 2)
    currencies = sorted(str(code) for code in english.currencies)
    measures = sorted({name.partition("-")[2] or name for name in english._data["unit_patterns"]})
    phrases: dict[str, Callable[[Locale], str | None]] = {}
    for i in range(LISTS):
        kind, codes = draw.choice((("territories", territories), ("languages", languages)))
        chosen = draw.sample(codes, draw.choice((2, 3)))
        style: Literal["standard", "or"] = draw.choice(("standard", "or"))
        phrases[f"list{i}"] = partial(_listed, kind, chosen, style)
    for i in range(DATES):
        day = date(1950, 1, 1) + timedelta(draw.randrange(40000))
        phrases[f"date{i}"] = partial(_dated, day, draw.choice(("full", "long", "medium")))
    for i in range(AMOUNTS):
        phrases[f"money{i}"] = partial(_priced, draw.randrange(2, 500), draw.choice(currencies))
        phrases[f"unit{i}"] = partial(_measured, draw.randrange(2, 500), draw.choice(measures))
    return phrases


def _listed(kind: str, codes: list[str], style: Literal["standard", "or"], locale: "Locale") -> str | None:
    from babel.lists import format_list

    names = [getattr(locale, kind).get(code) for code in codes]
    return format_list([str(name) for name in names], style, locale) if all(names) else None


def _dated(day: date, style: Literal["full", "long", "medium"], locale: "Locale") -> str:
    from babel.dates import format_date

    return format_date(day, style, locale)


def _priced(count: int, code: str, locale: "Locale") -> str | None:
    from babel.numbers import format_currency

    if code not in locale.currencies:
        return None
    return format_currency(count, code, locale=locale, format_type="name", currency_digits=False)


def _measured(count: int, unit: str, locale: "Locale") -> str | None:
    from babel.units import UnknownUnitError, format_unit

    try:
        return format_unit(count, unit, "long", locale=locale)
    except (UnknownUnitError, KeyError):  # this language's data lacks the unit
        return None

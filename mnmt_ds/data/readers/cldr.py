"""Parallel text from Babel's CLDR data: names, dates, amounts and lists, the same items in every language.

Stands in where a machine has no catalogs, so that every command can be tried; it is no evidence for any method.
"""

import random
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import cache

from mnmt_ds.data.readers.rows import Row
from mnmt_ds.errors import UserError

LISTS, DATES, AMOUNTS = 6000, 1500, 1500


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
def _phrases() -> "dict[str, Callable[[object], str | None]]":
    """Dates, amounts and lists, drawn once for all languages."""
    from babel import Locale, dates, lists, numbers, units

    draw = random.Random("cldr")
    english = Locale.parse("en")
    territories = sorted(code for code in english.territories if len(code) == 2)
    languages = sorted(code for code in english.languages if len(code) == 2)
    currencies = sorted(english.currencies)
    measures = sorted({name.partition("-")[2] or name for name in english._data["unit_patterns"]})
    phrases: dict[str, Callable[[object], str | None]] = {}

    def listed(kind: str, codes: list[str], style: str) -> "Callable[[object], str | None]":
        def say(locale: Locale) -> str | None:  # type: ignore[no-any-unimported]
            table = locale.territories if kind == "t" else locale.languages
            names = [table.get(code) for code in codes]
            return lists.format_list([str(n) for n in names], style, locale) if all(names) else None

        return say  # type: ignore[return-value]

    for i in range(LISTS):
        kind, codes = draw.choice((("t", territories), ("l", languages)))
        phrases[f"list{i}"] = listed(kind, draw.sample(codes, draw.choice((2, 3))), draw.choice(("standard", "or")))
    for i in range(DATES):
        day = date(1950, 1, 1) + timedelta(draw.randrange(40000))
        style = draw.choice(("full", "long", "medium"))
        phrases[f"date{i}"] = lambda locale, day=day, style=style: dates.format_date(day, style, locale)
    for i in range(AMOUNTS):
        count, code, unit = draw.randrange(2, 500), draw.choice(currencies), draw.choice(measures)
        if i % 2:
            phrases[f"money{i}"] = lambda locale, count=count, code=code: (
                numbers.format_currency(count, code, locale=locale, format_type="name", currency_digits=False)
                if code in locale.currencies
                else None
            )
        else:
            phrases[f"unit{i}"] = lambda locale, count=count, unit=unit: _unit(units, count, unit, locale)
    return phrases


def _unit(units: object, count: int, unit: str, locale: object) -> str | None:
    try:
        return str(units.format_unit(count, unit, "long", locale=locale))  # type: ignore[attr-defined]
    except Exception:  # a unit that this language's data lacks
        return None

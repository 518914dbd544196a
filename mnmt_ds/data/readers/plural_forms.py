"""Which of a gettext entry's plural forms stands beside the English singular, and which beside the plural.

A catalog's header says by ``Plural-Forms`` which form a number takes, and languages number their forms differently:
form 0 is the singular in French, the form for zero in Arabic, that for five and more in Slovak as GNOME writes it. The
English singular is the text for n = 1, the plural that for any number; so they are paired with the forms that n = 1
and n = ``GENERAL`` select (gettext manual, 11.2.6, "Additional functions for plural forms").
"""

import gettext
import re
from typing import NamedTuple, TypeVar

GENERAL = 100
"""A number whose form a plural without a number has: no language has a form of its own for it, many have one for 2."""
GERMANIC = "(n != 1)"
"""What gettext takes where a header has no Plural-Forms."""
_HEADER = re.compile(r"^plural-forms:[^;\n]*nplurals\s*=[^;\n]*;\s*plural\s*=([^;\n]+)", re.IGNORECASE | re.MULTILINE)
_ANY = re.compile(r"^plural-forms:", re.IGNORECASE | re.MULTILINE)
T = TypeVar("T", str, bytes)


class PluralForms(NamedTuple):
    """The numbers of the forms that a language's catalog has for one thing and for many."""

    singular: int
    """The form of n = 1."""
    plural: int
    """The form of n = ``GENERAL``."""
    named: bool = True
    """Whether the header names them; else they are what gettext takes then, and an entry may show otherwise."""


def read_plural_forms(header: str) -> PluralForms | None:
    """Reads a catalog's header.

    Args:
        header: the translation of the empty message: lines ``Name: value``.

    Returns:
        The two forms; None where the header's expression cannot be computed, as in a template that nobody filled in.
    """
    match = _HEADER.search(header)
    if match is None and _ANY.search(header):
        return None
    expression = match[1].replace("\\n", " ").strip() if match else GERMANIC
    try:
        form_of = gettext.c2py(expression)  # type: ignore[attr-defined]
        return PluralForms(form_of(1), form_of(GENERAL), match is not None)
    except (ValueError, ZeroDivisionError, RecursionError):
        return None


def pair_forms(messages: list[T], translations: list[T], forms: PluralForms | None) -> list[tuple[T, T]]:
    """Pairs an entry's English messages with their translations.

    Args:
        messages: the message; of an entry with a plural the singular and the plural.
        translations: one text a form.
        forms: of the catalog; None: not known, so that an entry with a plural cannot be paired.

    Returns:
        (message, translation): the message; of an entry with a plural both, or the plural alone where the language has
        one form for all numbers; nothing for a form that the entry lacks.
    """
    if len(messages) == 1:
        return [(messages[0], translations[0])]
    if len(translations) == 1 and (forms is None or not forms.named):
        return [(messages[-1], translations[0])]
    if forms is None:
        return []
    if forms.singular == forms.plural:
        numbers = [(messages[-1], forms.plural)]
    else:
        numbers = [(messages[0], forms.singular), (messages[-1], forms.plural)]
    return [(message, translations[form]) for message, form in numbers if form < len(translations)]

"""Which of the codes that a file or a tokenizer has is the language that a recipe asks for."""

import logging
from collections.abc import Collection

from mnmt_ds.data.language_codes import canonical_language, matching_codes, parse_code, possible_languages
from mnmt_ds.data.scripts import ONE_SCRIPT, script_of_code

LOG = logging.getLogger(__name__)
OPEN_SCRIPT = {"zh": "Hans or Hant", "sr": "Cyrl or Latn"}
"""Languages that are written in two ways as usually, and these ways' codes."""
OPEN_MEMBER = ("no", "nor", "sh", "hbs")
"""Codes of macrolanguages whose members are written languages of equal standing."""


def codes_for(wanted: str, codes: Collection[str], place: str) -> list[str]:
    """Finds the codes that mean a language; of two scripts the one that the language is usually written in.

    A line says where a macrolanguage's code may have meant another one of them, too.

    >>> codes_for("ar", ["arb_Arab", "arb_Latn"], "x"), codes_for("sr", ["srp_Cyrl", "srp_Latn"], "x")
    (['arb_Arab'], ['srp_Cyrl', 'srp_Latn'])

    Args:
        wanted: the language's code in the recipe.
        codes: those that there are.
        place: the file or what else has them, for the line.

    Returns:
        One code; several where it is open which is meant; none where no code fits.
    """
    matches = matching_codes(wanted, codes)
    if len(matches) > 1:
        usual = [code for code in matches if script_of_code(code) == ONE_SCRIPT.get(canonical_language(wanted))]
        matches = usual if len(usual) == 1 else matches
    if matches and wanted not in matches and (others := _other_members(wanted, codes)):
        LOG.info("%s: '%s' is taken as %s, not as %s", place, wanted, " or ".join(matches), ", ".join(others))
    return matches


def _other_members(wanted: str, codes: Collection[str]) -> list[str]:
    """The codes of other languages that a macrolanguage's code may mean."""
    others = possible_languages(wanted) - {canonical_language(wanted)}
    return [code for code in codes if canonical_language(code) in others] if others else []


def open_questions(languages: Collection[str]) -> list[str]:
    """Lists what the codes of a recipe leave open, and which of them count as one language.

    Args:
        languages: the recipe's codes.

    Returns:
        A phrase for each.
    """
    phrases = []
    for language in languages:
        code = parse_code(language)
        if (scripts := OPEN_SCRIPT.get(code.language)) and not code.implied_script:
            phrases.append(f"'{language}' does not say {scripts}")
        others = sorted(possible_languages(language) - {code.language})
        if code.primary in OPEN_MEMBER:
            phrases.append(f"'{language}' counts as {code.language}, and may be {', '.join(others)}")
    by_language: dict[str, list[str]] = {}
    for language in languages:
        by_language.setdefault(canonical_language(language), []).append(language)
    phrases += [f"{' and '.join(codes)} are one language" for codes in by_language.values() if len(codes) > 1]
    return phrases

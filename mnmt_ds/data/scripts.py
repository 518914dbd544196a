"""Which script a language is written in, and how much of a text is in it."""

import functools
import re

from mnmt_ds.data.language_codes import canonical_language, parse_code, possible_languages

LANGUAGES_OF_SCRIPT = {
    "Latin": "af az bs ca ceb cs cy da de en eo es et eu fi fil fr fy ga gd gl ha hr hu id ig is it jv lb ln lt lv mg"
    " ms mt nb nl nn no oc om pl pt qu rm ro sk sl so sq st sv sw tl tn tr ts uz vi wo xh yo zu",
    "Cyrillic": "be bg kk ky mk mn ru tg tt uk",
    "Greek": "el",
    "Devanagari": "bho hi mai mr ne sa",
    "Bengali": "as bn",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Arabic": "ar fa ps sd ug ur",
    "Hebrew": "he yi",
    "Armenian": "hy",
    "Georgian": "ka",
    "Ethiopic": "am ti",
    "Thai": "th",
    "Lao": "lo",
    "Khmer": "km",
    "Burmese": "my",
    "Hangul": "ko",
    "Japanese": "ja",
    "Han": "zh yue",
}
"""Codes of the languages that are written in a script."""
CHARACTER_RANGES = {
    "Latin": "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ",
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff",
    "Gurmukhi": "\u0a00-\u0a7f",
    "Gujarati": "\u0a80-\u0aff",
    "Oriya": "\u0b00-\u0b7f",
    "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f",
    "Kannada": "\u0c80-\u0cff",
    "Malayalam": "\u0d00-\u0d7f",
    "Sinhala": "\u0d80-\u0dff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff",
    "Hebrew": "\u0590-\u05ff",
    "Armenian": "\u0530-\u058f",
    "Georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "Ethiopic": "\u1200-\u139f",
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Khmer": "\u1780-\u17ff",
    "Burmese": "\u1000-\u109f",
    "Hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Japanese": "\u3040-\u30ff\u4e00-\u9fff\u3400-\u4dbf",
    "Han": "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff",
}
"""Letters of a script, as a regular expression's character class."""
SCRIPT_CODES = {
    "latn": "Latin", "cyrl": "Cyrillic", "grek": "Greek", "deva": "Devanagari", "arab": "Arabic", "beng": "Bengali",
    "gujr": "Gujarati", "guru": "Gurmukhi", "orya": "Oriya", "taml": "Tamil",
    "telu": "Telugu", "knda": "Kannada", "mlym": "Malayalam", "sinh": "Sinhala",
    "hebr": "Hebrew", "armn": "Armenian",
    "geor": "Georgian", "ethi": "Ethiopic", "thai": "Thai", "laoo": "Lao", "khmr": "Khmer", "mymr": "Burmese",
    "hang": "Hangul", "kore": "Hangul", "jpan": "Japanese", "hans": "Han", "hant": "Han", "hani": "Han",
}  # fmt: skip
"""Scripts by their ISO 15924 code."""
CHINESE = possible_languages("zh")
"""Canonical codes of the Chinese languages."""
WITHOUT_SPACES = CHINESE | {"ja", "bo", "dz", "km", "lo", "my", "shn", "th"}
"""Canonical codes of the languages that write no spaces between words."""
ONE_SCRIPT = {
    canonical_language(language): script
    for script, languages in LANGUAGES_OF_SCRIPT.items()
    for language in languages.split()
}
"""The script of each language that is usually written in one alone, by canonical code."""
_OTHER_LETTERS = {script: re.compile(rf"[^\W\d_{characters}]+") for script, characters in CHARACTER_RANGES.items()}
_LETTERS = re.compile(r"[^\W\d_]+")


def script_of_code(code: str) -> str | None:
    """Reads the script that a language's code names.

    >>> [script_of_code(code) for code in ("uz_Cyrl", "sr_RS@latin", "pt_BR", "de_DE@euro", "bo_Tibt")]
    ['Cyrillic', 'Latin', None, None, 'Tibt']

    Args:
        code: the code, such as ``be_Latn``, or a locale such as ``be@latin``.

    Returns:
        A script of ``CHARACTER_RANGES``; ISO 15924's code where it names another one; None where it names none.
    """
    script = parse_code(code).script
    return SCRIPT_CODES.get(script.lower(), script) or None


def default_script(language: str) -> str | None:
    """Looks up the script in which a language is usually written.

    Args:
        language: its code.

    Returns:
        A script of ``CHARACTER_RANGES``; None where it is not known here.
    """
    return "Cyrillic" if canonical_language(language) == "sr" else ONE_SCRIPT.get(canonical_language(language))


@functools.cache
def _foreign_letters(language: str) -> re.Pattern[str] | None:
    """Letters outside the script that the code names, its country's or the language's; None where it is not known."""
    implied = parse_code(language).implied_script  # such as that of pa_PK
    script = SCRIPT_CODES.get(implied.lower(), implied) or ONE_SCRIPT.get(canonical_language(language), "")
    return _OTHER_LETTERS.get(script)


def script_fraction(text: str, language: str) -> float:
    """Computes how much of a text is in its language's script.

    Args:
        text: any text.
        language: the language's code. The script that it names (be_Latn) decides, else the one that the language is
            usually written in; countries (pt_BR) are ignored.

    Returns:
        Part of the text's letters that are in the language's script, 0 to 1; 0 without a letter, 1 for a language whose
        script is not known here.
    """
    foreign_letters = _foreign_letters(language)
    foreign_runs = foreign_letters.findall(text) if foreign_letters is not None else []
    if not foreign_runs:
        return 1.0 if _LETTERS.search(text) else 0.0
    return 1 - sum(map(len, foreign_runs)) / sum(map(len, _LETTERS.findall(text)))

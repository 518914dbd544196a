"""One code for every language, whatever standard a recipe's code follows, to compare texts by their language.

Known are ISO 639-1, 639-2 and 639-3 with their retired codes (en, eng, ger, iw, mo, sh), FLORES-200 and NLLB
(eng_Latn), M2M-100 and mBART (en_XX), POSIX locales (pt_BR.UTF-8, sr@latin) and BCP 47 (zh-Hans, zh-yue, i-lux): the
table is ``language_groups``. The canonical code is the two-letter one where there is one. Country and script are left
out: texts of one language in two scripts count as one language, and so do a macrolanguage and the member that its code
stands for in practice (zh and cmn, ar and arb, no and nb). A macrolanguage's other members (nn of no, yue of zh) are
languages of their own; held-out text is kept out of them, too, where the code leaves open which (``may_be_same``).
"""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from mnmt_ds.data.language_groups import GROUPS, MACROLANGUAGES, SCRIPTS

_GROUPS = {codes[0]: tuple(codes) for codes in map(str.split, GROUPS.split(";"))}
_CANONICAL = {code: canonical for canonical, codes in _GROUPS.items() for code in codes}
_MEMBERS = {
    code: frozenset(members.split())
    for codes, _, members in (macro.partition(":") for macro in MACROLANGUAGES.split(";"))
    for code in codes.split()
}
"""Other languages that a macrolanguage's code may mean."""
_SECONDARY = {"prs": "prs", "drw": "prs", "tnf": "prs", "tw": "twi", "twi": "twi", "ajp": "ajp"}
"""Varieties that count as one language with another one, and that tokenizers and test sets have beside it."""
_IRREGULAR = {
    "zh-min-nan": "nan", "zh-guoyu": "cmn", "zh-xiang": "hsn", "no-bok": "nb", "no-nyn": "nn", "i-lux": "lb",
    "i-hak": "hak", "i-navajo": "nv", "i-tao": "tao", "i-tay": "tay", "i-tsu": "tsu", "i-ami": "ami", "i-bnn": "bnn",
    "i-pwn": "pwn", "i-klingon": "tlh", "art-lojban": "jbo",
}  # fmt: skip
"""Tags of BCP 47 that do not begin with their language."""
_MODIFIERS = {"latin": "Latn", "cyrillic": "Cyrl", "arabic": "Arab", "devanagari": "Deva"}
"""How POSIX locales name a script after '@'; some tools write the words after '_', too."""
SCRIPT_OF_REGION = {
    ("zh", "CN"): "Hans", ("zh", "SG"): "Hans", ("zh", "MY"): "Hans", ("zh", "TW"): "Hant", ("zh", "HK"): "Hant",
    ("zh", "MO"): "Hant", ("yue", "CN"): "Hans", ("yue", "HK"): "Hant", ("pa", "PK"): "Arab", ("uz", "AF"): "Arab",
    ("az", "IR"): "Arab", ("az", "IQ"): "Arab", ("kk", "CN"): "Arab", ("kk", "IR"): "Arab", ("ky", "CN"): "Arab",
    ("mn", "CN"): "Mong", ("sd", "IN"): "Deva", ("sr", "ME"): "Latn",
}  # fmt: skip
"""The script that a country implies, where it is not the language's usual one or there are two."""
_LIKE = {"Kore": "Hang", "Hani": "", "Hrkt": "Jpan", "Aran": "Arab"}
"""Scripts that count as another one; Hani leaves open which."""
_SCRIPTS = frozenset(SCRIPTS.split())
_SUBTAG = re.compile(r"[-_]")


class LanguageCode(NamedTuple):
    """What a code says."""

    language: str
    """The canonical code of its language."""
    script: str = ""
    """ISO 15924's code of the script that it names, such as Latn; empty: it names none."""
    region: str = ""
    """The country that it names, such as BR; empty: it names none."""
    primary: str = ""
    """The part that means the language, as it is written, in lower case."""

    @property
    def implied_script(self) -> str:
        """The script that it names or that its country implies; empty: it leaves it open."""
        return self.script or SCRIPT_OF_REGION.get((self.language, self.region), "")


@functools.lru_cache(1 << 14)
def parse_code(code: str) -> LanguageCode:
    """Reads a language's code of any standard.

    >>> [tuple(parse_code(code))[:3] for code in ("eng_Latn", "pt_BR.UTF-8", "sr@latin", "en_XX", "zh-yue-HK")]
    [('en', 'Latn', ''), ('pt', '', 'BR'), ('sr', 'Latn', ''), ('en', '', ''), ('yue', '', 'HK')]

    Args:
        code: a language's code, as a recipe or a file names it.

    Returns:
        Its parts; a language that the table does not have is its own canonical code.
    """
    name, _, modifier = code.lower().strip().partition("@")
    primary, *others = _SUBTAG.split(name.partition(".")[0])
    for irregular, language in _IRREGULAR.items():
        parts = irregular.split("-")
        if [primary, *others][: len(parts)] == parts:
            primary, others = language, others[len(parts) - 1 :]
            break
    if others and len(others[0]) == 3 and others[0].isalpha():  # BCP 47 may write a member after its macrolanguage
        member = _CANONICAL.get(others[0], others[0])
        if member == _CANONICAL.get(primary, primary) or member in _MEMBERS.get(primary, ()):
            primary, others = others[0], others[1:]
    script, region = _MODIFIERS.get(modifier, ""), ""
    for part in others:
        if len(part) == 1:  # what follows is an extension
            break
        if part in _MODIFIERS or part.title() in _SCRIPTS:
            script = script or _MODIFIERS.get(part, part.title())
        elif (len(part) == 2 and part.isalpha() and part != "xx") or (len(part) == 3 and part.isdecimal()):
            region = region or part.upper()
    return LanguageCode(_CANONICAL.get(primary, primary), script, region, primary)


def canonical_language(code: str) -> str:
    """Finds the code by which texts in a language are compared.

    >>> [canonical_language(code) for code in ("eng_Latn", "en_XX", "deu", "ger", "sr@latin", "zh-Hans", "xyz")]
    ['en', 'en', 'de', 'de', 'sr', 'zh', 'xyz']

    Args:
        code: a language's code, as a recipe names it.

    Returns:
        The canonical code; the code's own first part in lower case where the table does not have it.
    """
    return parse_code(code).language


def same_language(first: str, second: str) -> bool:
    """Returns whether two codes mean one language.

    Args:
        first: a language's code.
        second: another code.

    Returns:
        Whether their canonical codes are the same.
    """
    return canonical_language(first) == canonical_language(second)


@functools.lru_cache(1 << 14)
def possible_languages(code: str) -> frozenset[str]:
    """Lists the languages that a code may mean.

    >>> sorted(possible_languages("no")), sorted(possible_languages("nob_Latn")), sorted(possible_languages("sh"))
    (['nn', 'no'], ['no'], ['bs', 'cnr', 'hr', 'sr'])

    Args:
        code: a language's code.

    Returns:
        Canonical codes: one, or several where the code is a macrolanguage's.
    """
    parsed = parse_code(code)
    return frozenset([parsed.language]) | _MEMBERS.get(parsed.primary, frozenset())


def codes_of(code: str) -> list[str]:
    """Lists the codes by which text in a language is called, the given one first.

    >>> codes_of("he_IL"), codes_of("nb"), codes_of("xyz")
    (['he', 'heb', 'iw'], ['nb', 'no', 'nob'], ['xyz'])

    Args:
        code: a language's code.

    Returns:
        Codes without script and country: also the canonical one, but no other that may mean a further language.
    """
    parsed = parse_code(code)
    variety = _SECONDARY.get(parsed.primary)
    group = [name for name in _GROUPS.get(parsed.language, ()) if name not in _MEMBERS]
    others = [name for name in group if _SECONDARY.get(name) == variety]
    return list(dict.fromkeys([parsed.primary, parsed.language, *others]))


def may_be_same(first: str, second: str) -> bool:
    """Returns whether two codes may mean one language, as a macrolanguage's may mean each of its members.

    >>> may_be_same("no", "nn"), may_be_same("nb", "nn"), may_be_same("zh", "yue_Hant"), may_be_same("cmn", "yue")
    (True, False, True, False)

    Args:
        first: a language's code.
        second: another code.

    Returns:
        Whether some language may be meant by both.
    """
    return not possible_languages(first).isdisjoint(possible_languages(second))


def fits(code: str, wanted: str) -> bool:
    """Returns whether text under a code may be what another code asks for: same language, no other script or country.

    >>> fits("fr-CA", "fr"), fits("srp_Cyrl", "sr_Latn"), fits("zh_TW", "zh_Hant"), fits("pt_PT", "pt_BR")
    (True, False, True, False)

    Args:
        code: as a file or tokenizer has it.
        wanted: as a recipe has it.

    Returns:
        Whether the two agree in all that both say.
    """
    stated, asked = parse_code(code), parse_code(wanted)
    scripts = [_LIKE.get(script, script) for script in (stated.implied_script, asked.implied_script)]
    return (
        stated.language == asked.language
        and (scripts[0] == scripts[1] or not all(scripts))
        and (stated.region == asked.region or not (stated.region and asked.region))
    )


def matching_codes(wanted: str, codes: Iterable[str]) -> list[str]:
    """Finds the codes that mean what a code asks for.

    >>> matching_codes("zh_TW", ["zho_Hans", "zho_Hant", "yue_Hant"]), matching_codes("zho", ["zh-CN", "zh-TW"])
    (['zho_Hant'], ['zh-CN', 'zh-TW'])

    Args:
        wanted: a language's code, as a recipe has it.
        codes: those that there are.

    Returns:
        The one of the same spelling (of upper and lower case, - and _ aside), else those that agree with it in most;
        several where it leaves open which; none where no code fits.
    """
    codes = list(codes)
    spelled = [code for code in codes if code == wanted] or [
        code for code in codes if _SUBTAG.sub("-", code.lower()) == _SUBTAG.sub("-", wanted.lower())
    ]
    if spelled:
        return spelled
    unlike = {code: _unlikeness(parse_code(code), parse_code(wanted)) for code in codes if fits(code, wanted)}
    return [code for code, number in unlike.items() if number == min(unlike.values())]


def _unlikeness(code: LanguageCode, wanted: LanguageCode) -> int:
    """In how much two codes of one language differ."""
    variety = _SECONDARY.get(code.primary) != _SECONDARY.get(wanted.primary)
    return variety + (code.implied_script != wanted.implied_script) + (code.region != wanted.region)


def key_side(source: str, target: str, key_language: str) -> int:
    """Chooses the side of a pair by whose text rows are held out; both directions of a pair choose the same text.

    Args:
        source: the source's code.
        target: the target's code.
        key_language: the language whose text is preferred (``split.key_language``).

    Returns:
        0 for the source, 1 for the target: the side in the key language, else the side whose canonical code comes
        first in the alphabet.
    """
    sides = (source, target)
    in_key_language = [same_language(side, key_language) for side in sides]
    if in_key_language[0] != in_key_language[1]:
        return in_key_language.index(True)
    rank = [(canonical_language(side), re.split(r"[-_@.]", side.lower())[1:], side) for side in sides]
    return 0 if rank[0] <= rank[1] else 1


def code_in_pair(source: str, target: str, language: str) -> str:
    """Finds how a pair names a language.

    Args:
        source: the source's code.
        target: the target's code.
        language: any code of the language.

    Returns:
        The pair's own code of that language; where no side is in it, ``language`` as it is.
    """
    sides = (source, target)
    side = sides[key_side(source, target, language)]
    return side if same_language(side, language) else language

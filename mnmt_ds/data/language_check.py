"""Whether text is in the language that it should be in, by an identifier: a report of samples, and the rule that drops.

Identifiers confuse close languages and short texts. So a text counts as another language's only where it has
``MIN_LETTERS`` letters, the identifier is ``CONFIDENT``, and the two languages are not close; what is identified as a
close language is counted apart. Text in languages that the identifier does not know is not checked.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mnmt_ds.data.held_out_overlap import LanguageFile
from mnmt_ds.data.language_codes import canonical_language, may_be_same
from mnmt_ds.data.language_identifiers import (
    IDENTIFIERS,
    Identifier,
    check_installed,
    identifier_version,
    is_known,
)
from mnmt_ds.data.settings import DataSettings

MIN_LETTERS = 20
"""Letters of a text that is looked at."""
MIN_CHARACTERS = 8
"""The same in Chinese, Japanese and Korean."""
CONFIDENT = 0.8
"""Probability from which another language is taken for certain, from 0 to 1."""
SAMPLE, SMALLEST_SAMPLE, ALL_SAMPLES = 1000, 50, 50_000
"""Most lines of a text that are looked at, evenly spaced; how many at least where there are many texts; and of all
texts together."""
LISTED, EXAMPLES = 3, 2
"""Other languages, and texts in such, that a report names."""
NOTED_SHARE, NOTED_LINES, NOTED_CLOSE = 0.02, 3, 0.2
"""From this share and number of lines in another language on, or this share in close ones, ``prepare`` names a text."""
_CLOSE = (
    "bs cnr hr sl sr", "bg mk sr", "be ru uk", "cs sk", "da nn no sv", "fo is", "af fy li nl", "de lb", "en pcm",
    "an ast ca es ext gl oc pt", "fr gcf gcr ht oc wa", "co fur it la lij lmo scn vec", "ltg lv", "et vro",
    "bjn id jv min ms su", "bik ceb tl", "as bn", "bho hi kok mai mr ne sa", "ckb fa ku ps sdh tg ur",
    "az azb crh tk tr", "ba kk ky tt", "ug uz uzs", "nr ss xh zu", "nso st tn", "rn rw", "am ti", "hbo he yi",
    "el grc", "ga gd gv",
    "aeb acm apc ar ary arz", "gan hak nan wuu yue zh", "bo dz",
)  # fmt: skip
"""Groups of languages that are close in writing, by canonical codes."""
_CJK = ("ja", "ko", "wuu", "yue", "zh")
_LETTERS = re.compile(r"[^\W\d_]")
_NO_LANGUAGE = ("zxx", "und")
"""What identifiers call text in no language."""
Verdict = Literal["short", "same", "close", "unsure", "other"]


class LanguageCounts(NamedTuple):
    """What the lines of a text are identified as."""

    language: str
    """As the recipe has it."""
    lines: int
    """Lines that were looked at, short ones aside."""
    close: int
    """Lines identified as a close language."""
    unsure: int
    """Lines identified as another one, not for certain."""
    other: int
    """Lines that are in another language for certain."""
    identified: dict[str, int]
    """Which other and close languages, and how often; the most frequent ones."""
    examples: list[str]
    """Some lines in other languages."""


@functools.cache
def are_close(first: str, second: str) -> bool:
    """Returns whether identifiers confuse two languages.

    Args:
        first: a language's code.
        second: another code.

    Returns:
        Whether they are close in writing.
    """
    codes = {canonical_language(first), canonical_language(second)}
    return any(codes <= set(group.split()) for group in _CLOSE)


def judge(text: str, language: str, identifier: Identifier) -> tuple[Verdict, str]:
    """Judges whether a text is in a language that the identifier knows.

    Args:
        text: a sentence.
        language: any code of the language.
        identifier: who is asked.

    Returns:
        The verdict, and the language that it is identified as; empty for a short text.
    """
    is_cjk = canonical_language(language) in _CJK
    if len(text) < MIN_CHARACTERS or sum(1 for _ in _LETTERS.finditer(text)) < (
        MIN_CHARACTERS if is_cjk else MIN_LETTERS
    ):
        return "short", ""
    identified, probability = IDENTIFIERS[identifier].identify(text)
    if may_be_same(identified, language):
        return "same", identified
    if are_close(identified, language):
        return "close", identified
    return "other" if probability >= CONFIDENT and identified not in _NO_LANGUAGE else "unsure", identified


def is_in_other_language(text: str, language: str, identifier: Identifier) -> bool:
    """Returns whether a text is in another language for certain; what ``clean.language: drop`` drops.

    Args:
        text: a sentence.
        language: any code of its language.
        identifier: who is asked.

    Returns:
        False also where the identifier does not know the language, or is not installed (``check_language_filter``).
    """
    can_tell = identifier_version(identifier) is not None and is_known(language, identifier)
    return can_tell and judge(text, language, identifier)[0] == "other"


def check_language_filter(settings: DataSettings) -> None:
    """Checks that pairs in other languages can be dropped, where the recipe asks for it.

    Args:
        settings: the recipe's ``data`` section.

    Raises:
        UserError: where the identifier is not installed.
    """
    corpora = [entry for files in settings.corpora.values() for entry in files.train]
    monolingual = [entry for files in settings.monolingual.values() for entry in files]
    asked = [settings.clean.language, *(entry.clean.language for entry in (*corpora, *monolingual) if entry.clean)]
    if "drop" in asked:
        check_installed(settings.clean.language_identifier, "clean.language: drop")


def count_languages(texts: Iterable[str], language: str, identifier: Identifier) -> LanguageCounts | None:
    """Counts what texts are identified as.

    Args:
        texts: sentences.
        language: the language in which they should be.
        identifier: who is asked.

    Returns:
        Counts; None where the identifier does not know the language.
    """
    if not is_known(language, identifier):
        return None
    verdicts: Counter[str] = Counter()
    identified: Counter[str] = Counter()
    examples: list[str] = []
    for text in texts:
        verdict, code = judge(text, language, identifier)
        verdicts[verdict] += 1
        identified.update([code] if verdict in ("other", "close") else [])
        if verdict == "other" and len(examples) < EXAMPLES:
            examples.append(f"{code}: {text[:80]}")
    return LanguageCounts(
        language, verdicts.total() - verdicts["short"], verdicts["close"], verdicts["unsure"], verdicts["other"],
        dict(identified.most_common(LISTED)), examples,
    )  # fmt: skip


def sampled_lines(path: Path, count: int = SAMPLE) -> list[str]:
    """Reads evenly spaced lines of a text.

    Args:
        path: UTF-8 text, a sentence a line.
        count: most lines.

    Returns:
        The lines.
    """
    with path.open("rb") as stream:
        total = sum(chunk.count(b"\n") for chunk in iter(functools.partial(stream.read, 1 << 20), b""))
    with path.open("rb") as stream:
        return [line.decode().rstrip("\n") for line in itertools.islice(stream, 0, None, max(1, -(-total // count)))]


def check_languages(
    files: Mapping[str, Sequence[LanguageFile]], identifier: Identifier
) -> dict[str, list[LanguageCounts | None]] | None:
    """Looks at what languages the texts of a corpus are in.

    Args:
        files: by name, a file a side.
        identifier: who is asked.

    Returns:
        Counts by name, one a side (None: the identifier does not know the language); None where the identifier is not
        installed.
    """
    if identifier_version(identifier) is None:
        return None
    count = max(SMALLEST_SAMPLE, min(SAMPLE, ALL_SAMPLES // max(1, sum(map(len, files.values())))))
    return {
        name: [count_languages(sampled_lines(file.path, count), file.language, identifier) for file in sides]
        for name, sides in files.items()
    }


def language_lines(languages: Mapping[str, Sequence[Any]] | None, identifier: Identifier) -> list[str]:
    """Formats which texts seem to be in another language.

    Args:
        languages: from ``check_languages``, also as JSON gives it back.
        identifier: who was asked.

    Returns:
        A line for each such text and side; one line where there is none.
    """
    if languages is None:
        return [
            f"languages not checked; pip install 'mnmt_ds[{IDENTIFIERS[identifier].extra}]' ({identifier}) checks them"
        ]
    lines, most = [], 0.0
    unknown: dict[str, None] = {}
    for name, sides in languages.items():
        names = name.split()[0].partition(".")[0].split("-") if len(sides) == 2 else [name]
        for side, values in zip(names, sides, strict=True):
            if values is None:
                unknown[side.removeprefix("mono.")] = None
                continue
            counts = LanguageCounts(*values)
            share, close = (part / (counts.lines or 1) for part in (counts.other, counts.close))
            most = max(most, share)
            identified = ", ".join(f"{code} {count:,}" for code, count in counts.identified.items())
            if share >= NOTED_SHARE and counts.other >= NOTED_LINES:
                lines.append(
                    f"{name}, {counts.language}: {share:.1%} of {counts.lines:,} lines seem to be in another language"
                    f" by {identifier} ({identified}; such as '{counts.examples[0]}'); clean.language: drop leaves"
                    " such pairs out"
                )
            elif close >= NOTED_CLOSE:
                lines.append(
                    f"{name}, {counts.language}: {close:.1%} of {counts.lines:,} lines are taken for a close language"
                    f" by {identifier} ({identified}), which identifiers confuse: look at some"
                )
    if not lines:
        at_most = f"(at most {most:.1%}, by {identifier})"
        lines = [f"languages: no text has {NOTED_SHARE:.0%} of lines that seem to be in another one {at_most}"]
    return lines + ([f"languages that {identifier} does not know: {', '.join(unknown)}"] if unknown else [])


def language_rows(languages: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """Formats a table of all texts.

    Args:
        languages: from ``check_languages``, also as JSON gives it back.

    Returns:
        The head, then a row a text and side.
    """
    rows = [
        ["text", "language", "lines", "another language", "not for certain", "a close language", "which", "such as"]
    ]
    for name, sides in languages.items():
        for values in filter(None, sides):
            counts = LanguageCounts(*values)
            identified = ", ".join(f"{code} {count:,}" for code, count in counts.identified.items())
            numbers = [f"{number:,}" for number in (counts.lines, counts.other, counts.unsure, counts.close)]
            rows.append([name, counts.language, *numbers, identified, "; ".join(counts.examples)])
    return rows

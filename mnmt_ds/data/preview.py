"""What ``prepare`` would keep, repair and drop, with examples, before anything is written."""

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.data.cleaning_rules import NOTICED, RULES, Example, lowest_examples
from mnmt_ds.data.language_check import (
    SAMPLE,
    LanguageCounts,
    check_language_filter,
    count_languages,
)
from mnmt_ds.data.language_identifiers import Identifier, identifier_version
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.readers.sources import Origin, corpus_parts
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import concatenate_hashes, usable_rows
from mnmt_ds.data.text_cleaning import cleaning_rules_for, is_dropped_domain, read_cleaned_blocks
from mnmt_ds.data.worker_pool import process_pool

MOST_DOMAINS = 20
"""Domains whose languages are looked at one by one."""
DROPPING = (*RULES, "duplicate", "domain cap")
"""What drops rows."""


class TextPreview(NamedTuple):
    """What becomes of a text's rows."""

    name: str
    """The pair, or the language of monolingual text."""
    read: int
    """Rows of its files."""
    counts: dict[str, int]
    """Rows by what became of them: "clean", the rules that drop, kinds of repair and of what is noticed."""
    examples: list[Example]
    """Some rows of each of these."""
    languages: dict[str, list[LanguageCounts | None]] | None
    """Which languages a sample of the kept rows seems to be in, by domain (under "" of all, where there are many), a
    side each; None: the identifier is not installed."""
    identifier: Identifier
    """Who was asked."""


def describe(kind: str) -> str:
    """Describes what prepare does with rows of a kind.

    Args:
        kind: a key of ``TextPreview.counts``.

    Returns:
        Such as "dropped: ratio".
    """
    if kind == "clean":
        return "kept"
    return f"{'dropped' if kind in DROPPING else 'noticed' if kind in NOTICED else 'repaired'}: {kind}"


def preview(settings: DataSettings, processes: int | None = None, examples: int = 8) -> list[TextPreview]:
    """Reads and cleans all training and monolingual text without writing any.

    Args:
        settings: the recipe's ``data`` section.
        processes: worker processes; None: one for each processor.
        examples: rows that are shown of each kind.

    Returns:
        What becomes of every pair's and language's text, in the order of the recipe.

    Raises:
        UserError: where text cannot be read, or has a bad line.
    """
    origin: Origin = "files" if settings.source == "auto" else settings.source
    check_language_filter(settings)
    if settings.source == "auto" and not any(settings.files_of(pair).train for pair in settings.pairs):
        origin = "gettext"
    identifier = settings.clean.language_identifier
    previews, is_checked = [], identifier_version(identifier) is not None
    with process_pool(processes) as pool:
        for name, role in [
            *((pair, "train") for pair in settings.pairs),
            *((lang, "mono") for lang in settings.monolingual),
        ]:
            rules = cleaning_rules_for(settings, name, is_held_out_set=False)._replace(examples=examples)
            parts = [part for part in corpus_parts(settings, name, role, origin) if not is_dropped_domain(part, rules)]
            counts: Counter[str] = Counter()
            shown: list[Example] = []
            blocks = []
            domains = list(dict.fromkeys(part.domain for part in parts))
            samples: dict[str, list[tuple[int, str, str]]] = {}
            for block in read_cleaned_blocks(pool, rules, parts, f"preview {name}"):
                counts += block.counts
                shown = lowest_examples([*shown, *block.examples], examples)
                rows = zip(block.pair.tolist(), _lines(block.source), _lines(block.target), strict=True)
                domain = domains[block.domain] if len(domains) <= MOST_DOMAINS else ""
                samples[domain] = heapq.nsmallest(SAMPLE, [*samples.get(domain, ()), *rows])
                blocks.append(block._replace(source=b"", target=b"", examples=[]))
            _, left_out = usable_rows(settings, concatenate_hashes(blocks))
            read = counts.pop("read", 0)
            counts["clean"] -= left_out.total()
            sides = split_pair(name) if role == "train" else (name,)
            languages = {domain: _languages(rows, sides, identifier) for domain, rows in samples.items() if is_checked}
            by_domain = languages if is_checked else None
            previews.append(TextPreview(name, read, {**counts, **left_out}, shown, by_domain, identifier))
    return previews


def languages_by_text(previews: Sequence[TextPreview]) -> dict[str, list[LanguageCounts | None]] | None:
    """Collects which languages the texts seem to be in.

    Args:
        previews: from ``preview``.

    Returns:
        Counts by text and domain, a side each; None where the identifier is not installed.
    """
    if any(text.languages is None for text in previews):
        return None
    texts = [(text.name, *item) for text in previews for item in (text.languages or {}).items()]
    return {f"{name} {domain}".strip(): counts for name, domain, counts in texts}


def _lines(text: bytes) -> list[str]:
    return text.decode().split("\n")[:-1]


def _languages(
    rows: Sequence[tuple[int, str, str]], sides: Sequence[str], identifier: Identifier
) -> list[LanguageCounts | None]:
    """What a sample of rows, each with its hash, is identified as."""
    texts = [[source for _, source, _ in rows], [target for _, _, target in rows]]
    return [count_languages(lines, side, identifier) for lines, side in zip(texts, sides, strict=False)]

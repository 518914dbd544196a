"""What ``prepare`` would keep, repair and drop, with examples, before anything is written."""

from collections import Counter
from typing import NamedTuple

from mnmt_ds.data.cleaning_rules import NOTICED, RULES, Example, lowest_examples
from mnmt_ds.data.readers.sources import Origin, corpus_parts
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import concatenate_hashes, usable_rows
from mnmt_ds.data.text_cleaning import cleaning_rules_for, is_dropped_domain, read_cleaned_blocks
from mnmt_ds.data.worker_pool import process_pool

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
    if settings.source == "auto" and not any(settings.files_of(pair).train for pair in settings.pairs):
        origin = "gettext"
    previews = []
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
            for block in read_cleaned_blocks(pool, rules, parts, f"preview {name}"):
                counts += block.counts
                shown = lowest_examples([*shown, *block.examples], examples)
                blocks.append(block._replace(source=b"", target=b"", examples=[]))
            _, left_out = usable_rows(settings, concatenate_hashes(blocks))
            read = counts.pop("read", 0)
            counts["clean"] -= left_out.total()
            previews.append(TextPreview(name, read, {**counts, **left_out}, shown))
    return previews

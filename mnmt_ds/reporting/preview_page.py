"""The page of ``mnmt-ds prepare --preview``: what each rule would drop or repair, with examples."""

from collections.abc import Sequence

from mnmt_ds.data.language_check import language_rows
from mnmt_ds.data.preview import DROPPING, TextPreview, describe, languages_by_text
from mnmt_ds.reporting.page import render_page
from mnmt_ds.reporting.tables import Table


def preview_tables(previews: Sequence[TextPreview]) -> list[Table]:
    """Makes the tables of the page.

    Args:
        previews: what becomes of each text.

    Returns:
        A table of counts, and one of examples for each text.
    """
    kinds = {kind for preview in previews for kind, count in preview.counts.items() if count}
    used = sorted(kinds, key=_order)
    rows = [
        (preview.name, f"{preview.read:,}", *(f"{preview.counts.get(kind, 0):,}" for kind in used))
        for preview in previews
    ]
    counts = Table(
        "counts", "Rows by what becomes of them",
        "A row is counted under the first rule that drops it; repairs and what is noticed beside that. Held-out"
        " sentences, limits and shares of synthetic text are applied later, and stand in prepare's report",
        ("text", "read", *map(describe, used)), rows,
    )  # fmt: skip
    return [counts, *_languages(previews), *(_examples(preview) for preview in previews)]


def preview_page(directory: str, previews: Sequence[TextPreview]) -> str:
    """Renders the page.

    Args:
        directory: of the corpus, for the heading.
        previews: what becomes of each text.

    Returns:
        HTML that needs no other file.
    """
    return render_page(f"What prepare would make of {directory}", [], preview_tables(previews), "prepare --preview")


def _order(kind: str) -> tuple[bool, bool, str]:
    """What is kept first, then what is dropped, then repairs and what is noticed."""
    return kind != "clean", kind not in DROPPING, kind


def _languages(previews: Sequence[TextPreview]) -> list[Table]:
    """The table of languages; none where the identifier is not installed."""
    by_name = languages_by_text(previews)
    if not by_name:
        return []
    head, *rows = language_rows(by_name)
    return [Table(
        "languages", "Which languages the text seems to be in",
        f"By {previews[0].identifier}, of up to 1,000 rows a corpus that are kept and have 20 letters or more. Another"
        " language, for certain or perhaps; close languages, which identifiers confuse, stand apart. clean.language:"
        " drop leaves out what is certain", tuple(head), [tuple(row) for row in rows], is_text=True,
    )]  # fmt: skip


def _examples(preview: TextPreview) -> Table:
    rows = [
        (describe(example.kind), example.source, example.target, example.place)
        for example in sorted(preview.examples, key=lambda example: (_order(example.kind), example.hash))
    ]
    return Table(
        f"examples.{preview.name}", f"{preview.name}: examples", "Drawn by a hash of the text, after repairs",
        ("what becomes of it", "source", "target", "file and line"), rows, is_text=True,
    )  # fmt: skip

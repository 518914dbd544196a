"""The sections of the pages under docs/."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
GENERATED = ("configuration.md", "metrics.md", "cli.md", "benchmarks.md", "support_matrix.md")
"""Pages that programs write: they name everything and explain little."""


def sections_with(text: str) -> list[str]:
    """Finds the sections that hold a text, not followed by a further letter.

    Args:
        text: such as ``name: lssd``.

    Returns:
        ``page: heading`` of each.
    """
    pattern, sections = re.compile(rf"(?<![\w-]){re.escape(text)}(?![\w-])"), []
    for page in sorted(DOCS.rglob("*.md")):
        if page.name in GENERATED:
            continue
        for section in re.split(r"^(?=#+ )", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if pattern.search(section):
                sections.append(f"{page.relative_to(DOCS)}: {section.partition(chr(10))[0]}")
    return sections

"""README and docs as text: files, links, code in backticks and fenced blocks."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, info: str) -> list[str]:
    """The page's fenced blocks whose opening fence says ``info``, such as "sh tutorial"."""
    return [body for opening, body in FENCE.findall(text_of(page)) if opening.strip() == info]


def commands(page: Path) -> list[str]:
    """Shell lines of all fenced ``sh`` blocks (continued lines joined, comments cut) and code in backticks."""
    text = text_of(page)
    shell = "".join(body for opening, body in FENCE.findall(text) if opening.startswith("sh")).replace("\\\n", " ")
    lines = [re.sub(r"\s#\s.*|^#.*", "", line).strip() for line in shell.splitlines()]
    return [line for line in lines if line] + spans(page)


def spans(page: Path) -> list[str]:
    """Code in backticks outside of fenced blocks, line ends as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text_of(page)))]


def anchors(page: Path) -> set[str]:
    """What a link's #part may name: each heading as GitHub spells it."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    explicit = set(re.findall(r'<a (?:id|name)="([^"]+)"', text_of(page)))
    return explicit | {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}

"""Qt Linguist's .ts files: messages with their translations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.language_codes import canonical_language
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.xml_elements import elements, is_turned
from mnmt_ds.errors import UserError

UNUSED = ("unfinished", "vanished", "obsolete")
"""Types of a translation that no program shows."""
GENERAL_FORM = {"lv": 1}
"""Which plural form many things have, by language, where it is not Qt's last one (Latvian's last is that of none)."""


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads every message that is translated. Messages with numbers ("%n files") stand beside the form for many things.

    Args:
        request: one path; ``codes`` or ``columns`` name the languages where the file calls them otherwise. The language
            of the messages is the file's ``sourcelanguage``, or English.

    Yields:
        A row a message, numbered by its line.

    Raises:
        UserError: when the file is not whole XML, is in other languages, or holds no translation.
    """
    (path,) = request.paths
    turned: bool | None = None
    for message in elements(path, "message"):
        translation, source = message.find("translation"), message.find("source")
        if turned is None:
            root = message.getroottree().getroot()
            languages = root.get("sourcelanguage") or "en", root.get("language") or ""
            turned = is_turned(path, languages, request.names)
        if translation is None or source is None or translation.get("type") in UNUSED:
            continue
        forms = translation.findall("numerusform") if len(translation) else []
        if forms:
            general = GENERAL_FORM.get(canonical_language(request.source if turned else request.target), -1)
            translation = forms[general if general < len(forms) else -1]
        pair = _text(source), _text(translation)
        if pair[1].strip():
            yield message.sourceline or 0, *(reversed(pair) if turned else pair), None  # type: ignore[misc]
    if turned is None:
        raise UserError(f"{path}: holds no message; is this a .ts file of Qt Linguist?")


def _text(element: Any) -> str:
    """An element's text; of several lengths of one text the first, which is the longest."""
    if not len(element):
        return element.text or ""
    variant = element.find("lengthvariant")
    if variant is not None:
        element = variant
    parts = [element.text or ""]
    for child in element:
        if child.tag == "byte":
            parts.append(_character(child.get("value") or ""))
        parts.append(child.tail or "")
    return "".join(parts)


def _character(value: str) -> str:
    """The character that ``x1b`` or ``27`` means; a NUL, or no number, is none."""
    try:
        return chr(int(value[1:], 16) if value.startswith("x") else int(value)).replace("\0", "")
    except (ValueError, OverflowError):
        return ""


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    messages = "".join(
        f"<message><source>{source}</source><translation>{target}</translation></message>\n"
        for source, target in (("a cat", "un chat"), ("two cats", "deux chats"))
    )
    text = f'<!DOCTYPE TS>\n<TS version="2.1" language="fr_FR"><context><name>x</name>\n{messages}</context></TS>\n'
    (folder / "text.ts").write_text(text, encoding="utf-8")
    return {"path": str(folder / "text.ts")}

"""XLIFF 1.2 and 2: segments with their translations.

Inline elements as the standards define them: g, mrk (1.2) and pc, mrk (2) hold text of the segment; x, bx, ex (1.2) and
ph, sc, ec, sm, em (2) hold none; what stands in bpt, ept, ph and it (1.2) is markup of the original format, but for a
sub, which is a text of its own; cp (2) is a character that XML cannot hold.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.xml_elements import elements, is_turned, local_name
from mnmt_ds.errors import UserError

NATIVE_CODES = ("bpt", "ept", "ph", "it")
"""Elements of XLIFF 1.2 whose content is markup of the original format."""
UNTRANSLATED = ("new", "needs-translation")
"""States of XLIFF 1.2 in which a target is no translation yet."""


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads every segment that is translated.

    Args:
        request: one path; ``codes`` or ``columns`` name the languages where the file calls them otherwise. A file from
            the pair's target into its source is read, too.

    Yields:
        A row a segment, numbered by its unit's line; then a row for each text inside its inline codes, where both sides
        have as many of these.

    Raises:
        UserError: when the file is not whole XML, is in other languages, or holds no translation.
    """
    (path,) = request.paths
    any_rows = False
    around, fixed, turned = None, False, False
    for unit in elements(path, "trans-unit", "segment"):
        parts = {local_name(child): child for child in unit}
        if "source" not in parts or "target" not in parts:
            continue
        if unit.getparent() is not around:
            around = unit.getparent()
            fixed, turned = _is_fixed(around), is_turned(f"{path}:{unit.sourceline}", _languages(unit), request.names)
        if unit.get("translate", "no" if fixed else "yes") == "no":
            continue
        for source, target in _segments(parts):
            texts = _texts(source), _texts(target)
            same = len(texts[0]) == len(texts[1])
            for pair in zip(*texts, strict=True) if same else [(texts[0][0], texts[1][0])]:
                any_rows = True
                yield unit.sourceline or 0, *(reversed(pair) if turned else pair), None  # type: ignore[misc]
    if not any_rows:
        raise UserError(f"{path}: holds no translated segment; mend or leave out this file")


def _languages(unit: Any) -> tuple[str, str]:
    """Source and target language as the file says; '' where it does not."""
    source, target = "", ""
    for parent in unit.iterancestors("{*}file", "{*}xliff"):
        source = source or parent.get("source-language") or parent.get("srcLang") or ""
        target = target or parent.get("target-language") or parent.get("trgLang") or ""
    return source, target


def _is_fixed(element: Any) -> bool:
    """Whether an element, or else the nearest one around it that says so, is not to be translated."""
    translate_attributes = (each.get("translate") for each in (element, *element.iterancestors()))
    return next((value for value in translate_attributes if value), "yes") == "no"


def _segments(parts: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Source and target of a unit; of a segmented one those of its segments, by their numbers."""
    target = parts["target"]
    if target.get("state") in UNTRANSLATED or target.get("state-qualifier") in UNTRANSLATED:
        return
    if "seg-source" in parts:
        targets = {mark.get("mid"): mark for mark in _marks(target)}
        pairs = [(mark, targets[mark.get("mid")]) for mark in _marks(parts["seg-source"]) if mark.get("mid") in targets]
        if pairs:
            yield from pairs
            return
    yield parts["source"], target


def _marks(side: Any) -> list[Any]:
    return [mark for mark in side.iter("{*}mrk") if mark.get("mtype") == "seg"]


def _texts(side: Any) -> list[str]:
    """A side's own text, then those of the sub elements in its codes."""
    if not len(side):
        return [side.text or ""]
    own, inner = [side.text or ""], []
    for child in side:
        name = local_name(child)
        if name in NATIVE_CODES:
            inner += [text for sub in child.iterfind("{*}sub") for text in _texts(sub)]
        elif name == "cp":
            own.append(_character(child.get("hex") or ""))
        elif name:
            text, *further = _texts(child)
            own.append(text)
            inner += further
        own.append(child.tail or "")
    return ["".join(own), *inner]


def _character(code: str) -> str:
    """The character of a hexadecimal code; a NUL, or no code, is none."""
    try:
        return chr(int(code, 16)).replace("\0", "")
    except (ValueError, OverflowError):
        return ""


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    units = "".join(
        f'<trans-unit id="{number}"><source>{source}</source><target>{target}</target></trans-unit>\n'
        for number, (source, target) in enumerate((("un chat", "a cat"), ("deux chats", "two cats")))
    )
    text = (
        '<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">\n'
        f'<file source-language="fr" target-language="en" original="x" datatype="plaintext"><body>\n{units}'
        "</body></file></xliff>\n"
    )
    (folder / "text.xlf").write_text(text, encoding="utf-8")
    return {"path": str(folder / "text.xlf")}

"""TMX: translation units, read one at a time.

Inline elements as TMX 1.4b defines them: what stands in bpt, ept, it, ph and ut are codes of the original format, not
words; the text in hi belongs to the segment; a sub inside codes (a footnote, an image's description) is a text of its
own.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.language_codes import fits, matching_codes
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.xml_elements import elements, local_name
from mnmt_ds.errors import UserError

LOG = logging.getLogger(__name__)
NATIVE_CODES = ("bpt", "ept", "it", "ph", "ut")
"""Elements whose content is markup of the original format."""
LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads each source variant of a unit with its target variant; fr matches fr-CA where a unit has no plain fr.

    Args:
        request: one path; ``codes`` or ``columns`` name the languages where the file calls them otherwise.

    Yields:
        A row a pair of variants, numbered by the unit's line; variants of one language are paired in their order. Then
        a row for each text inside their inline codes, where both variants have as many of these.

    Raises:
        UserError: when the file is not whole XML, or no unit has both languages.
    """
    (path,) = request.paths
    source, target = request.names
    any_rows, chosen = False, dict[str, str]()
    for unit in elements(path, "tu"):
        segments = _segments(unit)
        sides = [_variants(segments, language, path, chosen) for language in (source, target)]
        for source_segment, target_segment in zip(*sides, strict=False):
            any_rows = True
            texts = _texts(source_segment), _texts(target_segment)
            same = len(texts[0]) == len(texts[1])
            for pair in zip(*texts, strict=True) if same else [(texts[0][0], texts[1][0])]:
                yield unit.sourceline or 0, *pair, None
    if not any_rows:
        raise UserError(
            f"{path}:1: no unit holds both '{source}' and '{target}'; give 'codes' if they are called otherwise"
        )


def _segments(unit: Any) -> dict[str, list[Any]]:
    """The unit's segments by the codes of their languages."""
    segments_by_code: dict[str, list[Any]] = {}
    for variant in unit:
        if local_name(variant) == "tuv":
            code = (variant.get(LANG) or variant.get("lang") or "").lower().replace("_", "-")
            segment = next((child for child in variant if local_name(child) == "seg"), None)
            if segment is not None:
                segments_by_code.setdefault(code, []).append(segment)
    return segments_by_code


def _variants(segments_by_code: dict[str, list[Any]], language: str, path: str, chosen: dict[str, str]) -> list[Any]:
    """A unit's segments in a language, or else in its first variety; a choice of several is said once a file."""
    code = language.lower().replace("_", "-")
    if code in segments_by_code:
        return segments_by_code[code]
    varieties = sorted(matching_codes(language, segments_by_code))
    if not varieties:
        return []
    others = sorted(name for name in segments_by_code if name != varieties[0] and fits(name, language))
    if others and language not in chosen:
        read, unread = varieties[0], ", ".join(others)
        LOG.info("%s: %s is read from %s, not from %s; 'codes' names another", path, language, read, unread)
    chosen.setdefault(language, varieties[0])
    return segments_by_code[varieties[0]]


def _texts(segment: Any) -> list[str]:
    """The segment's own text, then those of the sub elements in its codes."""
    if not len(segment):
        return [segment.text or ""]
    own, inner = [segment.text or ""], []
    for child in segment:
        name = local_name(child)
        if name in NATIVE_CODES:
            inner += [text for sub in child.iterfind("{*}sub") for text in _texts(sub)]
        elif name:
            text, *further = _texts(child)
            own.append(text)
            inner += further
        own.append(child.tail or "")
    return ["".join(own), *inner]


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    units = (("un chat", "a cat"), ("deux chats", "two cats"))
    lines = [
        f'<tu><tuv xml:lang="fr"><seg>{source}</seg></tuv><tuv xml:lang="en"><seg>{target}</seg></tuv></tu>'
        for source, target in units
    ]
    text = "\n".join(['<tmx version="1.4"><header/><body>', *lines, "</body></tmx>"])
    (folder / "text.tmx").write_text(text, encoding="utf-8")
    return {"path": str(folder / "text.tmx")}

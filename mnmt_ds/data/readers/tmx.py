"""TMX: translation units, read one at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import DAMAGED, damaged_file, open_decompressed
from mnmt_ds.errors import UserError

LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads each source variant of a unit with its target variant; fr matches fr-CA where a unit has no plain fr.

    Args:
        request: one path; ``codes`` or ``columns`` name the languages where the file calls them otherwise.

    Yields:
        A row a pair of variants, numbered by the unit's line; variants of one language are paired in their order.

    Raises:
        UserError: when the file is not whole XML, or no unit has both languages.
    """
    from lxml import etree

    (path,) = request.paths
    source, target = request.names
    any_rows = False
    try:
        with open_decompressed(path) as stream:
            units = etree.iterparse(
                stream, tag=("{*}tu",), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True
            )
            for _, unit in units:
                sides = _variants(unit, source), _variants(unit, target)
                for variants in zip(*sides, strict=False):
                    any_rows = True
                    yield unit.sourceline or 0, *variants, None
                unit.clear()
                while unit.getprevious() is not None:
                    del unit.getparent()[0]
    except etree.XMLSyntaxError as error:
        line = error.position[0] if error.position else 1
        raise UserError(f"{path}:{line}: not whole XML ({error.msg}); mend or leave out this file") from None
    except DAMAGED as error:
        raise damaged_file(path, error) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); mend the path in the recipe") from None
    if not any_rows:
        raise UserError(
            f"{path}:1: no unit holds both '{source}' and '{target}'; give 'codes' if they are called otherwise"
        )


def _variants(unit: Any, language: str) -> list[str]:
    """The unit's texts in a language, or else in its first regional variety."""
    code = language.lower().replace("_", "-")
    texts_by_code: dict[str, list[str]] = {}
    for variant in unit.iterfind("{*}tuv"):
        variant_code = (variant.get(LANG) or variant.get("lang") or "").lower().replace("_", "-")
        segment = variant.find("{*}seg")
        if segment is not None:
            texts_by_code.setdefault(variant_code, []).append("".join(segment.itertext()))
    regional = (texts for name, texts in sorted(texts_by_code.items()) if name.split("-")[0] == code)
    return texts_by_code.get(code) or next(regional, [])


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

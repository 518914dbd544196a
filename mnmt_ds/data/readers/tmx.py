"""TMX: translation units, read one at a time."""

from collections.abc import Iterator

from mnmt_ds.data.readers.corpus_part import Row
from mnmt_ds.data.readers.lines import opened
from mnmt_ds.errors import UserError

LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def tmx(path: str, source: str, target: str) -> Iterator[Row]:
    """Each source variant of a unit with its target variant; fr matches fr-CA where a unit has no plain fr."""
    from lxml import etree

    found = False
    try:
        with opened(path) as stream:
            units = etree.iterparse(
                stream, tag=("{*}tu",), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True
            )
            for _, unit in units:
                sides = _variants(unit, source), _variants(unit, target)
                for pair in zip(*sides, strict=False):
                    found = True
                    yield unit.sourceline or 0, *pair, None
                unit.clear()
                while unit.getprevious() is not None:
                    del unit.getparent()[0]
    except etree.XMLSyntaxError as error:
        line = error.position[0] if error.position else 1
        raise UserError(f"{path}:{line}: not whole XML ({error.msg}); mend or leave out this file") from None
    except (EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); mend the path or copy the file again") from None
    if not found:
        raise UserError(
            f"{path}:1: no unit holds both '{source}' and '{target}'; give 'codes' if they are called otherwise"
        )


def _variants(unit: "object", language: str) -> list[str]:
    wanted = language.lower().replace("_", "-")
    by_code: dict[str, list[str]] = {}
    for variant in unit.iterfind("{*}tuv"):  # type: ignore[attr-defined]
        code = (variant.get(LANG) or variant.get("lang") or "").lower().replace("_", "-")
        segment = variant.find("{*}seg")
        if segment is not None:
            by_code.setdefault(code, []).append("".join(segment.itertext()))
    near = next((texts for code, texts in sorted(by_code.items()) if code.split("-")[0] == wanted), [])
    return by_code.get(wanted) or near

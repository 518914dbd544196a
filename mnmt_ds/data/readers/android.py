"""Android's string resources: a file a language, in values, values-fr, values-pt-rBR, values-b+sr+Latn."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.language_choice import codes_for
from mnmt_ds.data.language_codes import canonical_language
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.xml_elements import elements, local_name
from mnmt_ds.errors import UserError

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PLAIN = {"n": "\n", "t": "\t"}
_LANGUAGE = re.compile(r"values-(?:b\+([a-zA-Z]{2,3})((?:\+[a-zA-Z0-9]+)*)|([a-z]{2,3})(?:-r([A-Z]{2}))?)(?:-v\d+)?")


def locate(request: ReadRequest) -> list[ReadRequest]:
    """Finds the two languages' files below a directory of resources.

    Args:
        request: one path, the directory that holds ``values`` and its like (``res``); ``codes`` name a language's
            directory where its code does not say it. What is in ``values`` is English, or the language for which
            ``codes`` has ``values``.

    Returns:
        One request for each file that both languages have.

    Raises:
        UserError: when a language has no directory, or several, or no file is there in both.
    """
    root = Path(request.paths[0])
    folders = [_folder(root, side, request.codes) for side in (request.source, request.target)]
    names = sorted({path.name for path in folders[0].glob("*.xml")} & {path.name for path in folders[1].glob("*.xml")})
    if not names:
        raise UserError(f"{root}: {folders[0].name} and {folders[1].name} have no .xml file in common; mend 'path'")
    return [request._replace(paths=(str(folders[0] / name), str(folders[1] / name))) for name in names]


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads the strings that both files have: by name, of arrays by place, of plurals by quantity (one and other).

    Args:
        request: two paths.

    Yields:
        A row a string, in the order of the source's file, numbered by its line there.

    Raises:
        UserError: when a file is not whole XML.
    """
    source_path, target_path = request.paths
    targets = {name: text for _, name, text in _strings(target_path)}
    for number, name, text in _strings(source_path):
        if name in targets:
            yield number, text, targets[name], None


def _folder(root: Path, language: str, codes: Any) -> Path:
    """The directory of a language's strings."""
    if language in codes:
        folders = [root / codes[language]]
    else:
        by_code = {path: _code(path.name) for path in sorted(root.glob("values-*")) if path.is_dir()}
        meant = codes_for(language, [code for code in by_code.values() if code], str(root))
        folders = [path for path, code in by_code.items() if code in meant]
        if not folders and canonical_language(language) == "en" and "values" not in codes.values():
            folders = [root / "values"]
    if len(folders) != 1 or not folders[0].is_dir():
        names = ", ".join(path.name for path in (folders if len(folders) > 1 else sorted(root.glob("values*")))[:20])
        raise UserError(
            f"{root}: {len(folders) if len(folders) > 1 else 'no'} directories of strings for '{language}' (there are"
            f" {names or 'none'}); say 'codes: {{{language}: values-…}}'"
        )
    return folders[0]


def _code(folder: str) -> str:
    """The language that a directory's name says: ``pt_BR``, ``sr_Latn``; '' where it says none, as values-land."""
    match = _LANGUAGE.fullmatch(folder)
    if match is None:
        return ""
    language = (match[1] or match[3]).lower()
    region = match[2].replace("+", "_") if match[2] else f"_{match[4]}" if match[4] else ""
    return language + region


def _strings(path: str) -> Iterator[tuple[int, tuple[str, str], str]]:
    """Line, name with place or quantity, and text of every string that is meant to be translated."""
    for element in elements(path, "string", "string-array", "plurals"):
        if element.get("translatable") == "false":
            continue
        name, kind = element.get("name") or "", local_name(element)
        if kind == "string":
            items = [("", element)]
        else:
            children = [child for child in element if local_name(child) == "item"]
            keys = [child.get("quantity") or "" if kind == "plurals" else str(i) for i, child in enumerate(children)]
            items = list(zip(keys, children, strict=True))
        for key, item in items:
            raw = "".join(item.xpath(".//text()"))
            if not raw.strip().startswith(("@string/", "?", "@android:")):
                yield item.sourceline or 0, (f"{kind} {name}", key), unescape(raw)


def unescape(raw: str) -> str:
    r"""Reads a resource's text: quotes keep white space, which is one space elsewhere; \' \" \n \u0041 are escapes.

    Args:
        raw: content of the XML element.

    Returns:
        What the program shows.
    """
    parts = _split_quoted(raw.strip())
    shown = [part if number % 2 else re.sub(r"\s+", " ", part) for number, part in enumerate(parts)]
    text = _ESCAPE.sub(_escaped, "".join(shown))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # \ud83d\ude00 is one character


def _split_quoted(text: str) -> list[str]:
    """The text between quotes that are not escaped: outside, inside, outside, …"""
    parts, start, i = [], 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == '"':
            parts.append(text[start:i])
            start = i + 1
        i += 1
    return [*parts, text[start:]]


def _escaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) == 5 else _PLAIN.get(code, code)


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    for name, texts in (("values", ("a cat", "two cats")), ("values-fr", ("un chat", "deux chats"))):
        (folder / name).mkdir()
        strings = "".join(f'<string name="s{number}">{text}</string>\n' for number, text in enumerate(texts))
        (folder / name / "strings.xml").write_text(f"<resources>\n{strings}</resources>\n", encoding="utf-8")
    return {"path": str(folder)}

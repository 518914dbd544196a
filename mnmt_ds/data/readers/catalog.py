"""Gettext catalogs: compiled (.mo), source (.po), and the system's own, joined where neither side is English."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.errors import UserError

MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
"""First bytes of a .mo file, and the byte order that they mean."""
T = TypeVar("T", str, bytes)


def with_key_language(request: ReadRequest) -> list[ReadRequest]:
    """Finds the part of a catalog that the recipe names: its messages are in the key language (English).

    Args:
        request: one path.

    Returns:
        The request alone.

    Raises:
        UserError: when the key language is no side of the pair.
    """
    if request.key_language not in split_pair(request.pair):
        raise UserError(
            f"data.corpora.{request.pair}: {request.format} catalogs hold {request.key_language} and one other language"
        )
    return [request]


def read_mo(request: ReadRequest) -> Iterator[Row]:
    """Reads a compiled catalog.

    Args:
        request: one path; the catalog's messages are in the key language, its translations in the other one.

    Yields:
        A row a message, and one more for its plural; the number is the entry's.

    Raises:
        UserError: when the file cannot be read or is not a whole catalog.
    """
    (path,) = request.paths
    messages_are_target = _messages_are_target(request)
    charset = "utf-8"
    for number, key, value in _mo_entries(path):
        if not key:
            charset = _charset(path, value)
            continue
        for message, translation in _mo_forms(key, value):
            if charset != "utf-8":
                translation = translation.decode(charset, "replace").encode()
            yield (number, translation, message, None) if messages_are_target else (number, message, translation, None)


def read_po(request: ReadRequest) -> Iterator[Row]:
    """Reads a catalog's source; fuzzy and obsolete entries are left out.

    Args:
        request: one path; the catalog's messages are in the key language, its translations in the other one.

    Yields:
        A row a message, and one more for its plural; the number is the entry's line.

    Raises:
        UserError: when the file is no readable UTF-8 catalog.
    """
    import polib

    (path,) = request.paths
    messages_are_target = _messages_are_target(request)
    try:
        catalog = polib.pofile(path, encoding="utf-8")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path}: not a readable UTF-8 PO catalog ({' '.join(str(error).split())}); mend it") from None
    for entry in catalog:
        if entry.obsolete or entry.fuzzy or not entry.msgid:
            continue
        forms = [text for _, text in sorted(entry.msgstr_plural.items())] or [entry.msgstr]
        messages = [entry.msgid, entry.msgid_plural] if entry.msgid_plural else [entry.msgid]
        for message, translation in _pair_forms(messages, forms):
            sides = (translation, message) if messages_are_target else (message, translation)
            yield entry.linenum or 0, *sides, None


def locate_system(request: ReadRequest) -> list[ReadRequest]:
    """Finds the system's catalogs for a pair.

    Args:
        request: ``catalog_roots`` are searched; its paths are not looked at.

    Returns:
        A request a catalog, whose domain is the catalog's name: with one path where a side is the key language; else
        with the paths of both languages' catalogs of that name.
    """
    source, target = split_pair(request.pair)
    if request.key_language in (source, target):
        other = target if source == request.key_language else source
        files = [(path,) for path in _system_catalogs(other, request.catalog_roots)]
        return [request._replace(paths=paths, domain=Path(paths[0]).stem) for paths in files]
    target_paths = {Path(path).name: path for path in _system_catalogs(target, request.catalog_roots)}
    return [
        request._replace(paths=(path, target_paths[name]), domain=Path(path).stem)
        for path in _system_catalogs(source, request.catalog_roots)
        if (name := Path(path).name) in target_paths
    ]


def read_system(request: ReadRequest) -> Iterator[Row]:
    """Reads a catalog of the system, or two languages' catalogs joined on the English message.

    Args:
        request: what ``locate_system`` returned.

    Yields:
        A row a message that all of its catalogs have, and one more for its plural. The key of joined rows is the
        English message.

    Raises:
        UserError: when a file cannot be read or is not a whole catalog.
    """
    if len(request.paths) == 1:
        yield from read_mo(request)
        return
    source_path, target_path = request.paths
    target_values = {key: value for _, key, value in _mo_entries(target_path)}
    for number, key, value in _mo_entries(source_path):
        if key and key in target_values:
            both_forms = zip(_mo_forms(key, value), _mo_forms(key, target_values[key]), strict=False)
            for (message, source), (_, target) in both_forms:
                yield number, source, target, message.decode("utf-8", "replace")


def _messages_are_target(request: ReadRequest) -> bool:
    """Whether the catalog's messages (in the key language) are the target side."""
    return split_pair(request.pair)[1] == request.key_language


def _system_catalogs(language: str, roots: tuple[str, ...]) -> list[str]:
    """Paths in the language's own directory, or in that of a country (pt_BR) where it has none."""
    for root in roots:
        plain = Path(root) / language / "LC_MESSAGES"
        for directory in [plain, *sorted(Path(root).glob(f"{language}_[A-Z]*/LC_MESSAGES"))]:
            if paths := sorted(str(path) for path in directory.glob("*.mo")):
                return paths
    return []


def _mo_entries(path: str) -> Iterator[tuple[int, bytes, bytes]]:
    """Number from 1, message with context and plural, translations."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend or leave out this catalog") from None
    order = MAGIC.get(data[:4])
    try:
        if order is None:
            raise struct.error
        count, originals, translations = struct.unpack_from(f"{order}3I", data, 8)
        for i in range(count):
            key_size, key_start = struct.unpack_from(f"{order}2I", data, originals + 8 * i)
            value_size, value_start = struct.unpack_from(f"{order}2I", data, translations + 8 * i)
            if max(key_start + key_size, value_start + value_size) > len(data):
                raise struct.error
            yield i + 1, data[key_start : key_start + key_size], data[value_start : value_start + value_size]
    except struct.error:
        raise UserError(f"{path}: not a whole .mo catalog; mend or leave out this file") from None


def _charset(path: str, header: bytes) -> str:
    name = header.lower().partition(b"charset=")[2].split()[:1]
    charset = name[0].decode("ascii", "replace") if name else "utf-8"
    try:
        return "utf-8" if "".encode(charset) is None or charset in ("utf-8", "utf8", "ascii", "us-ascii") else charset
    except LookupError:
        raise UserError(f"{path}:1: unknown charset '{charset}' in the catalog's header; leave this file out") from None


def _mo_forms(key: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    """(message, translation) for an entry; the context before \\4 goes, plural forms after \\0 are paired up."""
    return _pair_forms(key.rpartition(b"\4")[2].split(b"\0"), value.split(b"\0"))


def _pair_forms(messages: list[T], forms: list[T]) -> list[tuple[T, T]]:
    """Singular with the first form, plural with the last; a language with one form has it for the plural."""
    if len(messages) == 1:
        return [(messages[0], forms[0])]
    return [(messages[-1], forms[0])] if len(forms) == 1 else [(messages[0], forms[0]), (messages[-1], forms[-1])]


def example_po(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    _example_catalog().save(str(folder / "tool.po"))
    return {"path": str(folder / "tool.po")}


def example_mo(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    _example_catalog().save_as_mofile(str(folder / "tool.mo"))
    return {"path": str(folder / "tool.mo")}


def example_system(folder: Path) -> dict[str, Any]:
    """Writes a minimal catalog of the system, fr-en, for ``data.catalogs``.

    Args:
        folder: an empty directory, which ``data.catalogs`` names.

    Returns:
        Keys of the recipe's entry, ``format`` left out: none.
    """
    (folder / "fr" / "LC_MESSAGES").mkdir(parents=True)
    example_mo(folder / "fr" / "LC_MESSAGES")
    return {}


def _example_catalog() -> Any:
    """A catalog of French with two messages."""
    import polib

    catalog = polib.POFile()
    catalog.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    for message, translation in (("a cat", "un chat"), ("two cats", "deux chats")):
        catalog.append(polib.POEntry(msgid=message, msgstr=translation))
    return catalog

"""Gettext catalogs: compiled (.mo) and source (.po), each plain or compressed, of English and one other language."""

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import opened
from mnmt_ds.data.readers.plural_forms import pair_forms, read_plural_forms
from mnmt_ds.errors import UserError

MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
"""First bytes of a .mo file, and the byte order that they mean."""
IDENTIFIER = re.compile(r"(?=.*[._:/-]|[a-z0-9]+[A-Z]|[A-Z0-9]+_)[A-Za-z0-9]+(?:[._:/-]+[A-Za-z0-9]+)*")
"""A message that is a name in the program, such as ``dialog.title`` or ``openFile``."""


class Message(NamedTuple):
    """A message with its translation."""

    number: int
    """The entry's number, or its line in a .po file."""
    entry: str
    """What identifies its entry: context, message and plural."""
    message: str
    translation: str


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
        UserError: when the file cannot be read or is not a whole catalog, or its messages are not English.
    """
    yield from _rows(request, mo_messages(request.paths[0]))


def read_po(request: ReadRequest) -> Iterator[Row]:
    """Reads a catalog's source; fuzzy and obsolete entries are left out.

    Args:
        request: one path; the catalog's messages are in the key language, its translations in the other one.

    Yields:
        A row a message, and one more for its plural; the number is the entry's line.

    Raises:
        UserError: when the file is no readable catalog, or its messages are not English.
    """
    yield from _rows(request, po_messages(request.paths[0]))


def _rows(request: ReadRequest, messages: Sequence[Message]) -> Iterator[Row]:
    if are_identifiers(messages):
        raise UserError(
            f"{request.paths[0]}: its messages are identifiers such as '{messages[0].message}', not"
            f" {request.key_language} text; leave this catalog out"
        )
    messages_are_target = split_pair(request.pair)[1] == request.key_language
    for entry in messages:
        sides = as_bytes(entry.message), as_bytes(entry.translation)
        yield entry.number, *(reversed(sides) if messages_are_target else sides), None


def as_bytes(text: str) -> bytes:
    """Encodes a message's text as UTF-8; bytes of the catalog that are no UTF-8 stay as they were.

    Args:
        text: of a ``Message``.

    Returns:
        Its UTF-8; bytes of the catalog that are none stand in it as they were.
    """
    return text.encode("utf-8", "surrogateescape")


def are_identifiers(messages: Sequence[Message]) -> bool:
    """Returns whether a catalog's messages are names in the program instead of text.

    Args:
        messages: of a catalog.

    Returns:
        Whether at least nine in ten are identifiers, and most of these are translated by something else.
    """
    named = [entry for entry in messages if IDENTIFIER.fullmatch(entry.message)]
    texts = sum(IDENTIFIER.fullmatch(entry.translation) is None for entry in named)
    return len(messages) >= 10 and 10 * len(named) >= 9 * len(messages) and 2 * texts > len(named)


def mo_messages(path: str) -> list[Message]:
    """Reads the messages of a compiled catalog.

    Args:
        path: the .mo file, decompressed where its name ends in .gz, .xz or .zst.

    Returns:
        A message a number, singulars and plurals by themselves. Bytes that are no UTF-8 become lone surrogates (see
        ``as_bytes``), those that are not of another charset U+FFFD.

    Raises:
        UserError: when the file cannot be read or is not a whole catalog.
    """
    entries = list(_mo_entries(path))
    header = next((value for _, key, value in entries if not key), b"")
    charset, forms = _charset(path, header), read_plural_forms(header.decode("utf-8", "replace"))
    faults, messages = "surrogateescape" if charset == "utf-8" else "replace", []
    for number, key, value in entries:
        if not key:
            continue
        name, translations = key.decode(charset, faults), value.decode(charset, faults).split("\0")
        for message, translation in pair_forms(name.rpartition("\4")[2].split("\0"), translations, forms):
            messages.append(Message(number, name, message, translation))
    return messages


def po_messages(path: str) -> list[Message]:
    """Reads the messages of a catalog's source; fuzzy and obsolete entries are left out.

    Args:
        path: the .po file, decompressed where its name ends in .gz, .xz or .zst.

    Returns:
        A message a number, singulars and plurals by themselves.

    Raises:
        UserError: when the file is no readable catalog.
    """
    import polib

    data = _read(path)
    header = re.search(rb'msgid\s+""\s*\nmsgstr\s+((?:"[^\n]*\s*)+)', data)
    charset = _charset(path, header[1].replace(b"\\n", b" ") if header else b"")
    try:
        # polib takes a text without a line feed for a path
        catalog = polib.pofile(data.decode(charset).removeprefix("\ufeff") + "\n", check_for_duplicates=False)
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable {charset.upper()} PO catalog ({reason}); mend it") from None
    forms = read_plural_forms("\n".join(f"{name}: {value}" for name, value in catalog.metadata.items()))
    messages = []
    for entry in catalog:
        if entry.obsolete or entry.fuzzy or not entry.msgid:
            continue
        name = "\0".join([entry.msgctxt or "", entry.msgid, entry.msgid_plural or ""])
        translations = [text for _, text in sorted(entry.msgstr_plural.items())] or [entry.msgstr]
        texts = [entry.msgid, entry.msgid_plural] if entry.msgid_plural else [entry.msgid]
        for message, translation in pair_forms(texts, translations, forms):
            messages.append(Message(entry.linenum or 0, name, message, translation))
    return messages


def _read(path: str) -> bytes:
    with opened(path) as stream:
        return stream.read()


def _mo_entries(path: str) -> Iterator[tuple[int, bytes, bytes]]:
    """Number from 1, message with context and plural, translations."""
    data = _read(path)
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
    """The charset that a header names; UTF-8 where it names none, as a template that nobody filled in."""
    name = header.lower().partition(b"charset=")[2].split()[:1]
    charset = name[0].decode("ascii", "replace").strip('";') if name else "utf-8"
    if charset in ("charset", "ascii", "us-ascii", "utf8", "utf-8"):
        return "utf-8"
    try:
        b"a\xff".decode(charset, "replace")  # some codecs know no replacement
    except (LookupError, ValueError):
        raise UserError(f"{path}:1: unknown charset '{charset}' in the catalog's header; leave this file out") from None
    return charset


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


def _example_catalog() -> Any:
    """A catalog of French with two messages."""
    import polib

    catalog = polib.POFile()
    catalog.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    for message, translation in (("a cat", "un chat"), ("two cats", "deux chats")):
        catalog.append(polib.POEntry(msgid=message, msgstr=translation))
    return catalog

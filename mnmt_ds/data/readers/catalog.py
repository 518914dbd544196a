"""Gettext catalogs: compiled (.mo), source (.po), and the system's own, joined where neither side is English."""

import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from mnmt_ds.data.readers.corpus_part import CorpusPart, Row
from mnmt_ds.errors import UserError

MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
Entry = tuple[int, bytes, bytes]
T = TypeVar("T", str, bytes)


def mo(path: str, turned: bool = False) -> Iterator[Row]:
    """Rows (English, translation) of a .mo file, or (translation, English) where ``turned``."""
    charset = "utf-8"
    for number, key, value in _entries(path):
        if not key:
            charset = _charset(path, value)
            continue
        for english, translation in _forms(key, value):
            if charset != "utf-8":
                translation = translation.decode(charset, "replace").encode()
            yield (number, translation, english, None) if turned else (number, english, translation, None)


def po(path: str, turned: bool = False) -> Iterator[Row]:
    """Rows of a .po file, as ``mo``; fuzzy and obsolete entries are left out."""
    import polib

    try:
        catalog = polib.pofile(path, encoding="utf-8")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path}: not a readable UTF-8 PO catalog ({' '.join(str(error).split())}); mend it") from None
    for entry in catalog:
        if entry.obsolete or entry.fuzzy or not entry.msgid:
            continue
        forms = [text for _, text in sorted(entry.msgstr_plural.items())] or [entry.msgstr]
        singular, plural = entry.msgid, entry.msgid_plural or entry.msgid
        for english, translation in _plurals([singular, plural] if entry.msgid_plural else [singular], forms):
            row = (translation, english) if turned else (english, translation)
            yield entry.linenum or 0, *row, None


def system(pair: str, roots: tuple[str, ...], english: str = "en") -> list[CorpusPart]:
    """The system's catalogs for a pair; two other languages are joined on the English message."""
    source, target = pair.split("-")
    if english in (source, target):
        other = target if source == english else source
        return [
            CorpusPart(partial(_tolerant, partial(mo, path, target == english)), (path,), Path(path).stem, True, True)
            for path in _catalogs(other, roots)
        ]
    theirs = {Path(path).name: path for path in _catalogs(target, roots)}
    return [
        CorpusPart(
            partial(_tolerant, partial(_joined, path, theirs[name])), (path, theirs[name]), Path(path).stem, True, True
        )
        for path in _catalogs(source, roots)
        if (name := Path(path).name) in theirs
    ]


def _catalogs(language: str, roots: tuple[str, ...]) -> list[str]:
    """Paths in the language's own directory, or in that of a country (pt_BR) where it has none."""
    for root in roots:
        own = Path(root) / language / "LC_MESSAGES"
        for directory in [own, *sorted(Path(root).glob(f"{language}_[A-Z]*/LC_MESSAGES"))]:
            if found := sorted(str(path) for path in directory.glob("*.mo")):
                return found
    return []


def _tolerant(read: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows up to what is wrong with the file, then one bad row."""
    try:
        yield from read()
    except UserError:
        yield 1, None, None, None


def _joined(source_path: str, target_path: str) -> Iterator[Row]:
    targets = {key: value for _, key, value in _entries(target_path)}
    for number, key, value in _entries(source_path):
        if key and key in targets:
            for (english, source), (_, target) in zip(_forms(key, value), _forms(key, targets[key]), strict=False):
                yield number, source, target, english.decode("utf-8", "replace")


def _entries(path: str) -> Iterator[Entry]:
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
            length, start = struct.unpack_from(f"{order}2I", data, originals + 8 * i)
            size, place = struct.unpack_from(f"{order}2I", data, translations + 8 * i)
            if max(start + length, place + size) > len(data):
                raise struct.error
            yield i + 1, data[start : start + length], data[place : place + size]
    except struct.error:
        raise UserError(f"{path}: not a whole .mo catalog; mend or leave out this file") from None


def _charset(path: str, header: bytes) -> str:
    name = header.lower().partition(b"charset=")[2].split()[:1]
    charset = name[0].decode("ascii", "replace") if name else "utf-8"
    try:
        return "utf-8" if "".encode(charset) is None or charset in ("utf-8", "utf8", "ascii", "us-ascii") else charset
    except LookupError:
        raise UserError(f"{path}:1: unknown charset '{charset}' in the catalog's header; leave this file out") from None


def _forms(key: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    """(English, translation) for an entry; the context before \\4 goes, plural forms after \\0 are paired up."""
    return _plurals(key.rpartition(b"\4")[2].split(b"\0"), value.split(b"\0"))


def _plurals(english: list[T], forms: list[T]) -> list[tuple[T, T]]:
    """Singular with the first form, plural with the last; a language with one form has it for the plural."""
    if len(english) == 1:
        return [(english[0], forms[0])]
    return [(english[-1], forms[0])] if len(forms) == 1 else [(english[0], forms[0]), (english[-1], forms[-1])]

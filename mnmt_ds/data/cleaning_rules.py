"""Cleaning of blocks of rows, in worker processes: decode, repair, drop by rule, hash; everything counted."""

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

import numpy as np

from mnmt_ds.data import scripts
from mnmt_ds.data.dedup_keys import find_placeholders, hash64, normalise_key
from mnmt_ds.data.readers.corpus_part import Row
from mnmt_ds.data.settings import CleanSettings
from mnmt_ds.errors import UserError

CLEANING_RULES = (
    "bad line", "empty", "words", "key words", "characters", "ratio", "copied", "placeholders", "script", "no letters",
)  # fmt: skip
"""Rules of this file in the order in which they are applied; duplicates, domains and held-out text follow later."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_SEPARATOR = re.compile("[\r\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_OTHER = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
_CONTEXT = re.compile(r"^\|[\w-]*\|(?=.)|^_: [^\n]*\n(?=.)")
_PREFIX = re.compile(r"^[A-Za-z][\w -]*\|(?=\S)")
_BRACKETED = re.compile(r"\s*\([_&~]\w\)")
_ASCII_BEFORE, _ASCII_AFTER = re.compile(r"[A-Za-z0-9_*]*$"), re.compile(r"^[A-Za-z0-9_*]*")
_ENTITY = re.compile(r"&#?\w+;")
_ACCELERATOR = {mark: re.compile(rf"{mark}(?=[^\W_])") for mark in "_&~"}


class CleaningRules(NamedTuple):
    """What a worker must know of the pair."""

    source: str
    target: str
    key_side: int
    """0: the key is the source's text, 1: the target's; a row's own key goes before."""
    clean: CleanSettings
    seed: int
    given: bool = False
    """A given dev or test set: repaired and decoded, but dropped only where a side is empty."""
    mono: bool = False
    """One language: both sides of a row are the same text."""
    collect: bool = False
    """Bad lines are listed as faults, whatever ``clean.bad_lines`` says."""


class RowBlock(NamedTuple):
    """Rows of one part."""

    files: tuple[str, ...]
    domain: int
    catalog: bool
    rows: list[Row]
    tolerant: bool = False
    """Bad lines are dropped and counted, whatever the settings say: text that the user did not choose."""


class CleanedBlock(NamedTuple):
    """The rows that were kept, in order."""

    source: bytes
    """Lines, each with its \\n."""
    target: bytes
    key: np.ndarray
    """uint64, hash of the normalised key."""
    pair: np.ndarray
    """uint64, hash of both sides."""
    domain: int
    counts: Counter[str]
    """Rows by fate and repairs by kind."""
    places: dict[str, str]
    """file:line of each kind's first row."""
    faults: list[str]


class _BadLine(Exception):
    pass


def clean_block(block: RowBlock, rules: CleaningRules) -> CleanedBlock:
    """Cleans rows; a bad line is a UserError, a counted drop or a listed fault, as the settings say."""
    counts: Counter[str] = Counter(read=len(block.rows))
    places: dict[str, str] = {}
    faults: list[str] = []
    sources, targets, keys, pairs = [], [], [], []
    for number, raw_source, raw_target, raw_key in block.rows:
        found: list[str] = []
        sides: list[str] = []
        for side, raw in enumerate((raw_source, raw_target)):
            try:
                sides.append(_decode(raw, found, rules.clean.max_line_bytes, number == 1))
            except _BadLine as fault:
                place = f"{block.files[min(side, len(block.files) - 1)]}:{number}"
                message = f"{place}: {fault}; mend the line, or set data.clean.bad_lines=drop"
                if block.tolerant:
                    continue
                if rules.collect:
                    faults.append(message)
                elif rules.clean.bad_lines == "error" or rules.given:
                    raise UserError(message) from None
        if len(sides) < 2:
            fate: str | None = "bad line"
        else:
            source, target = _unmarked(sides[0], sides[1], found) if block.catalog else (sides[0], sides[1])
            source, target = " ".join(source.split()), " ".join(target.split())
            if rules.clean.unicode == "NFC":
                source, target = unicodedata.normalize("NFC", source), unicodedata.normalize("NFC", target)
            fate = first_failed_rule(source, target, rules)
        for kind in [*dict.fromkeys(found), *([fate] if fate else [])]:
            counts[kind] += 1
            places.setdefault(kind, f"{block.files[0]}:{number}")
        if fate is None:
            key = " ".join(raw_key.split()) if raw_key is not None else (source, target)[rules.key_side]
            sources.append(source)
            targets.append(target)
            keys.append(hash64(normalise_key(key), rules.seed))
            pairs.append(hash64(f"{source}\n{target}"))
    counts["clean"] = len(sources)
    return CleanedBlock(
        _joined(sources), _joined(targets), np.array(keys, np.uint64), np.array(pairs, np.uint64),
        block.domain, counts, places, faults,
    )  # fmt: skip


def first_failed_rule(source: str, target: str, rules: CleaningRules) -> str | None:
    """The first rule that drops the pair, or None."""
    clean = rules.clean
    if not source or not target:
        return "empty"
    if rules.given:
        return None
    source_words, target_words = source.count(" ") + 1, target.count(" ") + 1
    if max(source_words, target_words) > clean.max_words:
        return "words"
    if clean.max_key_words is not None and (source_words, target_words)[rules.key_side] > clean.max_key_words:
        return "key words"
    low, high = sorted((len(source), len(target)))
    if high > clean.max_characters:
        return "characters"
    if high + 15 > clean.max_ratio * (low + 15):
        return "ratio"
    if clean.copied == "drop" and not rules.mono and source.casefold() == target.casefold():
        return "copied"
    if clean.placeholders != "keep":
        slots = find_placeholders(source)
        if slots if clean.placeholders == "any" else slots != find_placeholders(target):
            return "placeholders"
    if clean.min_script > 0:
        shares = scripts.script_fraction(source, rules.source), scripts.script_fraction(target, rules.target)
        if min(shares) < clean.min_script:
            return "script" if max(shares) > 0 else "no letters"
    return None


def _decode(raw: str | bytes | None, found: list[str], limit: int, first: bool) -> str:
    """Text without control characters or line separators; appends what was repaired to ``found``."""
    if raw is None or len(raw) > limit:
        raise _BadLine(f"a line of more than {limit} bytes (data.clean.max_line_bytes)")
    if isinstance(raw, bytes):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _BadLine(f"byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8") from None
    else:
        text = raw
    if _CONTROL.search(text) is None:
        return text
    if "\0" in text:
        raise _BadLine(f"a NUL byte at character {text.index(chr(0)) + 1}")
    if text.startswith("\ufeff") and first:
        text = text[1:]
        found.append("byte order mark")
    if text.endswith("\r"):
        text = text[:-1]
        found.append("CRLF line end")
    for kind, pattern in (("line separator inside", _SEPARATOR), ("control character", _OTHER)):
        if pattern.search(text):
            text = pattern.sub(" ", text)
            found.append(kind)
    return text


def _unmarked(source: str, target: str, found: list[str]) -> tuple[str, str]:
    """Both sides without context prefix ("menu|File") and accelerator marks ("_File", "파일(_F)")."""
    bare_source, bare_target = _CONTEXT.sub("", source), _CONTEXT.sub("", target)
    if ("|" in bare_source) != ("|" in bare_target):
        bare_source, bare_target = _PREFIX.sub("", bare_source), _PREFIX.sub("", bare_target)
    if (bare_source, bare_target) != (source, target):
        found.append("context prefix")
    source, target = bare_source, bare_target
    for mark, pattern in _ACCELERATOR.items():
        if mark in source or mark in target:
            bare_source, bare_target = _unaccelerated(source, target, pattern), _unaccelerated(target, source, pattern)
            if (bare_source, bare_target) != (source, target):
                found.append("accelerator")
            source, target = bare_source, bare_target
    return source, target


def _unaccelerated(text: str, other: str, pattern: re.Pattern[str]) -> str:
    """``text`` without its one accelerator mark; names that stand in both texts (log_file) and &amp; are left alone."""
    text = _BRACKETED.sub("", text)
    marks = list(pattern.finditer(text))
    if len(marks) != 1:
        return text
    start = marks[0].start()
    ascii_run = _ASCII_BEFORE.findall(text[:start])[0] + text[start] + _ASCII_AFTER.findall(text[start + 1 :])[0]
    if (len(ascii_run) > 1 and ascii_run in other) or _ENTITY.match(text, start):
        return text
    return text[:start] + text[start + 1 :]


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()

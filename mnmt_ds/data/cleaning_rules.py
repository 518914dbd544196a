"""Cleaning of blocks of rows, in worker processes: decode, repair, drop by rule, hash; everything counted.

Letters: N rows that were kept.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.dedup_keys import find_placeholders, hash64, normalise_key
from mnmt_ds.data.language_check import is_in_other_language
from mnmt_ds.data.readers.corpus_part import Row
from mnmt_ds.data.scripts import script_fraction
from mnmt_ds.data.settings import CleanSettings
from mnmt_ds.errors import UserError

RULES = (
    "bad line", "empty", "words", "key words", "characters", "ratio", "copied", "placeholders", "script", "no letters",
    "language",
)  # fmt: skip
"""Names of this file's rules in the order in which they are applied; duplicates, domains and held-out text follow
later."""
HTML_ENTITY, MARKUP = NOTICED = ("HTML entity", "markup")
"""What is counted in rows that are kept, and left as it is."""
EMPTY_SIDE = "empty side"
"""Rows of a given dev or test set that lack a side; they are counted under this name, and kept."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_SEPARATOR = re.compile("[\r\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_OTHER = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
_CONTEXT = re.compile(r"^\|[\w-]*\|(?=.)|^_: [^\n]*\n(?=.)")
_PREFIX = re.compile(r"^[A-Za-z][\w -]*\|(?=\S)")
_BRACKETED = re.compile(r"\s*\([_&~]\w\)")
_ASCII_BEFORE, _ASCII_AFTER = re.compile(r"[A-Za-z0-9_*]*$"), re.compile(r"^[A-Za-z0-9_*]*")
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>")
_ENTITY = re.compile(r"&#?\w+;")
_ACCELERATOR = {mark: re.compile(rf"{mark}(?=[^\W_])") for mark in "_&~"}


class CleaningRules(NamedTuple):
    """What a worker process needs to know to clean rows of a pair."""

    source: str
    """Source language."""
    target: str
    """Target language; the source language again for monolingual text."""
    key_side: int
    """0: the key is the source's text, 1: the target's; a row's own key goes before."""
    clean: CleanSettings
    """What is dropped and repaired."""
    seed: int
    """Seed of the keys' hash."""
    is_held_out_set: bool = False
    """A given dev or test set: repaired and decoded, but no row is dropped, so that it lines up with its files."""
    monolingual: bool = False
    """One language: both sides of a row are the same text."""
    examples: int = 0
    """Rows that are shown of each rule, each kind of repair and of those that are kept."""
    list_faults: bool = False
    """Bad lines are listed as faults, whatever ``clean.bad_lines`` says."""


class RowBlock(NamedTuple):
    """Block of rows of one corpus part, as they go to a worker process."""

    files: tuple[str, ...]
    """One path, or the source's and the target's."""
    domain: int
    """Number of the part's domain."""
    catalog: bool
    """Text of user interfaces: accelerator marks and context prefixes are stripped."""
    rows: list[Row]
    """What the reader yielded."""
    tolerant: bool = False
    """Bad lines are dropped and counted, whatever the settings say: text that the user did not choose."""
    clean: CleanSettings | None = None
    """The part's own settings; None: those of the rules."""


SHOWN = 1000
"""Characters of a text that an example shows."""


class Example(NamedTuple):
    """A row, to be shown."""

    kind: str
    """The rule that dropped it, a repair or something noticed, or "clean": it was kept."""
    hash: int
    """Of its text: the lowest ones of a kind are a sample that does not depend on the order of the text."""
    place: str
    """FILE:NUMBER."""
    source: str
    """After repairs."""
    target: str
    """After repairs."""


class CleanedBlock(NamedTuple):
    """Rows of a block that were kept, in order."""

    source: bytes
    """Lines, each with its \\n."""
    target: bytes
    """As many lines."""
    key: NDArray[np.uint64]
    """Hash of each row's normalised key."""
    source_key: NDArray[np.uint64]
    """Hash of each row's normalised source."""
    target_key: NDArray[np.uint64]
    """Hash of each row's normalised target."""
    pair: NDArray[np.uint64]
    """Hash of each row's two sides."""
    domain: int
    """Number of the rows' domain."""
    counts: Counter[str]
    """Rows read, kept ("clean") and dropped by rule, and rows repaired by kind of repair."""
    places: dict[str, str]
    """FILE:NUMBER of the first row that each rule dropped or each kind of repair changed."""
    faults: list[str]
    """Messages about bad lines, where they are listed."""
    examples: list[Example] = []  # noqa: RUF012 (never changed)
    """Rows to show, where the rules want any: of each kind those of the lowest hashes."""


class _BadLine(Exception):
    """Text that cannot be decoded."""


def clean_block(block: RowBlock, rules: CleaningRules) -> CleanedBlock:
    """Decodes and repairs rows, drops some by rule, and hashes the others.

    Args:
        block: rows of one part.
        rules: what to drop, and how to hash.

    Returns:
        The rows that were kept, in order, and counts of all that happened.

    Raises:
        UserError: at a bad line, where the settings neither drop nor list it.
    """
    rules = rules._replace(clean=block.clean) if block.clean else rules
    counts: Counter[str] = Counter(read=len(block.rows))
    places: dict[str, str] = {}
    examples: list[Example] = []
    faults: list[str] = []
    sources, targets, keys, side_keys, pairs = [], [], [], [], []
    for number, raw_source, raw_target, raw_key in block.rows:
        repairs: list[str] = []
        sides: list[str] = []
        for side, raw in enumerate((raw_source, raw_target)):
            try:
                sides.append(_decode(raw, repairs, rules.clean.max_line_bytes, number == 1))
            except _BadLine as fault:
                place = f"{block.files[min(side, len(block.files) - 1)]}:{number}"
                message = f"{place}: {fault}; mend the line, or set data.clean.bad_lines=drop"
                if block.tolerant:
                    continue
                if rules.list_faults:
                    faults.append(message)
                elif rules.clean.bad_lines == "error" or rules.is_held_out_set:
                    raise UserError(message) from None
        if len(sides) < 2:
            failed_rule: str | None = "bad line"
        else:
            source, target = sides
            if block.catalog:
                source, target = _strip_interface_marks(source, target, repairs)
            source, target = " ".join(source.split()), " ".join(target.split())
            if rules.clean.unicode == "NFC":
                source, target = unicodedata.normalize("NFC", source), unicodedata.normalize("NFC", target)
            failed_rule = first_failed_rule(source, target, rules)
            if rules.is_held_out_set and not (source and target):
                repairs.append(EMPTY_SIDE)
            if failed_rule is None:
                repairs += _notice(source, target)
        kinds = [*dict.fromkeys(repairs), *([failed_rule] if failed_rule else [])]
        for kind in kinds:
            counts[kind] += 1
            places.setdefault(kind, f"{block.files[0]}:{number}")
        if rules.examples and len(sides) == 2:
            place, text_hash = f"{block.files[0]}:{number}", hash64(f"{source}\n{target}")
            shown = [text if len(text) <= SHOWN else f"{text[:SHOWN]} …" for text in (source, target)]
            examples += [Example(kind, text_hash, place, *shown) for kind in kinds or ["clean"]]
        if failed_rule is None:
            sources.append(source)
            targets.append(target)
            source_key = hash64(normalise_key(source), rules.seed)
            target_key = source_key if rules.monolingual else hash64(normalise_key(target), rules.seed)
            side_keys.append((source_key, target_key))
            if raw_key is not None:
                keys.append(hash64(normalise_key(" ".join(raw_key.split())), rules.seed))
            else:
                keys.append((source_key, target_key)[rules.key_side])
            pairs.append(hash64(f"{source}\n{target}"))
    counts["clean"] = len(sources)
    side_keys_N2 = np.array(side_keys, np.uint64).reshape(-1, 2)
    return CleanedBlock(
        _encode_lines(sources), _encode_lines(targets), np.array(keys, np.uint64), side_keys_N2[:, 0],
        side_keys_N2[:, 1], np.array(pairs, np.uint64), block.domain, counts, places, faults,
        lowest_examples(examples, rules.examples),
    )  # fmt: skip


def lowest_examples(examples: Iterable[Example], count: int) -> list[Example]:
    """Picks the examples that are shown: those of the lowest hashes.

    Args:
        examples: rows, in any order.
        count: how many of each kind.

    Returns:
        Of each kind those of the lowest hashes.
    """
    by_kind: dict[str, list[Example]] = {}
    for example in examples:
        by_kind.setdefault(example.kind, []).append(example)
    return [example for same in by_kind.values() for example in sorted(same)[:count]]


def _notice(source: str, target: str) -> list[str]:
    """What a kept row has that a reader of the report may want to clean away."""
    text = f"{source}\n{target}"
    noticed = [HTML_ENTITY] if "&" in text and _ENTITY.search(text) else []
    return noticed + ([MARKUP] if "<" in text and _MARKUP.search(text) else [])


def first_failed_rule(source: str, target: str, rules: CleaningRules) -> str | None:
    """Applies the rules to one sentence pair.

    Args:
        source: decoded and repaired source sentence.
        target: decoded and repaired target sentence.
        rules: what to drop.

    Returns:
        Name of the first rule that drops the pair (one of ``RULES``), or None.
    """
    clean = rules.clean
    if rules.is_held_out_set:
        return None
    if not source or not target:
        return "empty"
    source_words, target_words = source.count(" ") + 1, target.count(" ") + 1
    if max(source_words, target_words) > clean.max_words:
        return "words"
    if clean.max_key_words is not None and (source_words, target_words)[rules.key_side] > clean.max_key_words:
        return "key words"
    shorter, longer = sorted((len(source), len(target)))
    if longer > clean.max_characters:
        return "characters"
    if longer + 15 > clean.max_ratio * (shorter + 15):
        return "ratio"
    if clean.copied == "drop" and not rules.monolingual and source.casefold() == target.casefold():
        return "copied"
    if clean.placeholders != "keep":
        placeholders = find_placeholders(source)
        if placeholders if clean.placeholders == "any" else placeholders != find_placeholders(target):
            return "placeholders"
    if clean.min_script > 0:
        fractions = script_fraction(source, rules.source), script_fraction(target, rules.target)
        if min(fractions) < clean.min_script:
            return "script" if max(fractions) > 0 else "no letters"
    if clean.language == "drop":
        sides = ((source, rules.source), (target, rules.target))
        if any(
            is_in_other_language(*side, clean.language_identifier) for side in sides[: 1 if rules.monolingual else 2]
        ):
            return "language"
    return None


def _decode(raw: str | bytes | None, repairs: list[str], max_bytes: int, is_first_row: bool) -> str:
    """Text without control characters or line separators; appends the kinds of repair to ``repairs``."""
    if raw is None or len(raw) > max_bytes:
        raise _BadLine(f"a line of more than {max_bytes} bytes (data.clean.max_line_bytes)")
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
    if text.startswith("\ufeff") and is_first_row:
        text = text[1:]
        repairs.append("byte order mark")
    if text.endswith("\r"):
        text = text[:-1]
        repairs.append("CRLF line end")
    for kind, pattern in (("line separator inside", _SEPARATOR), ("control character", _OTHER)):
        if pattern.search(text):
            text = pattern.sub(" ", text)
            repairs.append(kind)
    return text


def _strip_interface_marks(source: str, target: str, repairs: list[str]) -> tuple[str, str]:
    """Both sides without context prefix ("menu|File") and accelerator marks ("_File", "파일(_F)")."""
    bare_source, bare_target = _CONTEXT.sub("", source), _CONTEXT.sub("", target)
    if ("|" in bare_source) != ("|" in bare_target):
        bare_source, bare_target = _PREFIX.sub("", bare_source), _PREFIX.sub("", bare_target)
    if (bare_source, bare_target) != (source, target):
        repairs.append("context prefix")
    source, target = bare_source, bare_target
    for mark, pattern in _ACCELERATOR.items():
        if mark in source or mark in target:
            bare_source, bare_target = (
                _strip_accelerator(source, target, pattern),
                _strip_accelerator(target, source, pattern),
            )
            if (bare_source, bare_target) != (source, target):
                repairs.append("accelerator")
            source, target = bare_source, bare_target
    return source, target


def _strip_accelerator(text: str, other: str, pattern: re.Pattern[str]) -> str:
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


def _encode_lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()

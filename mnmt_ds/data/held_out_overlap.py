"""Counts how much held-out text stands in training text; read from the finished text files, whatever wrote them.

A training row is counted once: as exact where a side equals a dev or test sentence of its language, else as normalised
where both are equal once normalised (``dedup_keys.normalise_key``), else as a near-duplicate where a side has the words
of a held-out sentence in any order, but for one word that was added, left out or replaced. Held-out sentences of fewer
than ``MIN_WORDS`` words have no near-duplicates. In scripts without spaces every character counts as a word.
Near-duplicates are found by sums of the words' hashes, so that the work grows with the text alone.

Letters: N lines of a block, W words of all of them, L bytes of all of them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnmt_ds.data import holdout
from mnmt_ds.data.dedup_keys import hash64, normalise_key
from mnmt_ds.data.holdout import Hashes, Mask
from mnmt_ds.data.language_codes import may_be_same
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.worker_pool import ProgressBar, map_in_order

BLOCK = 4000
"""Lines that a worker hashes at once."""
MIN_WORDS = 5
"""Fewest words of a held-out sentence whose near-duplicates are counted."""
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MIX = ((np.uint64(32), np.uint64(0xD6E8FEB86659FD93)), (np.uint64(29), np.uint64(0xA0761D6478BD642F)))
"""Shifts and odd factors that spread a word's hash over all bits."""


class LanguageFile(NamedTuple):
    """A file of text in one language, a sentence a line."""

    path: Path
    """The file."""
    language: str
    """Any code of its language."""


class Overlap(NamedTuple):
    """Counts of a training text's rows that hold held-out text."""

    rows: int
    """Rows of the training text."""
    exact: int
    """Rows with a side that equals a held-out sentence."""
    normalised: int
    """Further rows with a side that equals one once both are normalised."""
    near: int
    """Further rows with a side that differs from one by at most a word."""


class _Hashed(NamedTuple):
    """A block of lines."""

    exact: Hashes
    """Hash of each line."""
    normalised: Hashes
    """Hash of each normalised line."""
    words: Hashes
    """Hashes of the words of all lines."""
    word_count: np.ndarray
    """Words of each line."""

    def word_sums(self) -> Hashes:
        """A number for each line's words in any order: the sum of their hashes, modulo 2^64."""
        ends_N = np.cumsum(self.word_count)
        sums_W = np.append(np.uint64(0), np.cumsum(self.words, dtype=np.uint64))
        return sums_W[ends_N] - sums_W[ends_N - self.word_count]

    def word_sums_without_one(self) -> Hashes:
        """That number without one of the line's words, an element a word."""
        return np.repeat(self.word_sums(), self.word_count) - self.words


class _HeldOut:
    """Held-out sentences of one language."""

    def __init__(self, blocks: Sequence[_Hashed]) -> None:
        self.exact = holdout.union_of_keys([block.exact for block in blocks])
        self.normalised = holdout.union_of_keys([block.normalised for block in blocks])
        word_sums = []
        for block in blocks:
            long_N = block.word_count >= MIN_WORDS
            word_sums += [block.word_sums()[long_N], block.word_sums_without_one()[np.repeat(long_N, block.word_count)]]
        self._word_sums = holdout.union_of_keys(word_sums)
        bits = max(16, min(26, int(16 * len(self._word_sums)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._may_occur = np.zeros(1 << bits, bool)  # by the hashes' first bits: spares most searches
        self._may_occur[self._word_sums >> self._shift] = True

    def near(self, block: _Hashed) -> Mask:
        """Lines whose words are those of a held-out sentence, but for one."""
        near_N = self._occurs(block.word_sums())
        line_W = np.repeat(np.arange(len(block.word_count)), block.word_count)
        near_N[line_W[self._occurs(block.word_sums_without_one())]] = True
        return near_N

    def _occurs(self, hashes: Hashes) -> Mask:
        mask = self._may_occur[hashes >> self._shift]
        mask[mask] = holdout.is_in_sorted(hashes[mask], self._word_sums)
        return mask


class _HeldOutOfLanguage:
    """Held-out sentences by language; codes that may mean the same languages share them."""

    def __init__(self, blocks: Mapping[str, list[_Hashed]]) -> None:
        self._blocks = blocks
        self._by_codes: dict[tuple[str, ...], _HeldOut] = {}

    def of(self, language: str) -> _HeldOut | None:
        """What is held out in a language."""
        codes = tuple(code for code in self._blocks if may_be_same(code, language))
        if codes and codes not in self._by_codes:
            self._by_codes[codes] = _HeldOut([block for code in codes for block in self._blocks[code]])
        return self._by_codes.get(codes)


def count_overlap(pool: Executor, texts: Mapping[str, Sequence[LanguageFile]]) -> dict[str, Overlap]:
    """Counts the training rows that hold held-out text.

    Args:
        pool: worker processes.
        texts: all texts of a corpus, by "fr-en.train", "fr-en.dev", "mono.fr" and so on: a text's side or sides, whose
            lines of the same number are one row.

    Returns:
        Counts by training text: by "fr-en" or "mono.fr".
    """
    blocks: dict[str, list[_Hashed]] = {}
    training: dict[str, Sequence[LanguageFile]] = {}
    for name, files in texts.items():
        if name.startswith("mono.") or name.endswith(".train"):
            training[name.removesuffix(".train")] = files
            continue
        for file in files:
            hashed = [sides[0] for sides in map_in_order(pool, _hash_block, _line_blocks([file]))]
            blocks.setdefault(file.language, []).extend(hashed)
    held_out = _HeldOutOfLanguage(blocks)
    overlaps = {}
    for name, files in training.items():
        counts_4 = np.zeros(4, np.int64)
        sides = [held_out.of(file.language) for file in files]
        with ProgressBar(f"compare {name} with held-out text", "rows") as progress:
            for block in map_in_order(pool, _hash_block, _line_blocks(files)):
                counts_4 += _count_rows(block, sides)
                progress.add(len(block[0].exact))
        overlaps[name] = Overlap(*counts_4.tolist())
    return overlaps


def corpus_texts(directory: Path, manifest: Mapping[str, Any]) -> dict[str, list[LanguageFile]]:
    """Lists the texts of a prepared corpus, whatever version prepared it.

    Args:
        directory: the corpus's directory.
        manifest: its manifest.

    Returns:
        Files by name, as ``count_overlap`` takes them.
    """
    texts = {}
    for pair, entry in manifest["pairs"].items():
        for split in entry["splits"]:
            sides = zip(split_pair(pair), ("src", "tgt"), strict=True)
            texts[f"{pair}.{split}"] = [
                LanguageFile(directory / "text" / f"{pair}.{split}.{suffix}", side) for side, suffix in sides
            ]
    for language in manifest["monolingual"]:
        texts[f"mono.{language}"] = [LanguageFile(directory / "text" / f"mono.{language}", language)]
    return texts


def overlap_line(overlaps: Mapping[str, Overlap]) -> str:
    """Formats in one line how much held-out text the training texts hold.

    Args:
        overlaps: counts by training text.

    Returns:
        One line.
    """
    exact = sum(overlap.exact for overlap in overlaps.values())
    normalised = sum(overlap.normalised for overlap in overlaps.values())
    near = sum(overlap.near for overlap in overlaps.values())
    return f"held-out sentences in training text: {exact:,} exact, {normalised:,} normalised; near-duplicates: {near:,}"


def overlap_faults(directory: Path, overlaps: Mapping[str, Overlap]) -> Iterator[str]:
    """Lists the training texts that hold held-out text.

    Args:
        directory: the corpus's directory.
        overlaps: counts by training text.

    Yields:
        A line for each such text; near-duplicates are no fault.
    """
    for name, overlap in overlaps.items():
        if overlap.exact or overlap.normalised:
            yield (
                f"{directory}: {name} trains on held-out text: {overlap.exact + overlap.normalised:,} of"
                f" {overlap.rows:,} rows ({overlap.exact:,} exact, {overlap.normalised:,} normalised) have a side that"
                " is a dev or test sentence of its language; run mnmt-ds prepare again"
            )


def _count_rows(block: Sequence[_Hashed], sides: Sequence[_HeldOut | None]) -> np.ndarray:
    """Rows of a block, and how many of them are of which kind."""
    rows = len(block[0].exact)
    exact_N, normalised_N, near_N = np.zeros((3, rows), bool)
    for hashed, held_out in zip(block, sides, strict=True):
        if held_out is not None:
            exact_N |= holdout.is_in_sorted(hashed.exact, held_out.exact)
            normalised_N |= holdout.is_in_sorted(hashed.normalised, held_out.normalised)
            near_N |= held_out.near(hashed)
    normalised_N &= ~exact_N
    near_N &= ~(exact_N | normalised_N)
    return np.array([rows, exact_N.sum(), normalised_N.sum(), near_N.sum()])


def _line_blocks(files: Sequence[LanguageFile]) -> Iterator[list[list[bytes]]]:
    with ExitStack() as stack:
        streams = [stack.enter_context(file.path.open("rb")) for file in files]
        while any(block := [list(islice(stream, BLOCK)) for stream in streams]):
            yield block


def _hash_block(sides: list[list[bytes]]) -> list[_Hashed]:
    """Hashes of the sides of a block."""
    return [_hash_lines(lines) for lines in sides]


def _hash_lines(lines: list[bytes]) -> _Hashed:
    texts = [line.removesuffix(b"\n").decode() for line in lines]
    keys = [normalise_key(text) for text in texts]
    words_W, count_N = _hash_words(keys)
    return _Hashed(
        np.array([hash64(text) for text in texts], np.uint64),
        np.array([hash64(key) for key in keys], np.uint64),
        words_W,
        count_N,
    )


def _hash_words(texts: list[str]) -> tuple[Hashes, np.ndarray]:
    """Hashes of all words of texts, as polynomials of their bytes modulo 2^64, and the number of words of each."""
    joined = "".join(f"{text}\n" for text in texts)
    if not joined.isascii():
        joined = _UNSPACED.sub(r" \g<0> ", joined)
    byte_L = np.frombuffer(joined.encode(), np.uint8)
    ends = np.flatnonzero((byte_L == ord(" ")) | (byte_L == ord("\n")))
    starts = np.append(0, ends[:-1] + 1)
    line_W = np.append(0, np.cumsum(byte_L[ends] == ord("\n"))[:-1])
    is_word = ends > starts
    starts, ends, line_W = starts[is_word], ends[is_word], line_W[is_word]
    powers_L = np.cumprod(np.full(len(byte_L), _BASE, np.uint64))
    sums_L = np.append(np.uint64(0), np.cumsum(byte_L * powers_L))
    inverse_powers_L = np.cumprod(np.full(len(byte_L), _INVERSE, np.uint64))
    words_W = (sums_L[ends] - sums_L[starts]) * inverse_powers_L[starts]
    for shift, factor in _MIX:
        words_W = (words_W ^ (words_W >> shift)) * factor
    return words_W, np.bincount(line_W, minlength=len(texts))

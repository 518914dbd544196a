"""All text of one language as one numbered list of sentences or blocks, from monolingual files and the pairs' sides.

Nothing is copied: lengths and ids are looked up in the files that ``prepare`` wrote.

Letters: N items, B bounds of blocks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.batch import EOS
from mnmt_ds.data.corpus import Corpus, Split
from mnmt_ds.data.language_pairs import split_pair

Ints = NDArray[np.int64]


class TextPool(Protocol):
    """Numbered sentences (or blocks) of one language."""

    def __len__(self) -> int: ...
    def lengths(self, index_N: Ints) -> Ints:
        """Looks up lengths of items.

        Args:
            index_N: numbers of the items.

        Returns:
            Pieces of each, without special symbols around it; (N,).
        """
        ...

    def pieces(self, index: int) -> Ints:
        """Reads an item.

        Args:
            index: its number.

        Returns:
            Its ids (T,), without special symbols around it.
        """
        ...


class PoolPart(NamedTuple):
    """Sentences from one file or corpus, with functions that read them."""

    size: int
    """Its number of sentences."""
    lengths: Callable[[], NDArray[np.integer]]
    """Looks up the pieces of each sentence."""
    pieces: Callable[[int], Ints]
    """Reads the ids of a sentence."""


class SentencePool:
    """Sentences of several parts, numbered one part after another."""

    def __init__(self, parts: Sequence[PoolPart]) -> None:
        """Numbers the sentences.

        Args:
            parts: text from several places.
        """
        self._parts = parts
        self._ends = np.cumsum([part.size for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def lengths(self, index_N: Ints) -> Ints:
        """Looks up lengths of sentences.

        Args:
            index_N: numbers of the sentences.

        Returns:
            Pieces of each; (N,).
        """
        part_N = np.searchsorted(self._ends, index_N, side="right")
        lengths_N = np.zeros(len(index_N), np.int64)
        for number, part in enumerate(self._parts):
            here_N = part_N == number
            if here_N.any():
                lengths_N[here_N] = part.lengths()[index_N[here_N] - (self._ends[number] - part.size)]
        return lengths_N

    def pieces(self, index: int) -> Ints:
        """Reads a sentence.

        Args:
            index: its number.

        Returns:
            Its ids (T,), without special symbols.
        """
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        return part.pieces(index - int(self._ends[number] - part.size))


class BlockPool:
    """Blocks: neighbouring sentences joined by </s>, as many whole ones as fit; a longer one is a block of its own."""

    def __init__(self, sentences: SentencePool, max_tokens: int) -> None:
        """Joins the sentences.

        Args:
            sentences: a language's sentences.
            max_tokens: longest block, in pieces and the symbols between its sentences.
        """
        self._sentences = sentences
        ends_N = np.cumsum(sentences.lengths(np.arange(len(sentences))) + 1)
        bounds, position, total = [0], 0, len(ends_N)
        while position < total:
            before = int(ends_N[position - 1]) if position else 0
            position = max(position + 1, int(np.searchsorted(ends_N, before + max_tokens + 1, side="right")))
            bounds.append(position)
        self._bounds_B = np.array(bounds, np.int64)
        self._lengths = np.diff(np.append(0, ends_N)[self._bounds_B]) - 1

    def __len__(self) -> int:
        return len(self._bounds_B) - 1

    def lengths(self, index_N: Ints) -> Ints:
        """Looks up lengths of blocks.

        Args:
            index_N: numbers of the blocks.

        Returns:
            Pieces of each, symbols between its sentences included; (N,).
        """
        return self._lengths[index_N]

    def pieces(self, index: int) -> Ints:
        """Reads a block.

        Args:
            index: its number.

        Returns:
            Ids of its sentences (T,), joined by </s>.
        """
        pieces: list[Ints] = []
        for i in range(int(self._bounds_B[index]), int(self._bounds_B[index + 1])):
            pieces += [*([np.array([EOS])] if pieces else []), self._sentences.pieces(i)]
        return np.concatenate(pieces)


def language_pool(corpus: Corpus, pairs: Sequence[str], language: str, bitext: bool) -> SentencePool:
    """Collects a language's sentences.

    Args:
        corpus: a prepared corpus.
        pairs: the run's pairs.
        language: the language.
        bitext: whether its side of every pair's training set counts, beside its monolingual text.

    Returns:
        All of them; perhaps none.
    """
    parts: list[PoolPart] = []
    if language in corpus.monolingual:
        text = corpus.monolingual_sentences(language)
        parts.append(PoolPart(len(text), lambda: text.lengths, text.pieces))
    for pair in pairs if bitext else ():
        for side, name in enumerate(split_pair(pair)):
            if name == language:
                train = corpus.split(pair, "train")
                lengths, pieces = partial(_side_lengths, train, side), partial(_side_pieces, train, side)
                parts.append(PoolPart(len(train), lengths, pieces))
    return SentencePool(parts)


def _side_pieces(split: Split, side: int, index: int) -> Ints:
    return split.pieces(index)[side]


def _side_lengths(split: Split, side: int) -> NDArray[np.integer]:
    return split.target_lengths if side else split.source_lengths

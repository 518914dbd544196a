"""All text of one language as one numbered list of sentences or blocks, from monolingual files and the pairs' sides.

Nothing is copied: lengths and ids are looked up in the files that ``prepare`` wrote.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.batch import EOS
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import split_pair

Ints = NDArray[np.int64]


class TextPool(Protocol):
    """Numbered sentences (or blocks) of one language."""

    def __len__(self) -> int: ...
    def lengths(self, index_N: Ints) -> Ints:
        """Pieces of some items."""
        ...

    def pieces(self, index: int) -> Ints: ...


class PoolPart(NamedTuple):
    """Text from one place."""

    lengths: NDArray[np.integer]
    pieces: Callable[[int], Ints]


class SentencePool:
    """Parts one after another."""

    def __init__(self, parts: Sequence[PoolPart]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part.lengths) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def lengths(self, index_N: Ints) -> Ints:
        part_N = np.searchsorted(self._ends, index_N, side="right")
        found_N = np.zeros(len(index_N), np.int64)
        for number, part in enumerate(self._parts):
            here = part_N == number
            found_N[here] = part.lengths[index_N[here] - (self._ends[number] - len(part.lengths))]
        return found_N

    def pieces(self, index: int) -> Ints:
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        return part.pieces(index - int(self._ends[number] - len(part.lengths)))


class BlockPool:
    """Neighbouring sentences joined by </s>, as many whole ones as fit; a longer one is a block of its own."""

    def __init__(self, sentences: SentencePool, most: int) -> None:
        self._sentences = sentences
        ends_N = np.cumsum(sentences.lengths(np.arange(len(sentences))) + 1)
        starts, position, total = [0], 0, len(ends_N)
        while position < total:
            before = int(ends_N[position - 1]) if position else 0
            position = max(position + 1, int(np.searchsorted(ends_N, before + most + 1, side="right")))
            starts.append(position)
        self._starts_B = np.array(starts, np.int64)
        self._lengths_B = np.diff(np.append(0, ends_N)[self._starts_B]) - 1

    def __len__(self) -> int:
        return len(self._starts_B) - 1

    def lengths(self, index_N: Ints) -> Ints:
        return self._lengths_B[index_N]

    def pieces(self, index: int) -> Ints:
        parts: list[Ints] = []
        for i in range(int(self._starts_B[index]), int(self._starts_B[index + 1])):
            parts += [*([np.array([EOS])] if parts else []), self._sentences.pieces(i)]
        return np.concatenate(parts)


def language_pool(corpus: Corpus, pairs: Sequence[str], language: str, bitext: bool) -> SentencePool:
    """A language's monolingual text and (where asked for) its side of every pair's training set."""
    parts: list[PoolPart] = []
    if language in corpus.monolingual:
        text = corpus.mono(language)
        parts.append(PoolPart(text.lengths, text.pieces))
    for pair in pairs if bitext else ():
        for side, name in enumerate(split_pair(pair)):
            if name == language:
                train = corpus.split(pair, "train")
                lengths = train.target_lengths if side else train.source_lengths
                parts.append(PoolPart(lengths, lambda i, train=train, side=side: train.pieces(i)[side]))  # type: ignore[misc]
    return SentencePool(parts)

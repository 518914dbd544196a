"""Random sentences of several language pairs, in micro-batches as training has them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import PairLengths, fixed_batches
from mnmt_ds.data.framing import Frame
from mnmt_ds.data.loader import collate

LONGEST = 24
"""Most tokens of a sentence, without tags and end symbols."""


class RandomSentences(NamedTuple):
    """A pair's random sentences, with the interface of a prepared corpus."""

    sources: list[NDArray[np.int32]]
    targets: list[NDArray[np.int32]]

    def pieces(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Returns the piece ids of one sentence pair.

        Args:
            index: its number.

        Returns:
            Piece ids of source (S,) and target (T,).
        """
        return self.sources[index], self.targets[index]


class RandomText(NamedTuple):
    """Random text of some pairs, and micro-batches that go through all of it once."""

    lengths: list[PairLengths]
    """Lengths of each pair's sentences."""
    batch: Callable[[int, NDArray[np.int64]], Batch]
    """Makes a batch of some sentences (numbers) of a pair (number)."""
    micro_batches: list[tuple[int, NDArray[np.int64]]]
    """Pair and sentences of each micro-batch."""


FRAME = Frame((5,), (2,), 6)
FIRST_WORD = 7


def random_text(
    pairs: int, batches: int, max_tokens: int, vocabulary: int, frame: Frame = FRAME, first_word: int = FIRST_WORD
) -> RandomText:
    """Draws text for about so many micro-batches; the same on every rank.

    Args:
        pairs: number of language pairs.
        batches: micro-batches, shared evenly among the pairs.
        max_tokens: most padded tokens of a micro-batch.
        vocabulary: words are drawn from the ids below.
        frame: what stands around every pair's words.
        first_word: the least id of a word.

    Returns:
        The text, its micro-batches in random order.
    """
    generator = np.random.Generator(np.random.Philox(1))
    sets: list[RandomSentences] = []
    lengths: list[PairLengths] = []
    for pair in range(pairs):
        count = (batches // pairs + (pair < batches % pairs)) * (max_tokens // LONGEST)
        sizes = generator.integers(LONGEST // 2, LONGEST - 1, (2, max(count, 1)))
        sides = [[generator.integers(first_word, vocabulary, n).astype(np.int32) for n in side] for side in sizes]
        sets.append(RandomSentences(*sides))
        source, target = (side.astype(np.int64) for side in sizes)
        lengths.append(PairLengths(np.arange(len(source)), source + frame.source_extra, target + frame.target_extra))
    micro_batches = [
        (pair, sentences)
        for pair in range(pairs)
        for sentences in fixed_batches(_with_blurred_lengths(lengths[pair], generator), max_tokens)
    ]
    order = generator.permutation(len(micro_batches))
    return RandomText(
        lengths,
        lambda pair, sentences: collate(sets[pair], sentences, frame, pair, 1),
        [micro_batches[index] for index in order],
    )


def _with_blurred_lengths(lengths: PairLengths, generator: np.random.Generator) -> PairLengths:
    """The same sentences with other source lengths, so that training's batches are not the cache's blocks."""
    return lengths._replace(source=lengths.source + generator.integers(0, 3, len(lengths.source)))

"""Where words begin among SentencePiece pieces, in every script.

A word begins at a piece that starts with ▁. Scripts without spaces (Han, Kana, Thai, Lao, Khmer, Burmese) show no such
place inside a sentence: there every piece is a word of its own, which is what a piece of a unigram model comes nearest
to. The rule looks at the text's own letters, so that mixed sentences need no language.

Differs: words in scripts without spaces; paper: not said; released: a word begins at ▁ alone, so that such a sentence
is one word; ours: every piece is a word; why: else a whole sentence is masked or none of it.

Letters: T pieces of a sentence, V ids of the vocabulary.
"""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.batch import EOS
from mnmt_ds.data.tokenizer import SPECIALS, Tokenizer

Ints = NDArray[np.int64]
SPACELESS = (
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
    (0x0E00, 0x0E7F),
    (0x0E80, 0x0EFF),
    (0x1780, 0x17FF),
    (0x1000, 0x109F),
)
"""Code points of Kana, Han, Thai, Lao, Khmer and Burmese."""
SPACE = "▁"
"""How SentencePiece writes a space."""


class WordBoundaries:
    """Properties of the vocabulary's pieces by which the words of a sentence are found."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Looks at every piece of the vocabulary.

        Args:
            tokenizer: the corpus's tokenizer.
        """
        pieces = [tokenizer.piece(i) for i in range(tokenizer.size)]
        ordinary = [SPECIALS <= i < tokenizer.piece_count for i in range(tokenizer.size)]
        first = [piece.lstrip(SPACE)[:1] for piece in pieces]
        self.space_V = np.array([piece.startswith(SPACE) for piece in pieces])
        self.bare_V = np.array([piece.strip(SPACE) == "" for piece in pieces])
        """Pieces of ▁ alone: they belong to what follows."""
        self.spaceless_V = np.array([ok and is_spaceless(letter) for ok, letter in zip(ordinary, first, strict=True)])
        self.mark_V = np.array([unicodedata.category(letter or " ")[0] == "M" for letter in first]) & ~self.space_V
        """Pieces that go on with a combining mark never begin a word."""
        self.special_V = ~np.array(ordinary)
        self.mask = tokenizer.mask
        self.pieces_V = np.flatnonzero(ordinary)
        """Ids of the ordinary pieces: what random words are made of."""

    def numbers(self, pieces_T: Ints, end_is_word: bool = False) -> Ints:
        """Numbers the words of a sentence.

        Args:
            pieces_T: ids of a sentence, or of several joined by </s>.
            end_is_word: </s> is a word of its own.

        Returns:
            For each piece the number of its word, from 0; -1 for a special symbol (which is part of no word).
        """
        before_T = np.roll(pieces_T, 1)
        free_T = self.spaceless_V[pieces_T] | self.spaceless_V[before_T]
        start_T = self.space_V[pieces_T] | (free_T & ~self.bare_V[before_T] & ~self.mark_V[pieces_T])
        special_T = self.special_V[pieces_T]
        start_T |= np.roll(special_T, 1)
        start_T[:1] = True
        if end_is_word:
            end_T = pieces_T == EOS
            start_T, special_T = start_T | end_T, special_T & ~end_T
        number_T = np.cumsum(start_T & ~special_T) - 1
        return np.where(special_T, -1, number_T)


def is_spaceless(letter: str) -> bool:
    """Returns whether a character belongs to a script that writes no spaces between words.

    Args:
        letter: a character, or nothing.

    Returns:
        Whether it is in ``SPACELESS``.
    """
    return letter != "" and any(low <= ord(letter) <= high for low, high in SPACELESS)

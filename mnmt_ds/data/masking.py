"""Masking: whole words (concurrent denoising, MLM) or one fragment (MASS), 80/10/10.

Letters: T pieces of a sentence, W words of it.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mnmt_ds.config import Settings
from mnmt_ds.data.word_boundaries import Ints, WordBoundaries

Bools = NDArray[np.bool_]
NOT_CHOSEN, KEEP, RANDOM, MASK = 0, 1, 2, 3
"""What becomes of a word or piece: it is not chosen; chosen and kept, replaced by random pieces, or masked."""


class MaskSettings(Settings):
    """Settings of masking: how many words are masked, and what replaces them."""

    ratio: float = Field(default=0.3, gt=0, lt=1)
    """Share of the words (MASS: of the pieces) that is chosen, between 0 and 1."""
    keep: float = Field(default=0.1, ge=0, le=1)
    """Share of the chosen words that stays as it is."""
    random: float = Field(default=0.1, ge=0, le=1)
    """Share of the chosen words whose pieces become random pieces; the rest becomes <mask>, one a piece."""

    @model_validator(mode="after")
    def _shares(self) -> "MaskSettings":
        if self.keep + self.random > 1:
            raise ValueError("keep and random are shares of the chosen words; their sum must not exceed 1")
        return self


def mask_words(
    pieces_T: Ints,
    words: WordBoundaries,
    settings: MaskSettings,
    random: np.random.Generator,
    end_is_word: bool = False,
) -> tuple[Ints, Bools]:
    """Chooses whole words, and masks them.

    floor(ratio * words + U(0, 1)) words, drawn without replacement (the released code's rounding: right on average).

    Args:
        pieces_T: ids of a sentence, or of several joined by </s>.
        words: what the pieces say about words.
        settings: how much is chosen, and what becomes of it.
        random: source of the noise.
        end_is_word: </s> is a word of its own.

    Returns:
        The masked sentence, and which of its pieces were chosen (those that stay included).
    """
    word_T = words.numbers(pieces_T, end_is_word)
    count = int(word_T.max(initial=-1)) + 1
    chosen = int(settings.ratio * count + random.random())
    action_W = np.full(count, NOT_CHOSEN, np.int64)
    action_W[random.permutation(count)[:chosen]] = _draw_actions(chosen, settings, random)
    action_T = np.where(word_T >= 0, np.append(action_W, NOT_CHOSEN)[word_T], NOT_CHOSEN)
    return _replace_pieces(pieces_T, action_T, words, random), action_T != NOT_CHOSEN


def mask_fragment(
    pieces_T: Ints, words: WordBoundaries, settings: MaskSettings, random: np.random.Generator
) -> tuple[Ints, Bools]:
    """Masks one fragment of consecutive pieces, its place uniform, each piece by itself (MASS, Song et al. 2019).

    Args:
        pieces_T: ids of a sentence, or of several joined by </s>.
        words: what the pieces say about words.
        settings: how much is chosen, and what becomes of it.
        random: source of the noise.

    Returns:
        The masked sentence, and which of its pieces were chosen (those that stay included).
    """
    size = max(1, round(settings.ratio * len(pieces_T)))
    first = int(random.integers(len(pieces_T) - size + 1))
    action_T = np.full(len(pieces_T), NOT_CHOSEN, np.int64)
    action_T[first : first + size] = _draw_actions(size, settings, random)
    action_T[words.special_V[pieces_T]] = NOT_CHOSEN
    return _replace_pieces(pieces_T, action_T, words, random), action_T != NOT_CHOSEN


def _draw_actions(count: int, settings: MaskSettings, random: np.random.Generator) -> Ints:
    """What becomes of each chosen word or piece."""
    uniform = random.random(count)
    return np.where(uniform < settings.keep, KEEP, np.where(uniform < settings.keep + settings.random, RANDOM, MASK))


def _replace_pieces(pieces_T: Ints, action_T: Ints, words: WordBoundaries, random: np.random.Generator) -> Ints:
    noisy_T = np.where(action_T == MASK, words.mask, pieces_T)
    random_T = action_T == RANDOM
    noisy_T[random_T] = random.choice(words.pieces_V, int(random_T.sum()))
    return noisy_T

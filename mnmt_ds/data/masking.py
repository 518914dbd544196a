"""Masking: whole words (concurrent denoising, MLM) or one fragment (MASS), 80/10/10."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mnmt_ds.config import Settings
from mnmt_ds.data.word_boundaries import Ints, WordBoundaries

Bools = NDArray[np.bool_]


class MaskSettings(Settings):
    """How much is masked, and what becomes of it."""

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
    pieces_T: Ints, words: WordBoundaries, settings: MaskSettings, random: np.random.Generator
) -> tuple[Ints, Bools]:
    """The masked sentence, and which of its pieces were chosen (those that stay included).

    floor(ratio * words + U(0, 1)) words, drawn without replacement (the released code's rounding: right on average).
    """
    number_T = words.numbers(pieces_T)
    count = int(number_T.max(initial=-1)) + 1
    wanted = int(settings.ratio * count + random.random())
    fate_W = np.zeros(count, np.int64)  # 1 stays, 2 random, 3 <mask>
    fate_W[random.permutation(count)[:wanted]] = _fates(wanted, settings, random)
    fate_T = np.where(number_T >= 0, np.append(fate_W, 0)[number_T], 0)
    return _applied(pieces_T, fate_T, words, random), fate_T > 0


def mask_fragment(
    pieces_T: Ints, words: WordBoundaries, settings: MaskSettings, random: np.random.Generator
) -> tuple[Ints, Bools]:
    """MASS (Song et al. 2019): one fragment of consecutive pieces, its place uniform; each piece's fate is its own."""
    size = max(1, round(settings.ratio * len(pieces_T)))
    first = int(random.integers(len(pieces_T) - size + 1))
    fate_T = np.zeros(len(pieces_T), np.int64)
    fate_T[first : first + size] = _fates(size, settings, random)
    fate_T[words.special_V[pieces_T]] = 0
    return _applied(pieces_T, fate_T, words, random), fate_T > 0


def _fates(count: int, settings: MaskSettings, random: np.random.Generator) -> Ints:
    draw = random.random(count)
    return np.where(draw < settings.keep, 1, np.where(draw < settings.keep + settings.random, 2, 3))


def _applied(pieces_T: Ints, fate_T: Ints, words: WordBoundaries, random: np.random.Generator) -> Ints:
    noisy_T = np.where(fate_T == 3, words.mask, pieces_T)
    strange_T = fate_T == 2
    noisy_T[strange_T] = random.choice(words.pieces_V, int(strange_T.sum()))
    return noisy_T

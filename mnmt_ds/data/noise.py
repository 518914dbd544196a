"""The noise of denoising auto-encoders: infilling, masking, deletion, permutation of words and of sentences."""

import numpy as np
from pydantic import Field

from mnmt_ds.batch import EOS
from mnmt_ds.config import Settings
from mnmt_ds.data.word_boundaries import Ints, WordBoundaries


class NoiseSettings(Settings):
    """Which noise a DAE's source gets, applied in this order; the default is mBART's (Liu et al. 2020)."""

    permute_sentences: bool = True
    """Sentences of a block in random order."""
    infill: float = Field(default=0.35, ge=0, lt=1)
    """Share of the words that goes into spans, each of which becomes one <mask>."""
    infill_length: float = Field(default=3.5, gt=0)
    """Mean length of a span in words (Poisson; a span of 0 words inserts a <mask>)."""
    mask: float = Field(default=0.0, ge=0, lt=1)
    """Probability of each word to become <mask>, one a piece (Wang et al. 2020: word blanking)."""
    delete: float = Field(default=0.0, ge=0, lt=1)
    """Probability of each word to be left out."""
    permute: float = Field(default=0.0, ge=0)
    """Words are ordered by their place + U(0, permute + 1): none moves farther than this (Lample et al. 2018)."""


def add_noise(pieces_T: Ints, words: WordBoundaries, settings: NoiseSettings, random: np.random.Generator) -> Ints:
    """A sentence, or a block of them joined by </s>, with every noise that the settings ask for."""
    parts = _sentences(pieces_T)
    if settings.permute_sentences and len(parts) > 1:
        parts = [parts[i] for i in random.permutation(len(parts))]
    made: list[Ints] = []
    for part in parts:
        made += [*([np.array([EOS])] if made else []), _sentence(part, words, settings, random)]
    return np.concatenate(made) if made else pieces_T


def _sentence(pieces_T: Ints, words: WordBoundaries, settings: NoiseSettings, random: np.random.Generator) -> Ints:
    number_T = words.numbers(pieces_T)
    held = [pieces_T[number_T == w] for w in range(int(number_T.max(initial=-1)) + 1)]
    if settings.infill:
        held = infill_spans(held, words.mask, settings, random)
    if settings.mask:
        blank = random.random(len(held)) < settings.mask
        held = [np.full_like(word, words.mask) if out else word for word, out in zip(held, blank, strict=True)]
    if settings.delete and len(held) > 1:
        gone = random.random(len(held)) < settings.delete
        gone[random.integers(len(held))] &= not gone.all()  # something stays
        held = [word for word, out in zip(held, gone, strict=True) if not out]
    if settings.permute:
        place = np.arange(len(held)) + random.random(len(held)) * (settings.permute + 1)
        held = [held[i] for i in np.argsort(place, kind="stable")]
    return np.concatenate(held) if held else pieces_T


def infill_spans(held: list[Ints], mask: int, settings: NoiseSettings, random: np.random.Generator) -> list[Ints]:
    """Text infilling (BART): spans of Poisson length are each replaced by one <mask> until the share is used up."""
    left = int(settings.infill * len(held) + random.random())
    token = np.array([mask], np.int64)
    free = list(held)
    taken = [False] * len(free)
    while left > 0:
        length = min(int(random.poisson(settings.infill_length)), left, len(free))
        starts = [i for i in range(len(free) - length + 1) if not any(taken[i : i + max(1, length)])]
        if not starts:
            break
        at = starts[int(random.integers(len(starts)))]
        free[at : at + length] = [token]
        taken[at : at + length] = [True]
        left -= max(1, length)
    return free


def _sentences(pieces_T: Ints) -> list[Ints]:
    ends = np.flatnonzero(pieces_T == EOS)
    parts = np.split(pieces_T, ends)
    return [parts[0], *(part[1:] for part in parts[1:])]

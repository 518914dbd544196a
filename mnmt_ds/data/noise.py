"""The noise of denoising auto-encoders: infilling, masking, deletion, permutation of words and of sentences.

Letters: T pieces of a sentence.
"""

import numpy as np
from pydantic import Field

from mnmt_ds.batch import EOS
from mnmt_ds.config import Settings
from mnmt_ds.data.word_boundaries import Ints, WordBoundaries


class NoiseSettings(Settings):
    """Noise of a DAE's source, applied in this order; the default is mBART's (Liu et al. 2020)."""

    permute_sentences: bool = True
    """Sentences of a block in random order."""
    infill: float = Field(default=0.35, ge=0, lt=1)
    """Share of the words that goes into spans, each of which becomes one <mask>."""
    infill_length: float = Field(default=3.5, gt=0, le=1000)
    """Mean length of a span in words (Poisson; a span of 0 words inserts a <mask>)."""
    mask: float = Field(default=0.0, ge=0, lt=1)
    """Probability of each word to become <mask>, one a piece (Wang et al. 2020: word blanking)."""
    random: float = Field(default=0.0, ge=0, le=1)
    """Share of those words whose pieces become random pieces instead of <mask>."""
    delete: float = Field(default=0.0, ge=0, lt=1)
    """Probability of each word to be left out."""
    permute: float = Field(default=0.0, ge=0, le=10**6)
    """Words are ordered by their place + U(0, permute + 1): none moves farther than this (Lample et al. 2018)."""


def add_noise(pieces_T: Ints, words: WordBoundaries, settings: NoiseSettings, random: np.random.Generator) -> Ints:
    """Adds every noise that the settings ask for.

    Args:
        pieces_T: ids of a sentence, or of a block of them joined by </s>.
        words: what the pieces say about words.
        settings: which noise, and how much.
        random: source of the noise.

    Returns:
        Ids of the noised text, one-dimensional and mostly shorter.
    """
    sentences = _split_sentences(pieces_T)
    if settings.permute_sentences and len(sentences) > 1:
        sentences = [sentences[i] for i in random.permutation(len(sentences))]
    noised: list[Ints] = []
    for sentence_T in sentences:
        noised += [*([np.array([EOS])] if noised else []), _noise_sentence(sentence_T, words, settings, random)]
    return np.concatenate(noised) if noised else pieces_T


def _noise_sentence(
    pieces_T: Ints, words: WordBoundaries, settings: NoiseSettings, random: np.random.Generator
) -> Ints:
    word_T = words.numbers(pieces_T)
    sentence = [pieces_T[word_T == w] for w in range(int(word_T.max(initial=-1)) + 1)]
    if settings.infill:
        sentence = infill_spans(sentence, words.mask, settings, random)
    if settings.mask:
        masked = random.random(len(sentence)) < settings.mask
        replaced = masked & (random.random(len(sentence)) < settings.random) if settings.random else masked & False
        sentence = [
            random.choice(words.pieces_V, len(word)) if is_replaced
            else np.full_like(word, words.mask) if is_masked else word
            for word, is_masked, is_replaced in zip(sentence, masked, replaced, strict=True)
        ]  # fmt: skip
    if settings.delete and len(sentence) > 1:
        deleted = random.random(len(sentence)) < settings.delete
        deleted[random.integers(len(sentence))] &= not deleted.all()  # something stays
        sentence = [word for word, is_deleted in zip(sentence, deleted, strict=True) if not is_deleted]
    if settings.permute:
        sort_key = np.arange(len(sentence)) + random.random(len(sentence)) * (settings.permute + 1)
        sentence = [sentence[i] for i in np.argsort(sort_key, kind="stable")]
    return np.concatenate(sentence) if sentence else pieces_T


def infill_spans(sentence: list[Ints], mask: int, settings: NoiseSettings, random: np.random.Generator) -> list[Ints]:
    """Replaces spans of Poisson length by one <mask> each, until the share of words is used up (BART's infilling).

    Args:
        sentence: pieces of each word.
        mask: id of <mask>.
        settings: share of the words, and mean length of a span.
        random: source of the noise.

    Returns:
        Pieces of the words that are left, and <mask> for each span.
    """
    remaining = int(settings.infill * len(sentence) + random.random())
    mask_word = np.array([mask], np.int64)
    result = list(sentence)
    is_mask = [False] * len(result)
    while remaining > 0:
        length = min(int(random.poisson(settings.infill_length)), remaining, len(result))
        starts = [i for i in range(len(result) - length + 1) if not any(is_mask[i : i + max(1, length)])]
        if not starts:
            break
        start = starts[int(random.integers(len(starts)))]
        result[start : start + length] = [mask_word]
        is_mask[start : start + length] = [True]
        remaining -= max(1, length)
    return result


def _split_sentences(pieces_T: Ints) -> list[Ints]:
    ends = np.flatnonzero(pieces_T == EOS)
    parts = np.split(pieces_T, ends)
    return [parts[0], *(part[1:] for part in parts[1:])]

"""Whether a vocabulary is large enough for the characters of a text, before SentencePiece is asked."""

import unicodedata
from collections import Counter
from collections.abc import Mapping

from mnmt_ds.data.settings import TokenizerSettings
from mnmt_ds.data.tokenizer import SPECIALS

ENOUGH = 2_000_000
"""Characters of a language that are counted; more change nothing."""
BYTES = 256
"""Pieces of ``byte_fallback``."""


def count_characters(characters: Counter[str], content: bytes) -> None:
    """Counts the characters of a text, as SentencePiece sees them after its default normalisation.

    Args:
        characters: a language's counts so far, which grow.
        content: UTF-8.
    """
    if characters.total() < ENOUGH:
        characters.update(unicodedata.normalize("NFKC", content.decode("utf-8", "replace")))


def fewest_pieces(characters: Counter[str], settings: TokenizerSettings) -> int:
    """Counts the pieces that a vocabulary has at least: special ones, and one for each character within ``coverage``.

    White space is one character, ``▁``, which stands before each word.

    Args:
        characters: of the text.
        settings: of the tokenizer.

    Returns:
        Pieces.
    """
    visible = [count for character, count in characters.items() if not character.isspace()]
    counts = sorted([*visible, characters.total() - sum(visible)], reverse=True) if characters else []
    total, covered, pieces = sum(counts), 0, 0
    while pieces < len(counts) and covered < settings.coverage * total:
        covered, pieces = covered + counts[pieces], pieces + 1
    return pieces + SPECIALS + (BYTES if settings.byte_fallback else 0)


def vocabulary_faults(languages: Mapping[str, Counter[str]], settings: TokenizerSettings) -> list[str]:
    """Reports which models are too small to hold the characters of their text.

    Args:
        languages: characters of the training text by language.
        settings: of the tokenizer.

    Returns:
        One line a model; empty: none is too small.
    """
    if settings.given is not None:
        return []
    models = dict(languages) if settings.kind == "per_language" else {"": sum(languages.values(), Counter())}
    faults = []
    for language, characters in models.items():
        least = fewest_pieces(characters, settings)
        if characters and settings.size < least:
            text = f"the text in {language}" if language else "the text"
            faults.append(
                f"data.tokenizer.size: {settings.size} is too small, the characters of {text} alone need {least};"
                " raise size, or lower coverage (least: 0.98)"
            )
    return faults

"""A vocabulary that cannot hold the characters of its text is found without training it."""

from collections import Counter

from mnmt_ds.data.settings import TokenizerSettings
from mnmt_ds.data.vocabulary_size import count_characters, fewest_pieces, vocabulary_faults


def characters_of(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    count_characters(counts, text.encode())
    return counts


def test_special_pieces_and_a_piece_for_each_character() -> None:
    """Four special pieces; a to j; x is one character of 10,001, so that a coverage of 0.9995 leaves it out."""
    counts = characters_of("abcdefghij " * 1000 + "x")
    assert fewest_pieces(counts, TokenizerSettings(size=100, coverage=1)) == 15
    assert fewest_pieces(counts, TokenizerSettings(size=100)) == 14
    assert fewest_pieces(counts, TokenizerSettings(size=400, byte_fallback=True)) == 270


def test_the_model_that_is_too_small_is_named() -> None:
    languages = {"fr": characters_of("abcd"), "en": characters_of("abcdefghij")}
    assert vocabulary_faults(languages, TokenizerSettings(size=14)) == []
    (fault,) = vocabulary_faults(languages, TokenizerSettings(size=13))
    assert fault.startswith("data.tokenizer.size: 13 is too small, the characters of the text alone need 14;")
    (fault,) = vocabulary_faults(languages, TokenizerSettings(size=13, kind="per_language"))
    assert "the text in en alone need 14" in fault

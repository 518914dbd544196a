"""A vocabulary that cannot hold the characters of its text is found without training it."""

import io
from collections import Counter

import pytest
import sentencepiece

from mnmt_ds.data.settings import TokenizerSettings
from mnmt_ds.data.vocabulary_size import count_characters, fewest_pieces, vocabulary_faults


def characters_of(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    count_characters(counts, text.encode())
    return counts


def test_special_pieces_and_a_piece_for_each_character() -> None:
    """Four special pieces; white space; a to j; x is one character of 11,002, left out by a coverage of 0.9995."""
    counts = characters_of("abcdefghij " * 1000 + "x")
    assert fewest_pieces(counts, TokenizerSettings(size=100, coverage=1)) == 16
    assert fewest_pieces(counts, TokenizerSettings(size=100)) == 15
    assert fewest_pieces(counts, TokenizerSettings(size=400, byte_fallback=True)) == 271


def test_the_model_that_is_too_small_is_named() -> None:
    languages = {"fr": characters_of("abcd\n"), "en": characters_of("abcdefghij\n")}
    assert vocabulary_faults(languages, TokenizerSettings(size=15)) == []
    (fault,) = vocabulary_faults(languages, TokenizerSettings(size=14))
    assert fault.startswith("data.tokenizer.size: 14 is too small, the characters of the text alone need 15;")
    (fault,) = vocabulary_faults(languages, TokenizerSettings(size=14, kind="per_language"))
    assert "the text in en alone need 15" in fault


def test_sentencepiece_takes_that_many_and_no_fewer() -> None:
    lines = ["abcd efgh", "hgfe dcba ij", "jjii abab"] * 4
    least = fewest_pieces(characters_of("\n".join(lines) + "\n"), TokenizerSettings(size=100, coverage=1))

    def train(size: int) -> int:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=size, character_coverage=1.0,
            model_type="bpe", pad_id=3, minloglevel=2,
        )  # fmt: skip
        return int(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size())

    assert train(least) == least
    with pytest.raises(RuntimeError, match="required_chars"):
        train(least - 1)

"""Pieces that are added to a given tokenizer: what they change of ids, rows and files, and what they leave alone."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.data.derived_tokenizer import add_languages, new_piece_ids, trim, used_ids
from mnmt_ds.data.new_pieces import add_pieces, learn_pieces
from mnmt_ds.data.pretrained_tokenizer import number_sentencepiece, open_family_tokenizer
from mnmt_ds.data.settings import TokenizerSettings
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.decoding.hf_tokenizer import family_files, files_with_pieces, new_tags
from mnmt_ds.errors import UserError
from tests.pretrained import lines_of, sentencepiece_bytes, write_tokenizer

FAMILIES = ("m2m_100", "nllb", "fast")
COUNT = 60


@cache
def lines() -> tuple[str, ...]:
    """Text of a language that the tokenizers' own text has little of, some of it in letters that they do not know."""
    return tuple(f"{line} ⵣⴰⵣ" for line in lines_of("sw")[:300])


def base(directory: Path, family: str) -> Tokenizer:
    write_tokenizer(directory, "nllb" if family == "fast" else family)
    if family == "fast":
        (directory / "sentencepiece.bpe.model").unlink()
    return open_family_tokenizer(directory)


@pytest.mark.parametrize("family", FAMILIES)
def test_old_pieces_keep_their_ids_and_new_ones_shorten_the_text(family: str, tmp_path: Path) -> None:
    """Old pieces are joined, nothing else: what a text's ids spell in old pieces is what it was before."""
    old = base(tmp_path, family)
    pieces = learn_pieces(old, lines(), COUNT)
    assert pieces == learn_pieces(old, lines(), COUNT) and len({piece.text for piece in pieces}) == COUNT
    assert {piece.text for piece in pieces if not piece.parts} == {"ⵣ", "ⴰ"}
    new = add_pieces(old, pieces)
    first, added = old.piece_count, {piece.text: piece.parts for piece in pieces}
    assert new.symbols == (*old.symbols[:first], *added, *old.symbols[first:])
    assert new.tag("fr") == old.tag("fr") + COUNT and new_piece_ids(new) == list(range(first, first + COUNT))
    used = set[int]()
    for line in (*lines(), *lines_of("sw")[:300], *lines_of("de")[:200], *lines_of("ja")[:100]):
        was, now = old.encode(line, "en"), new.encode(line, "en")
        used |= set(now)
        spelt = [part for i in now for part in (added[new.piece(i)] if first <= i < first + COUNT else (new.piece(i),))]
        assert "ⵣ" in line or spelt == [old.piece(i) for i in was], line
        assert new.decode(now) == old.decode(was) or "ⵣ" in line
    assert len(used & set(new_piece_ids(new))) > 0.6 * COUNT
    count = [sum(map(len, each.encode_many(lines(), "en"))) for each in (old, new)]
    assert count[1] < 0.85 * count[0]
    assert new.decode(new.encode(lines()[0], "en")) == lines()[0]
    new.save_to(tmp_path / "saved")
    opened = Tokenizer.open(tmp_path / "saved")
    assert (opened.symbols, opened.derivation, opened.hash) == (new.symbols, new.derivation, new.hash)


def test_rows(tmp_path: Path) -> None:
    """Old rows bit for bit, a new piece's the mean of its old pieces', also beside a new tag and after trimming."""
    from mnmt_ds.models.pretrained import open_weights, with_vocabulary
    from tests.pretrained import write_model

    write_model(tmp_path / "model", "m2m_100")
    old = open_family_tokenizer(tmp_path / "model")
    tagged = add_languages(old, {"xx": "sw"})
    pieces = learn_pieces(tagged, lines(), COUNT)
    new = add_pieces(tagged, pieces)
    small = trim(new, used_ids(new, lines(), "sw"))
    source = open_weights(tmp_path / "model")
    rows = source.read("embedding.weight")
    place = {symbol: i for i, symbol in enumerate(old.symbols)}
    for tokenizer in (new, small):
        assert tokenizer.derivation is not None
        read = with_vocabulary(source, tokenizer.derivation.rows, tokenizer.derivation.new).read("embedding.weight")
        assert len(read) == tokenizer.size
        for i, symbol in enumerate(tokenizer.symbols):
            if symbol in place and i not in tokenizer.derivation.new:
                assert torch.equal(read[i], rows[place[symbol]]), symbol
        assert torch.equal(read[tokenizer.tag("xx")], rows[old.tag("sw")])
        by_text = {piece.text: piece.parts for piece in pieces}
        for i in new_piece_ids(tokenizer):
            parts = [part for part in by_text[tokenizer.piece(i)] if part in place]
            if parts:  # else all of it was unknown
                torch.testing.assert_close(read[i], rows[[place[part] for part in parts]].mean(0))
    assert small.encode_many(lines(), "sw") != new.encode_many(lines(), "sw")
    assert [[small.piece(i) for i in ids] for ids in small.encode_many(lines(), "sw")] == [
        [new.piece(i) for i in ids] for ids in new.encode_many(lines(), "sw")
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_files_give_transformers_the_same_ids(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tagged = add_languages(base(tmp_path / "base", family), {"xx": "sw"} if family == "m2m_100" else {})
    new = add_pieces(tagged, learn_pieces(tagged, lines(), COUNT))
    (tmp_path / "out").mkdir()
    for name, content in family_files(files_with_pieces(new), new_tags(new)).items():
        (tmp_path / "out" / name).write_bytes(content)
    (tmp_path / "out" / "config.json").write_text('{"model_type": "m2m_100"}')
    source = "sw" if family == "m2m_100" else "swh_Latn"
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out", src_lang=source)
    for language in new.languages:
        assert theirs.convert_tokens_to_ids(new.piece(new.tag(language))) == new.tag(language)
    for line in (*lines()[:100], *lines_of("de")[:50]):
        assert theirs(line).input_ids == [new.tag("sw"), *new.encode(line, "sw"), 2], line


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unigram.model").write_bytes(sentencepiece_bytes("unigram", 2000))
    unigram = number_sentencepiece(tmp_path / "unigram.model", ["sw"])
    with pytest.raises(UserError, match="unigram, whose splits all change"):
        learn_pieces(unigram, lines(), 5)
    with pytest.raises(ValueError, match="set model to its path"):
        TokenizerSettings.model_validate({"new_pieces": {"sw": 5}})
    values: dict[str, Any] = {"model": str(tmp_path), "new_pieces": {"sw": 0}}
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        TokenizerSettings.model_validate(values)

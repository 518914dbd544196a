"""Tokenizers derived from a pretrained one: new tags, fewer pieces, the same splits."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from mnmt_ds.batch import UNK
from mnmt_ds.data.derived_tokenizer import add_languages, trim, used_ids
from mnmt_ds.data.pretrained_tokenizer import number_sentencepiece, open_given_tokenizer
from mnmt_ds.data.tokenizer import JOINT, Tokenizer
from mnmt_ds.errors import UserError
from tests.pretrained import lines_of, sentencepiece_bytes


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    """Pieces, tags of three languages, ``<mask>``, two ids without meaning."""
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_bytes())
    pieces = [model.id_to_piece(i) for i in range(3, model.get_piece_size())]
    symbols = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *pieces,
        "__en__",
        "__fr__",
        "__ka__",
        "<mask>",
        "<unused0>",
        "<unused1>",
    ]
    return Tokenizer(("en", "fr", "ka"), {JOINT: sentencepiece_bytes()}, symbols, {"vocab.json": b"{}"})


def test_a_new_tag_takes_an_unused_id_first(base: Tokenizer, tmp_path: Path) -> None:
    new = add_languages(base, {"xx": "fr", "yy": "mean", "zz": "random"})
    assert new.languages == ("en", "fr", "ka", "xx", "yy", "zz")
    assert [new.tag(language) for language in ("xx", "yy", "zz")] == [base.size - 2, base.size - 1, base.size]
    assert [new.piece(new.tag(language)) for language in ("xx", "zz")] == ["__xx__", "__zz__"]
    assert new.encode("norvégien", "xx") == base.encode("norvégien", "fr")
    assert new.derivation is not None and new.derivation.base_hash == base.hash != new.hash
    tags = tuple(base.tag(language) for language in base.languages)
    assert dict(new.derivation.new) == {new.tag("xx"): (base.tag("fr"),), new.tag("yy"): tags, new.tag("zz"): ()}
    assert new.derivation.rows == (*range(base.size - 2), -1, -1, -1)
    new.save_to(tmp_path)
    again = Tokenizer.open(tmp_path)
    assert (again.derivation, again.hash, again.originals) == (new.derivation, new.hash, base.originals)
    assert add_languages(base, {}) is base
    for starts, words in (({"fr": "en"}, "new_languages.fr: the tokenizer has that language"),
                          ({"xx": "qq"}, "new_languages.xx: language 'qq': not in the tokenizer")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            add_languages(base, starts)


def test_trimmed_pieces_leave_the_texts_splits(base: Tokenizer, tmp_path: Path) -> None:
    """The texts that were counted split alike; other text is split into what is left, unknown only if it was."""
    texts = {language: list(lines_of(language)[:300]) for language in ("fr", "ka")}
    used = np.logical_or.reduce([used_ids(base, lines, language) for language, lines in texts.items()])
    small = trim(add_languages(base, {"xx": "ka"}), used)
    assert small.size < 0.6 * base.size
    assert small.languages == ("en", "fr", "ka", "xx") and small.piece(small.mask) == "<mask>"
    assert small.derivation is not None
    rows = small.derivation.rows
    for language, lines in texts.items():
        for old, new in zip(base.encode_many(lines, language), small.encode_many(lines, language), strict=True):
            assert [rows[i] for i in new] == old
            assert UNK in old or small.decode(new) == base.decode(old)
    assert dict(small.derivation.new) == {small.tag("xx"): (base.tag("ka"),)}
    assert [rows[small.tag(language)] for language in base.languages] == [
        base.tag(language) for language in base.languages
    ]
    others = [line for line in lines_of("el")[:200] if UNK not in base.encode(line, "en")]
    assert len(others) > 50
    for line in others:
        ids = small.encode(line, "en")
        assert UNK not in ids and small.decode(ids) == line
    small.save_to(tmp_path)
    assert Tokenizer.open(tmp_path).encode(others[0], "en") == small.encode(others[0], "en")


def test_any_sentencepiece_model(tmp_path: Path) -> None:
    """Its pieces in their order behind our special symbols, without its own ones, and a tag for each language."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines_of("fr")), model_writer=written, vocab_size=300, minloglevel=2, pad_id=3,
        user_defined_symbols=["<sep>"], model_type="unigram", num_threads=1,
    )  # fmt: skip
    path = tmp_path / "any.model"
    path.write_bytes(written.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ours = open_given_tokenizer(path, ("fr", "en"))
    assert [ours.piece(i) for i in (0, 1, 2, 3, 4)] == ["<s>", "<pad>", "</s>", "<unk>", "<sep>"]
    assert ours.size == 4 + 296 + 1 + 2 and ours.piece(ours.tag("en")) == "__en__"
    for line in lines_of("fr")[:200]:
        assert [ours.piece(i) for i in ours.encode(line, "fr")] == model.encode(line, out_type=str)
        assert ours.decode(ours.encode(line, "fr")) == model.decode(model.encode(line))
    assert UNK in ours.encode("ქართული", "fr")
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        number_sentencepiece(path, ("fr",))
    with pytest.raises(UserError, match="is missing; copy the model's tokenizer files"):
        open_given_tokenizer(tmp_path, ("fr",))

"""Ids, tags and hashes of joint and merged vocabularies."""

import json
from pathlib import Path

import pytest
import sentencepiece

from mnmt_ds import batch
from mnmt_ds.data.settings import TokenizerSettings
from mnmt_ds.data.tokenizer import JOINT, UNK, Tokenizer
from mnmt_ds.data.tokenizer_training import TextFile, sample_sizes, train_sentencepiece
from mnmt_ds.errors import UserError
from tests.data.conftest import sentences, translated

ENGLISH = sentences(300)


def text(path: Path, lines: list[str]) -> TextFile:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return TextFile(path, len(lines))


def model(path: Path, lines: list[str], **values: object) -> bytes:
    settings = TokenizerSettings.model_validate({"size": 50, "hard_limit": False, **values})
    return train_sentencepiece([text(path, lines)], settings, "test")


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("joint") / "text"
    return Tokenizer(("bs", "en", "mr"), {JOINT: model(path, ENGLISH)})


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    root = tmp_path_factory.mktemp("merged")
    both = {"bs": [translated(line, "bs") for line in ENGLISH], "en": ENGLISH}
    return Tokenizer(("bs", "en"), {lang: model(root / lang, lines) for lang, lines in both.items()})


def test_special_ids_are_the_batchs(joint: Tokenizer) -> None:
    assert (batch.BOS, batch.PAD, batch.EOS, batch.UNK) == (0, 1, 2, UNK)
    assert [joint.piece(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]


def test_mask_and_tags_follow_the_pieces(joint: Tokenizer) -> None:
    assert joint.piece(joint.mask) == "<mask>"
    assert [joint.tag(lang) - joint.mask for lang in ("bs", "en", "mr")] == [1, 2, 3]
    assert joint.size == joint.mask + 4
    assert joint.piece(joint.tag("mr")) == "__mr__"
    with pytest.raises(UserError, match="language 'fr': not in the tokenizer, which knows bs, en, mr"):
        joint.tag("fr")
    with pytest.raises(UserError, match="language 'fr'"):
        joint.encode("x", "fr")


def test_joint_encoding_is_sentencepieces(joint: Tokenizer) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_proto=joint.serialised[JOINT])
    for line in ENGLISH[:50]:
        assert joint.encode(line, "en") == reference.encode(line)
        assert joint.decode(joint.encode(line, "bs")) == line
    assert joint.encode_many(ENGLISH[:9], "en") == [joint.encode(line, "en") for line in ENGLISH[:9]]
    assert max(max(ids) for ids in joint.encode_many(ENGLISH, "en")) < joint.mask


def test_decoding_drops_specials_and_tags(joint: Tokenizer) -> None:
    ids = joint.encode("red bird", "en")
    assert joint.decode([joint.tag("en"), 0, *ids[:2], joint.mask, *ids[2:], 2, 1, 1]) == "red bird"
    assert "⁇" in joint.decode(joint.encode("red 鳥", "en"))


def test_merged_vocabularies_share_ids_of_equal_pieces(merged: Tokenizer) -> None:
    models = {
        lang: sentencepiece.SentencePieceProcessor(model_proto=proto) for lang, proto in merged.serialised.items()
    }
    pieces = {lang: [sp.id_to_piece(i) for i in range(sp.get_piece_size())] for lang, sp in models.items()}
    assert merged.mask == len(set(pieces["bs"]) | set(pieces["en"]))
    names = [merged.piece(i) for i in range(merged.mask)]
    assert len(set(names)) == merged.mask
    assert names[: len(pieces["bs"])] == pieces["bs"]
    for lang in ("bs", "en"):
        lines = ENGLISH if lang == "en" else [translated(line, "bs") for line in ENGLISH]
        for line in lines[:50]:
            ids = merged.encode(line, lang)
            assert [merged.piece(i) for i in ids] == models[lang].encode(line, out_type=str)
            assert merged.decode(ids) == line


def test_training_is_deterministic_and_knows_no_path(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first, second = model(tmp_path / "a", ENGLISH), model(tmp_path / "elsewhere" / "b", ENGLISH)
    assert first == second
    assert model(tmp_path / "c", ENGLISH[:-1]) != first


def test_a_vocabulary_that_the_text_cannot_fill(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        model(tmp_path / "a", ENGLISH, size=5000, hard_limit=True)
    assert str(error.value).startswith("data.tokenizer: SentencePiece cannot make 5000 pieces for test (")
    assert "\n" not in str(error.value) and str(error.value).endswith("; lower size, or set hard_limit=false")
    assert model(tmp_path / "a", ENGLISH, size=5000, hard_limit=False)
    for hard_limit in (True, False):  # which makes no difference to a vocabulary that is too small
        with pytest.raises(UserError, match=r"; raise size, or lower coverage \(least: 0\.98\)$"):
            model(tmp_path / "a", ENGLISH, size=8, hard_limit=hard_limit)


def test_coverage_decides_which_characters_are_known(tmp_path: Path) -> None:
    lines = [*ENGLISH * 5, "qq"]
    knows_q = {}
    for coverage in (1.0, 0.99):
        tokenizer = Tokenizer(("en",), {JOINT: model(tmp_path / "a", lines, coverage=coverage)})
        knows_q[coverage] = UNK not in tokenizer.encode("q", "en")
    assert knows_q == {1.0: True, 0.99: False}


@pytest.mark.parametrize(
    ("counts", "max_total", "temperature", "expected"),
    [
        ([100, 300], 1000, 1, [100, 300]),
        ([100, 300], 200, 1, [50, 150]),
        ([100, 10000], 110, 2, [10, 100]),
        ([5, 10000], 110, 2, [2, 107]),
        ([2, 10000], 1000, 100, [2, 998]),
        ([0, 10], 4, 1, [0, 4]),
    ],
)
def test_shares_of_the_sample(counts: list[int], max_total: int, temperature: float, expected: list[int]) -> None:
    assert sample_sizes(counts, max_total, temperature) == expected


def test_saved_and_opened(joint: Tokenizer, merged: Tokenizer, tmp_path: Path) -> None:
    for name, tokenizer in (("joint", joint), ("merged", merged)):
        tokenizer.save_to(tmp_path / name)
        again = Tokenizer.open(tmp_path / name)
        assert again.hash == tokenizer.hash
        assert (again.size, again.languages) == (tokenizer.size, tokenizer.languages)
        assert again.encode("red bird", "en") == tokenizer.encode("red bird", "en")
    assert joint.hash != merged.hash
    assert Tokenizer(("en", "bs", "mr"), joint.serialised).hash != joint.hash


def test_a_changed_or_missing_tokenizer_is_refused(joint: Tokenizer, merged: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable tokenizer"):
        Tokenizer.open(tmp_path / "none")
    joint.save_to(tmp_path)
    facts = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**facts, "languages": ["bs", "en"]}))
    with pytest.raises(UserError, match="a file was changed: run mnmt-ds prepare again"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    (tmp_path / "spm.model").write_bytes(merged.serialised["bs"])
    with pytest.raises(UserError, match="a file was changed"):
        Tokenizer.open(tmp_path)
    (tmp_path / "spm.model").write_bytes(b"junk")
    with pytest.raises(UserError, match="a file was changed"):
        Tokenizer.open(tmp_path)

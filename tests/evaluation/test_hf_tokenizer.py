"""The exported tokenizer is ours, on hard text too; where it is not, the notes say so."""

import io
import json
import random
import unicodedata
from pathlib import Path

import pytest
import sentencepiece

from mnmt_ds.data.framing import FramingSettings, frame_of
from mnmt_ds.data.tokenizer import JOINT, Tokenizer
from mnmt_ds.decoding.hf_tokenizer import HARD_STRINGS, write_tokenizer

LINES = [
    "xin chào thế giới việt được",
    "カタカナ バビブ パピプ ガゲ バナナ",
    "the quick brown fox - jumps over",
    "하하 한국어 가나다 나라",
    "می روم کتاب ها",
]


def make(normalization: str = "nmt_nfkc", byte_fallback: bool = False, model: str = "unigram") -> Tokenizer:
    maker, words = random.Random(1), [line.split() for line in LINES]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(maker.sample(line, 4)) for line in words for _ in range(60)]),
        model_writer=written, vocab_size=400 if byte_fallback else 140, model_type=model, hard_vocab_limit=False,
        normalization_rule_name=normalization, byte_fallback=byte_fallback, num_threads=1, bos_id=0, pad_id=1,
        eos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    return Tokenizer(["vi", "en"], {JOINT: written.getvalue()})


def export(tokenizer: Tokenizer, out: Path, samples: list[str]) -> list[str]:
    frame = frame_of(FramingSettings(), tokenizer.tag("vi"), tokenizer.tag("en"))
    return write_tokenizer(tokenizer, frame, samples, out)


@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize("normalization", ["nmt_nfkc", "nfkc", "identity"])
def test_files_split_and_write_as_the_model_does(normalization: str, byte_fallback: bool, tmp_path: Path) -> None:
    """From the files alone, by transformers: all hard strings that no note names, unknown pieces and bytes too."""
    from transformers import AutoTokenizer

    tokenizer = make(normalization, byte_fallback)
    notes = export(tokenizer, tmp_path, LINES)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    differing = set()
    for name, text in HARD_STRINGS.items():
        ids = tokenizer.encode(text, "vi")
        split = theirs(text)["input_ids"]
        same = split == [tokenizer.tag("vi"), *ids, 2] and theirs.decode(
            split, skip_special_tokens=True
        ) == tokenizer.decode(ids)
        same = same and theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
        differing |= set() if same else {name}
    assert all(any(f"{name} (" in note for note in notes) for name in differing)
    assert len(differing) <= 5 and not differing & {
        "NFD Vietnamese",
        "half-width kana",
        "NFD Korean",
        "emoji",
        "rare characters",
    }
    if byte_fallback:
        assert tokenizer.decode(tokenizer.encode("𓀀", "vi")) == "𓀀" and "rare characters" not in differing
    else:
        assert "⁇" in tokenizer.decode(tokenizer.encode("x ❤ y", "vi"))
        assert theirs.decode(tokenizer.encode("x ❤ y", "vi")) == tokenizer.decode(tokenizer.encode("x ❤ y", "vi"))


def test_differences_are_named(tmp_path: Path) -> None:
    """Marks out of their order are composed by transformers' normaliser alone."""
    notes = export(make(), tmp_path, LINES)
    (note,) = [note for note in notes if "splits differently from the model's own tokenizer" in note]
    assert "unordered marks (e\\u0302\\u0323 d\\u0307\\u0323)" in note
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["clean_up_tokenization_spaces"] is False


def test_dev_text_that_differs_leaves_the_file_out(tmp_path: Path) -> None:
    samples = [*LINES[1:], HARD_STRINGS["unordered marks"] + " " + HARD_STRINGS["NFD Vietnamese"]]
    (note,) = export(make(), tmp_path, samples)
    assert note.startswith(
        "no tokenizer.json: transformers' tokenizer would split 1 of 5 lines of dev text differently"
    )
    assert "sentencepiece/ holds the tokenizer as it is" in note and not (tmp_path / "tokenizer.json").exists()
    (note,) = export(make(model="bpe"), tmp_path / "bpe", LINES)
    assert note.startswith("no tokenizer.json: only unigram") and not (tmp_path / "bpe" / "tokenizer.json").exists()


def test_decomposed_text_of_many_scripts(tmp_path: Path) -> None:
    """Every precomposed character of the first planes, taken apart, is split as SentencePiece does."""
    from tokenizers import Tokenizer as Fast

    tokenizer = make()
    export(tokenizer, tmp_path, ["a"])
    fast = Fast.from_file(str(tmp_path / "tokenizer.json"))
    texts = [
        unicodedata.normalize("NFD", chr(code))
        for code in [*range(0xC0, 0x250), *range(0x1E00, 0x2000), *range(0xAC00, 0xAD00)]
    ]
    ours = tokenizer.encode_many(texts, "vi")
    theirs = [encoding.ids[1:-1] for encoding in fast.encode_batch(texts)]
    wrong = [text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]
    assert wrong == []

"""Tokenizers of pretrained models: transformers' own ids, for text of many scripts."""

import json
import shutil
from pathlib import Path

import pytest

from mnmt_ds.batch import UNK
from mnmt_ds.data.framing import frame_of, frame_source
from mnmt_ds.data.pretrained_tokenizer import family_framing, open_family_tokenizer, open_given_tokenizer
from mnmt_ds.errors import UserError
from tests.pretrained import LOCALES, lines_of, write_tokenizer

AWKWARD = [
    "a", "A\u00a0b\tc", "two  spaces", "ｆｕｌｌ width ﬁ", "%s: %d (x_y)", "漢字かな", "é e\u0301",
    "🙂🙂 a🙂b", "\u200bx", "fr_x __ fra_", "x" * 50,
]  # fmt: skip
TEXT = [line.strip("\u200c\u200f") for locale in LOCALES for line in lines_of(locale)] + AWKWARD
"""Without marks at a line's ends that become spaces: transformers 5 keeps spaces there, SentencePiece does not."""


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """M2M-100's files, NLLB's, and NLLB's fast file alone."""
    from transformers import NllbTokenizer

    root = tmp_path_factory.mktemp("tokenizers")
    m2m, nllb = write_tokenizer(root / "m2m", "m2m_100"), write_tokenizer(root / "nllb", "nllb")
    NllbTokenizer.from_pretrained(nllb).save_pretrained(root / "fast")
    assert sorted(path.name for path in (root / "fast").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    return {"m2m_100": m2m, "nllb": nllb, "fast": root / "fast"}


@pytest.mark.parametrize("kind", ["m2m_100", "nllb", "fast"])
def test_ids_and_frames_are_transformers(directories: dict[str, Path], kind: str) -> None:
    check_ids(directories[kind], kind, [*TEXT[::17], *AWKWARD])


@pytest.mark.parametrize("files", [(), ("tokenizer_config.json",)])
def test_nllb_of_a_sentencepiece_model_alone_keeps_its_codes(
    directories: dict[str, Path], files: tuple[str, ...], tmp_path: Path
) -> None:
    """Every id's symbol and every tag as published; transformers 5.24 knows no code of such a directory."""
    for name in ("sentencepiece.bpe.model", *files):
        shutil.copy(directories["nllb"] / name, tmp_path / name)
    alone, whole = (open_given_tokenizer(path, ("ka", "fr")) for path in (tmp_path, directories["nllb"]))
    assert [alone.piece(i) for i in range(alone.size)] == [whole.piece(i) for i in range(whole.size)]
    assert all(alone.tag(language) == whole.tag(language) for language in ("ka", "fr", "kat_Geor", "zho_Hant"))
    assert alone.encode_many(AWKWARD, "ka") == whole.encode_many(AWKWARD, "ka")
    assert family_framing(tmp_path) == family_framing(directories["nllb"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["m2m_100", "nllb", "fast"])
def test_ids_of_all_lines(directories: dict[str, Path], kind: str) -> None:
    assert len(TEXT) > 20_000
    check_ids(directories[kind], kind, TEXT)


def check_ids(directory: Path, kind: str, text: list[str]) -> None:
    """Ids, framed sources and labels of some text, ours and transformers'."""
    from transformers import M2M100Tokenizer, NllbTokenizer

    source, target = ("ka", "fr") if kind == "m2m_100" else ("kat_Geor", "fra_Latn")
    peer = (M2M100Tokenizer if kind == "m2m_100" else NllbTokenizer).from_pretrained(
        directory, src_lang=source, tgt_lang=target
    )
    ours = open_given_tokenizer(directory, ("ka", "fr"))
    frame = frame_of(family_framing(directory), ours.tag("ka"), ours.tag("fr"))
    assert (ours.tag("ka"), ours.tag("fr")) == tuple(peer.convert_tokens_to_ids([
        f"__{code}__" if kind == "m2m_100" else code for code in (source, target)
    ]))  # fmt: skip
    theirs = peer(text, add_special_tokens=False)["input_ids"]
    encoded = ours.encode_many(text, "ka")
    assert [text for text, a, b in zip(text, encoded, theirs, strict=True) if a != b] == []
    both = peer(text[:20], text_target=text[:20])
    assert both["input_ids"] == [frame_source(frame, ids) for ids in encoded[:20]]
    assert both["labels"] == [[*frame.target_prefix, *ids, 2] for ids in encoded[:20]]
    assert frame.decoder_start == 2
    known = [ids for ids in encoded if UNK not in ids]
    assert len(known) > len(text) / 3
    assert [ours.decode(ids) for ids in known[::9]] == [
        peer.decode(ids, skip_special_tokens=True) for ids in known[::9]
    ]


def test_words_added_to_m2m100_keep_their_ids_and_take_no_languages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers gives added words the ids of the first languages where the files do not list these as special."""
    from transformers import M2M100Tokenizer

    listed = write_tokenizer(tmp_path / "listed", "m2m_100")
    two_files = write_tokenizer(tmp_path / "two_files", "m2m_100")
    (two_files / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "M2M100Tokenizer"}))
    for directory in (listed, two_files):
        theirs = M2M100Tokenizer.from_pretrained(directory)
        theirs.add_tokens(["Kubernetes"])
        theirs.save_pretrained(directory)
        number = theirs.convert_tokens_to_ids("Kubernetes")
        if directory == two_files:
            with pytest.raises(UserError, match=rf"id {number} is __af__, and the added word Kubernetes, too"):
                open_family_tokenizer(directory)
        else:
            assert open_family_tokenizer(directory).piece(number) == "Kubernetes"
            assert "1 added word(s), such as Kubernetes" in caplog.text

"""Synthetic text in ``prepare``: trained on with its tag, up to its share; never held out, no held-out sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mnmt_ds.data.corpus import Corpus, changed_settings
from mnmt_ds.data.holdout import RowHashes
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.prepare_report import summary_table
from mnmt_ds.data.readers.sources import corpus_parts
from mnmt_ds.data.settings import DataSettings, PairFiles
from mnmt_ds.data.split_assignment import assign_splits, split_of_rows
from mnmt_ds.data.text_cleaning import synthetic_domains
from mnmt_ds.data.validate import validate
from tests.data.conftest import sentences, translated


def synthetic(moses: Any, english: list[str], **settings: Any) -> dict[str, Any]:
    return {**moses("bs-en", english, "synthetic"), "synthetic": settings}


def texts(directory: Path, split: str, side: str) -> list[str]:
    return (directory / "text" / f"bs-en.{split}.{side}").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.mark.parametrize("kind", ["joint", "per_language"])
def test_synthetic_text_is_tagged_and_only_trained_on(moses: Any, settings_of: Any, tmp_path: Path, kind: str) -> None:
    real, made = sentences(300), sentences(260, seed=9)
    made = [line for line in made if line not in set(real)][:200]
    held_out = prepare(settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", real)]}})).parent
    dev = texts(held_out, "dev", "tgt")
    train = [synthetic(moses, [*made, *dev], tag="<bt>", share=0.25), moses("bs-en", real)]  # in either order
    settings = settings_of(
        pairs=["bs-en"], corpora={"bs-en": {"train": train}}, tokenizer={"kind": kind, "size": 80, "hard_limit": False}
    )
    path = prepare(settings)
    assert validate(settings) == []
    corpus = Corpus.open(path.parent)
    assert texts(path.parent, "dev", "tgt") == dev and not set(texts(path.parent, "test", "tgt")) & set(made)
    split, lines = corpus.split("bs-en", "train"), texts(path.parent, "train", "tgt")
    is_made = [line in set(made) for line in lines]
    assert not set(lines) & set(dev)
    assert is_made == sorted(is_made) and sum(is_made) == round((len(lines) - sum(is_made)) / 3)
    tag = next(i for i in range(corpus.tokenizer.size) if corpus.tokenizer.piece(i) == "<bt>")
    assert [split.pieces(i)[0][0] == tag for i in range(len(split))] == is_made
    for i, line in enumerate(texts(path.parent, "train", "src")):
        expected = corpus.tokenizer.encode(line, "bs")
        assert list(split.pieces(i)[0]) == ([tag, *expected] if is_made[i] else expected)
    assert f"{sum(is_made)} of {len(lines)} training sentences are synthetic" in summary_table(path)
    assert "over synthetic share" in summary_table(path)


def test_without_a_share_all_of_it_counts_and_max_train_is_of_real_text(moses: Any, settings_of: Any) -> None:
    made = [f"{line} song" for line in sentences(90, seed=4)]
    train = [moses("bs-en", sentences(300)), synthetic(moses, made)]
    path = prepare(settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": train}}, max_train={"bs-en": 40}))
    lines = texts(path.parent, "train", "tgt")
    assert len(lines) == 40 + sum(line in set(made) for line in lines) and sum(line in set(made) for line in lines) > 80
    corpus = Corpus.open(path.parent)
    assert list(corpus.split("bs-en", "train").pieces(len(lines) - 1)[0]) == corpus.tokenizer.encode(
        translated(lines[-1], "bs"), "bs"
    )


def test_shares_by_hand() -> None:
    """60 real rows, shares 0.2 and 0.5: they stay 0.3 of all, so 40 and 100 rows; the third text is taken whole."""
    made = {1: {"share": 0.2}, 2: {"share": 0.5}, 3: {}}
    domain = np.repeat([0, 1, 2, 3], [60, 70, 90, 5]).astype(np.uint16)
    key = np.arange(225, dtype=np.uint64) * np.uint64(2**64 // 225)
    settings = DataSettings.model_validate({"pairs": ["bs-en"], "split": {"dev": 1, "test": 0}})
    from mnmt_ds.data.held_out_text import held_out_text, join_held_out
    from mnmt_ds.data.settings import SyntheticText

    hashes = RowHashes(key, key + np.uint64(1), key + np.uint64(2), key + np.uint64(3), domain,
                       {number: SyntheticText.model_validate(values) for number, values in made.items()})  # fmt: skip
    assignment = assign_splits(settings, {"train": hashes, "dev": hashes.of_rows(np.zeros(0, np.int64))})
    none = join_held_out([held_out_text("bs-en", {"train": hashes}, assignment.held_out)])
    split_N, counts = split_of_rows(settings, "bs-en", hashes, assignment, none)
    assert np.bincount(domain[split_N == 0]).tolist() == [60, 40, 90, 5]
    assert counts["over synthetic share"] == 30


def test_a_tokenizer_that_has_no_such_piece_splits_the_tag(moses: Any, settings_of: Any, tmp_path: Path) -> None:
    real = moses("bs-en", sentences(300))
    parent = prepare(settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [real]}})).parent
    train = [real, synthetic(moses, [f"{line} song" for line in sentences(20, seed=4)], tag="<bt>")]
    settings = settings_of(
        pairs=["bs-en"], corpora={"bs-en": {"train": train}}, tokenizer={"model": str(parent / "tokenizer")}
    )
    settings = settings.model_copy(update={"directory": str(tmp_path / "child")})
    corpus = Corpus.open(prepare(settings).parent)
    tag = corpus.tokenizer.encode("<bt>", "bs")
    last = corpus.split("bs-en", "train").pieces(len(corpus.split("bs-en", "train")) - 1)[0]
    assert len(tag) > 1 and list(last[: len(tag)]) == tag


def test_wrong_settings(moses: Any, settings_of: Any) -> None:
    real = moses("bs-en", sentences(20))
    made = {**real, "synthetic": {"share": 0.6}}
    wrong: list[tuple[Any, str]] = [
        ({"train": [real], "dev": [made]}, "dev: synthetic text is for training alone"),
        ({"train": [real, made, made]}, r"add up to 1\.2"),
        ({"train": [{**real, "synthetic": {"tag": "two words"}}]}, "one word"),
        ({"train": [{**real, "synthetic": {"share": 1.0}}]}, "less than 1"),
        *(
            ({"train": [{**real, "synthetic": {"tag": tag}}]}, "special symbol")
            for tag in ("<s>", "</s>", "<pad>", "<unk>", "<MASK>", "__fr__", "<0x0A>")
        ),
        *(({"train": [{**real, "synthetic": {"tag": tag}}]}, "words of the text") for tag in ("the", "a", "<>", "bt2")),
    ]
    for values, said in wrong:
        with pytest.raises(ValidationError, match=said):
            PairFiles.model_validate(values)
    with pytest.raises(ValidationError, match=r"monolingual\.en: synthetic text has two sides"):
        DataSettings.model_validate({"pairs": ["bs-en"], "monolingual": {"en": [made]}})


def test_a_corpus_from_before_this_setting_is_as_the_recipe_says(moses: Any, settings_of: Any) -> None:
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", sentences(20))]}})
    written = settings.model_dump(mode="json")
    del written["corpora"]["bs-en"]["train"][0]["synthetic"]
    assert changed_settings({"settings": written}, settings) == []
    written["clean"]["max_words"] = 7
    assert changed_settings({"settings": written}, settings) == ["clean.max_words"]


def test_each_entry_has_a_domain_of_its_own(tmp_path: Path, settings_of: Any) -> None:
    """Files of several entries are called alike, as synthesise calls them; a pattern stands for several files."""
    for folder in ("real/a", "real/b", "bt/1", "bt/2", "kd"):
        for side in ("bs", "en"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"bs-en.{side}").write_text("text\n")

    def entry(folder: str, **synthetic: Any) -> dict[str, Any]:
        files = {"path": str(tmp_path / folder / "bs-en.bs"), "target_path": str(tmp_path / folder / "bs-en.en")}
        return {"format": "moses", **files, **({"synthetic": synthetic} if synthetic else {})}

    train = [entry("bt/*", share=0.5), entry("kd", share=0.2), entry("kd", tag="<kd>", share=0.1), entry("real/*")]
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": train}})
    parts = corpus_parts(settings, "bs-en", "train", "files")
    shares = {number: text.share for number, text in synthetic_domains(parts).items()}
    numbers = list(dict.fromkeys(part.domain for part in parts))
    assert [(shares.get(numbers.index(part.domain)), Path(part.files[0]).parent.name) for part in parts] == [
        (None, "a"), (None, "b"), (0.5, "1"), (0.5, "2"), (0.2, "kd"), (0.1, "kd"),
    ]  # fmt: skip
    assert sorted(shares.values()) == [0.1, 0.2, 0.5]

"""From files to an opened corpus: contents, leak-freedom, given sets, reports, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnmt_ds.data import corpus as corpus_module
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.dedup_keys import normalise_key
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.validate import validate
from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import read_checked_json
from tests.data.conftest import ENGLISH, sentences, three_pairs, translated

Moses = Callable[..., dict[str, Any]]
Make = Callable[..., DataSettings]


def test_what_comes_out_is_what_went_in(moses: Moses, settings_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "SEQUENCES_AT_ONCE", 6)
    settings = three_pairs(moses, settings_of)
    prepare(settings, processes=2)
    corpus = Corpus.open(settings.directory)
    assert corpus.pairs == ("bs-en", "en-mr")
    assert corpus.tokenizer.languages == ("bs", "en", "mr")
    for pair in corpus.pairs:
        source_language, target_language = pair.split("-")
        for split_name in ("train", "dev", "test"):
            split = corpus.split(pair, split_name)
            sources, targets = split.text()
            assert len(split) == len(sources) == len(targets) == len(split.source_lengths) == len(split.target_lengths)
            for i in range(0, len(split), 7):
                source, target = split.pieces(i)
                assert corpus.tokenizer.decode(source) == sources[i]
                assert corpus.tokenizer.encode(targets[i], target_language) == target.tolist()
                assert (len(source), len(target)) == (split.source_lengths[i], split.target_lengths[i])
                english, other = (sources[i], targets[i]) if source_language == "en" else (targets[i], sources[i])
                assert other == translated(english, {"bs-en": "bs", "en-mr": "mr"}[pair])
            used = {int(piece) for i in range(len(split)) for piece in split.pieces(i)[1]}
            assert {*np.flatnonzero(split.target_pieces_used(corpus.tokenizer.size))} == used
    sizes = {
        pair: [len(corpus.split(pair, split_name)) for split_name in ("train", "dev", "test")] for pair in corpus.pairs
    }
    assert sizes["bs-en"][1:] == sizes["en-mr"][1:] == [20, 10]
    for pair in corpus.pairs:
        assert corpus.manifest["pairs"][pair]["counts"].get("held-out key", 0) == 300 - sum(sizes[pair])


def test_nothing_held_out_is_trained_on_in_any_pair(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    english = {"bs-en": 1, "en-mr": 0}
    keys = {
        split_name: {
            normalise_key(line)
            for pair in corpus.pairs
            for line in corpus.split(pair, split_name).text()[english[pair]]
        }
        for split_name in ("train", "dev", "test")
    }
    assert not keys["train"] & (keys["dev"] | keys["test"])
    assert not keys["dev"] & keys["test"]
    assert len(keys["dev"]) < 40  # the pairs' sets overlap, so that little is lost


def test_given_sets_are_taken_whole_and_kept_out_of_every_pair(moses: Moses, settings_of: Make) -> None:
    dev = ["red bird", "red bird", "song", "x"]  # a duplicate and a one-letter line stay
    corpora = {
        "bs-en": {"train": [moses("bs-en", ENGLISH[:300])], "dev": [moses("bs-en", [*dev, *ENGLISH[:5]], "dev")]},
        "en-mr": {"train": [moses("en-mr", [*ENGLISH[100:], f"RED bird, {ENGLISH[0]}", "Red bird!"])]},
    }
    settings = settings_of(pairs=["bs-en", "en-mr"], corpora=corpora)
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    assert corpus.split("bs-en", "dev").text()[1] == [*dev, *ENGLISH[:5]]
    trained = {normalise_key(line) for line in corpus.split("en-mr", "train").text()[0]}
    assert "red bird" not in trained
    assert not {normalise_key(line) for line in ENGLISH[:5]} & trained
    assert normalise_key(f"red bird {ENGLISH[0]}") in trained | {
        normalise_key(line) for split_name in ("dev", "test") for line in corpus.split("en-mr", split_name).text()[0]
    }
    assert len(corpus.split("bs-en", "test")) == 10


def test_given_rows_with_an_empty_side_are_kept_and_said(
    moses: Moses, settings_of: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    test_set = moses("bs-en", ["red bird", "", "song", "stone"], "test")
    english = Path(test_set["target_path"])
    english.write_text("red bird\n\nsong\n\n", encoding="utf-8")
    corpora = {"bs-en": {"train": [moses("bs-en", ENGLISH)], "test": [test_set]}}
    settings = settings_of(pairs=["bs-en"], corpora=corpora)
    prepare(settings)
    line = (
        f"bs-en test: 2 of 4 given rows have an empty side (first: {test_set['path']}:2); kept, so that the rows line"
        " up with the given files"
    )
    assert line in capfd.readouterr().out.splitlines()
    assert line in (Path(settings.directory) / "report.md").read_text()
    split = Corpus.open(settings.directory).split("bs-en", "test")
    assert split.text() == ([translated(text, "bs") for text in ("red bird", "", "song", "stone")],
                            ["red bird", "", "song", ""])  # fmt: skip
    assert (split.source_lengths > 0).tolist() == [True, False, True, True]
    assert (split.target_lengths > 0).tolist() == [True, False, True, False]
    assert validate(settings) == []


def test_many_to_many_and_limits(moses: Moses, settings_of: Make) -> None:
    corpora = {pair: {"train": [moses(pair, ENGLISH)]} for pair in ("bs-en", "en-bs", "bs-mr")}
    settings = settings_of(pairs="bs-en,en-bs,bs-mr", corpora=corpora, max_train={"bs-en": 100, "*": 150})
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    assert [len(corpus.split(pair, "train")) for pair in corpus.pairs] == [100, 100, 150]
    there, back = corpus.split("bs-en", "dev").text(), corpus.split("en-bs", "dev").text()
    assert (there[0], there[1]) == (back[1], back[0])
    counts = corpus.manifest["pairs"]["bs-en"]["counts"]
    assert 0 < counts["held-out source"] <= 30  # Bosnian sentences that bs-mr holds out
    assert counts["over limit"] == 400 - 30 - counts["held-out source"] - 100


def test_monolingual_text(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    (tmp_path / "mono.en").write_text("".join(f"{line}\n" for line in [*ENGLISH, *ENGLISH[:5], "", "brand new"]))
    (tmp_path / "mono.bs").write_text("".join(f"{translated(line, 'bs')}\n" for line in ENGLISH))
    (tmp_path / "mono.hi").write_text("नमस्ते दुनिया\nयह एक वाक्य है\n")
    mono = {lang: [{"format": "text", "path": str(tmp_path / f"mono.{lang}")}] for lang in ("en", "bs", "hi")}
    settings = three_pairs(moses, settings_of, monolingual=mono)
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    assert corpus.monolingual == ("en", "bs", "hi")
    assert corpus.tokenizer.languages == ("bs", "en", "mr", "hi")
    english = corpus.monolingual_sentences("en")
    held = {
        line
        for p, side in (("bs-en", 1), ("en-mr", 0))
        for w in ("dev", "test")
        for line in corpus.split(p, w).text()[side]
    }
    assert english.text() == [*(line for line in ENGLISH if line not in held), "brand new"]
    bosnian = {line for split_name in ("dev", "test") for line in corpus.split("bs-en", split_name).text()[0]}
    assert corpus.monolingual_sentences("bs").text() == [
        b for line in ENGLISH if (b := translated(line, "bs")) not in bosnian
    ]
    assert len(english) == len(english.lengths) == len(english.text())
    assert corpus.tokenizer.decode(english.pieces(3)) == english.text()[3]
    np.testing.assert_array_equal(english.lengths[:5], [len(english.pieces(i)) for i in range(5)])
    counts = corpus.manifest["monolingual"]["en"]["counts"]
    assert (counts["read"], counts["empty"], counts["duplicate"]) == (407, 1, 5)
    with pytest.raises(UserError, match="language 'mr': no monolingual text"):
        corpus.monolingual_sentences("mr")


def test_per_language_models(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of, tokenizer={"kind": "per_language", "size": 40, "hard_limit": False})
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    names = {path.name for path in (Path(settings.directory) / "tokenizer").iterdir()}
    assert names == {"spm.bs.model", "spm.en.model", "spm.mr.model", "tokenizer.json"}
    split = corpus.split("bs-en", "train")
    assert corpus.tokenizer.decode(split.pieces(0)[0]) == split.text()[0][0]
    assert 40 < corpus.tokenizer.size <= 3 * 40 + 4


def test_reports(moses: Moses, settings_of: Make, capfd: pytest.CaptureFixture[str]) -> None:
    english = [*ENGLISH[:200], *ENGLISH[:7], "", "fire " * 251]
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", english)]}})
    prepare(settings)
    header, row = capfd.readouterr().out.splitlines()[:2]
    assert header.split() == [
        "pair",
        "read",
        "empty",
        "words",
        "duplicate",
        "train",
        "dev",
        "test",
        "source",
        "tokens",
        "target",
        "tokens",
    ]
    assert row.split()[:8] == ["bs-en", "209", "1", "1", "7", "170", "20", "10"]
    report = json.loads((Path(settings.directory) / "report.json").read_text())
    assert report["pairs"]["bs-en"]["dropped"] == {"empty": 1, "words": 1, "duplicate": 7}
    assert report["pairs"]["bs-en"]["first"]["train"]["words"].endswith("train.bs-en.bs:209")
    text = (Path(settings.directory) / "report.md").read_text()
    assert "| bs-en | 209 | 1 | 1 | 7 | 170 | 20 | 10 |" in text
    inputs = Corpus.open(settings.directory).manifest["pairs"]["bs-en"]["inputs"]["train"]
    assert [Path(entry["path"]).name for entry in inputs] == ["train.bs-en.bs", "train.bs-en.en"]


def test_a_pair_with_nothing_left(moses: Moses, settings_of: Make) -> None:
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", ["", ""])]}})
    with pytest.raises(UserError, match=r"pair bs-en: no train sentence is left \(read 2, empty 2\); give more text"):
        prepare(settings)
    settings = settings_of(
        pairs=["bs-en"],
        corpora={"bs-en": {"train": [moses("bs-en", ENGLISH)], "dev": [moses("bs-en", [""], "dev")]}},
    )
    with pytest.raises(UserError, match=r"data.corpora.bs-en.dev: no dev sentence is left: no row of the set has both"):
        prepare(settings)
    assert not (Path(settings.directory) / "manifest.json").exists()


def test_an_empty_set_says_where_the_rows_went(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    """Too few different texts, synthetic text alone, all of it held out; ``validate`` says the same."""
    few = [f"{word} tree {n}" for n in range(10) for word in ("red", "blue", "red", "green")]
    many = sentences(9)

    def said(**files: Any) -> str:
        split = {"dev": 10, "test": 10, "seed": 3}
        settings = settings_of(pairs=["bs-en"], corpora={"bs-en": files}, split=split, clean={"duplicates": "keep"})
        with pytest.raises(UserError) as error:
            prepare(settings)
        assert [str(error.value)] == validate(settings)
        return str(error.value)

    assert said(train=[moses("bs-en", few)]) == (
        "pair bs-en: no dev sentence is left (read 40, clean 40, trained on 40): it is held out of rows with different"
        " texts in en (letters alone count), at most a quarter of them, and there are 3; give more text, or a dev set"
        " in data.corpora.bs-en.dev"
    )
    tagged = {**moses("bs-en", many), "synthetic": {}}
    assert (
        "real rows with different texts in en (letters alone count), at most a quarter of them, and there are 0; give"
        in said(train=[tagged], test=[moses("bs-en", few[:3], "test")])
    )
    overlap = said(
        train=[moses("bs-en", many)], dev=[moses("bs-en", many, "dev")], test=[moses("bs-en", few[:3], "test")]
    )
    assert overlap.startswith("pair bs-en: no train sentence is left (read 9, clean 9, held-out key 9); give more text")
    by_chance = said(train=[moses("bs-en", sentences(4, seed=13))])
    assert (
        "(read 4, clean 4, held out for test 1, trained on 3): by their hashes none of 4 different texts in en (letters"
        in by_chance
    )
    assert by_chance.endswith("a dev set in data.corpora.bs-en.dev, or another data.split.seed")


def test_too_few_catalogs_fall_back_to_cldr_and_say_so(
    settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(
        pairs=["bs-en"], catalogs=[str(tmp_path)], max_train={"*": 200}, tokenizer={"size": 300, "hard_limit": False}
    )
    prepare(settings)
    assert "too few sentence pairs in this machine's gettext catalogs (bs-en 0; 300 wanted)" in capfd.readouterr().err
    corpus = Corpus.open(settings.directory)
    assert corpus.manifest["origin"] == "cldr"
    assert len(corpus.split("bs-en", "train")) == 200


def test_opening_refuses_what_does_not_fit(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared corpus here"):
        Corpus.open(tmp_path)
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    corpus, root = Corpus.open(settings.directory), Path(settings.directory)
    with pytest.raises(UserError, match=r"pair 'ko-en': not in .*, which has bs-en, en-mr"):
        corpus.split("ko-en", "train")
    manifest = read_checked_json(root / "manifest.json")
    other = {**manifest, "tokenizer_hash": "0" * 64}
    for content, message in (
        ("{", "not a readable manifest"),
        (json.dumps({**manifest, "format": 99}), "made by another version"),
        (json.dumps(other), r"this tokenizer \(.*\) is not the one that made the ids \(000000000000\)"),
    ):
        (root / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=message):
            Corpus.open(root)
    (root / "manifest.json").write_text(json.dumps(manifest))
    (root / "bin" / "bs-en.dev.bin").unlink()
    with pytest.raises(UserError, match=r"bs-en.dev.bin: is missing; run mnmt-ds prepare again"):
        Corpus.open(root)


def test_without_a_test_set(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of, split={"dev": 20, "test": 0})
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    with pytest.raises(UserError, match="pair bs-en has no test set"):
        corpus.split("bs-en", "test")
    assert len(corpus.split("bs-en", "dev")) == 20

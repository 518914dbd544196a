"""What makes scores comparable, and what an evaluation says of its own texts: ceiling, tokenised text, empty sides."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.evaluation.comparability import (
    DevLossFacts,
    unlike_dev_losses,
    unlike_scores,
    unlike_training_text,
    unlike_translations,
)
from mnmt_ds.evaluation.tokenised_text import tokenised_lines
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from tests.evaluation.runs import model_run

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


def report(search: dict[str, Any] | None = None, dtype: str = "float32", **pairs: dict[str, Any]) -> dict[str, Any]:
    facts = {"bleu_signature": SIGNATURE, "chrf_signature": "nrefs:1|version:2.6.0", "reference_hash": "r"}
    named = {pair.replace("_", "-"): {**facts, **own} for pair, own in (pairs or {"fr_en": {}}).items()}
    return {"search": {"beam": 5, **(search or {})}, "dtype": dtype, "pairs": named}


@pytest.mark.parametrize(
    ("ours", "metric", "reasons"),
    [
        (report(), "bleu", ()),
        (report({"length_penalty": 1.0, "ban_unknown": False}), "bleu", ()),  # the defaults of what the other lacks
        (report(fr_en={"bleu_signature": SIGNATURE.replace("13a", "char")}), "bleu", ("tok:char, not tok:13a",)),
        (report(fr_en={"bleu_signature": SIGNATURE.replace("13a", "char")}), "chrf", ()),
        (report({"beam": 1}), "chrf", ("beam 1, not 5",)),
        (report({"length_penalty": 0.6}), "bleu", ("length penalty 0.6, not 1.0",)),
        (report({"early_stopping": False}), "bleu", ("early stopping False, not True",)),
        (report({"ban_unknown": True}), "bleu", ("ban unknown True, not False",)),
        (report(dtype="float16"), "bleu", ("decoded in float16, not float32",)),
        (report(fr_en={"reference_hash": "s"}), "bleu", ("other references of fr-en",)),
        (report(fr_en={"search": {"beam": 2}}), "bleu", ("beam 2, not 5",)),  # put together from runs of single pairs
        (report(de_en={}), "bleu", ("over de-en, not fr-en",)),
        (report(fr_en={}, de_en={}), "bleu", ("over de-en, fr-en, not fr-en",)),
    ],
)
def test_reasons_against_comparing_scores(ours: dict[str, Any], metric: str, reasons: tuple[str, ...]) -> None:
    assert unlike_scores(ours, report(), metric) == reasons
    assert len(unlike_scores(report(), ours, metric)) == len(reasons), "either way round"
    if "over" not in str(reasons):
        expected = tuple(reason for reason in reasons if not reason.startswith("tok:"))
        assert unlike_translations(ours, report(), "fr-en") == expected


def facts(**changes: Any) -> DevLossFacts:
    return DevLossFacts("t", "0.2.3", 0.1, {"a-en": "1", "b-en": "2"}, "d", {"split": 3}, ("a-en", "b-en"))._replace(
        **changes
    )


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, ()),
        ({"tokenizer": "u"}, ("a token is another unit: another tokenizer",)),
        (
            {"tokenizer": "u", "sentencepiece": "0.2.1"},
            ("a token is another unit: another tokenizer (SentencePiece 0.2.1, not 0.2.3)",),
        ),
        ({"label_smoothing": 0.0}, ("label smoothing 0, not 0.1",)),
        ({"dev_sets": {"a-en": "9", "b-en": "2"}, "data": "e"}, ("other dev sets of a-en",)),
        ({"data": "e"}, ()),  # other training text, the same dev sets
        ({"dev_sets": {}, "data": "e"}, ("trained on other prepared text (e, not d), maybe other dev sets",)),
        ({"pairs": ("a-en",)}, ("over a-en, not a-en, b-en",)),
        ({"tokenizer": None, "sentencepiece": None, "dev_sets": {}, "data": None, "label_smoothing": None}, ()),
    ],
)
def test_reasons_against_comparing_dev_losses(changes: dict[str, Any], reasons: tuple[str, ...]) -> None:
    assert unlike_dev_losses(facts(**changes), facts()) == reasons
    assert unlike_dev_losses(facts(pairs=("a-en",)), facts(), ["a-en"]) == (), "a pair that both have"


def test_a_corpus_that_changed_under_the_same_settings() -> None:
    grown = facts(data="e", data_settings={"split": 3, "directory": "elsewhere", "pairs": ["a-en"]})
    assert unlike_training_text(grown, facts()) == ("trained on other prepared text (e, not d) by the same settings",)
    assert unlike_training_text(facts(data="e", data_settings={"split": 4}), facts()) == (), (
        "another data set is wanted"
    )
    assert unlike_training_text(facts(), facts()) == ()


def test_tokenised_text_is_recognised() -> None:
    plain = ["The cat, it seems, sat.", "Vraiment ? Oui !", "3 , 5", "e.g. that", "« Oui. »"] * 20
    assert tokenised_lines(plain[:2] * 40) == 0
    assert tokenised_lines(["The cat sat ."] * 3 + plain[:2] * 4) == 3
    for trace in ("x @-@ y", "a , b", "don&apos;t", "wo@@ rd", "▁the ▁cat", "do n't"):
        assert tokenised_lines([trace] * 5) == 5, trace
    assert tokenised_lines(["x ."] * 99 + plain[:2] * 5000) == 0 and tokenised_lines(["x ."] * 100 + plain[:2] * 5000)
    assert tokenised_lines(["x ."]) == 0 and tokenised_lines([]) == 0


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


def odd_corpus(folder: Path) -> Path:
    """bs-en has a given test set that its tokenizer cannot write, tokenised, with an empty side; hi-en is held out."""
    words = ["the", "red", "cat", "sees", "old", "house", "new", "tree", "and"]
    rows = [[words[(i // 9**k + k * i) % 9] for k in range(4)] for i in range(60)]
    for pair in ("bs-en", "hi-en"):
        lines = [f"{' '.join(word[::-1] for word in row)} {pair[:2]}.\t{' '.join(row)}.\n" for row in rows]
        (folder / f"{pair}.tsv").write_text("".join(lines))
    (folder / "given.bs").write_text("eht der tac bs .\n" * 12)
    given = [f"the ❤ cat sees {words[i]} the red house and the new tree ." for i in range(9)]
    (folder / "given.en").write_text("".join(f"{line}\n" for line in [*given, "the cat", "", "the tree"]))
    train = {"train": [{"format": "tsv", "path": str(folder / "{pair}.tsv")}]}
    test = {"format": "moses", "path": str(folder / "given.bs"), "target_path": str(folder / "given.en")}
    settings = DataSettings.model_validate(
        {
            "directory": str(folder / "data"),
            "pairs": ["bs-en", "hi-en"],
            "corpora": {"bs-en": {**train, "test": [test]}, "*": train},
            "clean": {"min_script": 0.0},
            "split": {"dev": 5, "test": 5},
            "tokenizer": {"size": 60, "hard_limit": False},
        }
    )
    prepare(settings, processes=1)
    return folder / "data"


def test_ceiling_tokenised_references_and_empty_sides(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """References that no translation can reach have a ceiling below 100; each fault is a line with pair and file."""
    corpus = odd_corpus(tmp_path)
    run = model_run(tmp_path / "run", corpus)
    capfd.readouterr()
    assert main(["evaluate", str(run)]) == 0
    table = capfd.readouterr().out.splitlines()
    written = json.loads((run / "evaluation" / "best.test.json").read_text())
    pair = written["pairs"]["bs-en"]
    references = Corpus.open(corpus).split("bs-en", "test").text()[1]
    tokenizer = Corpus.open(corpus).tokenizer
    back = [tokenizer.decode(tokenizer.encode(line, "en")) for line in references]
    assert pair["bleu_ceiling"] == sacrebleu.BLEU(force=True).corpus_score(back, [references]).score < 85
    assert "⁇" in back[0] and 0 < pair["chrf_ceiling"] < 100
    assert written["pairs"]["hi-en"]["bleu_ceiling"] == pytest.approx(100) and pair["empty_sides"] == 1
    assert written["macro"]["bleu_ceiling"] == pytest.approx((pair["bleu_ceiling"] + 100) / 2)
    assert table[0].split() == ["pair", "train", "sentences", "BLEU", "ceiling", "chrF"]
    assert f"{pair['bleu_ceiling']:.2f}" in next(line for line in table if line.startswith("bs-en")).split()
    assert len((run / "evaluation" / "best.test" / "bs-en.hyp").read_text().splitlines()) == 12
    files = run / "evaluation" / "best.test"
    warnings = [record.getMessage() for record in caplog.records if record.name == "mnmt_ds.evaluation.report"]
    assert len(warnings) == 2, warnings
    assert f"{files}/bs-en.ref: 9 of 12 references of bs-en look tokenised" in warnings[0]
    assert f"{files}/bs-en.*: 1 of 12 sentences of bs-en have an empty source or reference" in warnings[1]
    caplog.clear()
    assert main(["evaluate", str(run), "--tokenizers", "none", "--ban-unknown"]) == 0
    assert "look tokenised" not in caplog.text
    banned = json.loads((run / "evaluation" / "best.test.json").read_text())["pairs"]["bs-en"]
    again = [line.replace(" ⁇ ", " ").replace("  ", " ") for line in back]
    assert banned["chrf_ceiling"] == pytest.approx(sacrebleu.corpus_chrf(again, [references]).score, abs=0.5)


def test_against_refuses_another_search_before_translating(
    run: Path, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = model_run(tmp_path / "other", tiny_corpus, seed=1)
    assert main(["evaluate", str(other), "--beam", "2"]) == 0
    capfd.readouterr()
    monkeypatch.setattr("mnmt_ds.evaluation.report.translate_all", None)
    assert main(["evaluate", str(run), "--against", str(other), "--fresh"]) == 2
    assert f"{other}/evaluation/best.test.json: not comparable, here: beam 5, not 2 as there" in capfd.readouterr().err
    other.rename(tmp_path / "before")
    later = model_run(other, tiny_corpus, seed=2)
    (tmp_path / "before" / "evaluation").rename(later / "evaluation")
    assert main(["evaluate", str(run), "--against", str(later), "--beam", "2", "--fresh"]) == 2
    assert "scored at update 7, and the model is now of update 7; run mnmt-ds evaluate" in capfd.readouterr().err


def test_untrained_pair_and_other_corpus_are_said(
    run: Path, tiny_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model's description says what it was trained on; the same tokenizer may be another corpus's."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    path = copy / "best" / "model.json"
    write_checked_json(path, {**read_checked_json(path), "data_hash": "f" * 64, "pairs": ["hi-en"]})
    assert main(["evaluate", str(copy), "--pairs", "bs-en"]) == 0
    warnings = "\n".join(record.getMessage() for record in caplog.records)
    assert "not trained on bs-en (its pairs: hi-en)" in warnings
    assert f"not the text that {copy} was trained on" in warnings and "not ffffffffffff" in warnings

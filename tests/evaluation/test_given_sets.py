"""Test files named on the command line: scores are sacreBLEU's, what does not fit together is one line."""

import bz2
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation.given_sets import metric_values, off_target_rate, sample_rows
from mnmt_ds.evaluation.scores import ScoreSettings
from tests.evaluation.runs import model_run

REFERENCE = ["the cat sees a red house .", "old stones", "the river is blue", "a small dog"]
OTHER = ["a cat sees the red house .", "ancient stones", "the river looks blue", "a little dog"]
HYPOTHESES = ["the cat sees the red house .", "old stone", "the river is blue", ""]


def call(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def text(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_values_are_those_of_sacrebleu() -> None:
    settings = ScoreSettings(tokenizers=("auto", "char"), metrics=("chrf++", "ter"))
    for references in ([REFERENCE], [REFERENCE, OTHER]):
        values = metric_values(HYPOTHESES, references, "en", settings)
        assert [(value.name, value.value) for value in values] == [
            ("BLEU", sacrebleu.corpus_bleu(HYPOTHESES, references, force=True).score),
            ("BLEU", sacrebleu.corpus_bleu(HYPOTHESES, references, tokenize="char", force=True).score),
            ("chrF", sacrebleu.corpus_chrf(HYPOTHESES, references).score),
            ("chrF++", sacrebleu.corpus_chrf(HYPOTHESES, references, word_order=2).score),
            ("TER", sacrebleu.corpus_ter(HYPOTHESES, references).score),
        ]
        assert all(f"nrefs:{len(references)}" in value.signature for value in values)


def test_off_target_and_samples() -> None:
    def identify(line: str) -> str:
        return "eng" if "the" in line else "deu"

    assert off_target_rate(HYPOTHESES, "en", identify) == pytest.approx(1 / 3)
    assert off_target_rate(["", " "], "en", identify) == 0
    rows = sample_rows([OTHER, REFERENCE], HYPOTHESES, 3)
    assert [row[1] for row in rows] in ([4, 1, 3], [4, 2, 3]) and rows[-1][0] == pytest.approx(100)
    assert rows[0][2:] == (OTHER[3], REFERENCE[3], "")
    assert len(sample_rows([OTHER, REFERENCE], HYPOTHESES, 9)) == 4


def test_the_command(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = model_run(tmp_path / "run", tiny_corpus)
    source = tmp_path / "t.bs.bz2"
    source.write_bytes(bz2.compress(b"derbo eulbbo\nhsifbo\n\neulbbo\n"))
    files = [source, text(tmp_path / "r1", REFERENCE), text(tmp_path / "r2", OTHER)]
    options = ["--pairs", "bs-en", "--device", "cpu", "--metrics", "chrf++,ter"]
    assert call("evaluate", run, "--test", *files, *options, "--show", 2, "-o", tmp_path / "out") == 0
    out = capfd.readouterr().out
    hypotheses = (tmp_path / "out" / "bs-en.hyp").read_text().split("\n")[:-1]
    assert len(hypotheses) == 4 and hypotheses[2] == ""
    chrf = sacrebleu.corpus_chrf(hypotheses, [REFERENCE, OTHER], word_order=2).score
    assert f"chrF++  {chrf:>8.2f}   nrefs:2|case:mixed|eff:yes|nc:6|nw:2" in out and out.count("translation  ") == 2
    hyp = text(tmp_path / "hyp", HYPOTHESES)
    assert call("evaluate", "no model", "--test", *files, *options, "--hypotheses", hyp) == 0
    ter = sacrebleu.corpus_ter(HYPOTHESES, [REFERENCE, OTHER]).score
    assert f"TER     {ter:>8.2f}" in capfd.readouterr().out
    assert call("evaluate", run / "best", "--test", *files, *options) == 0
    capfd.readouterr()
    assert call("evaluate", run, "--metrics", "chrf++,ter", "--tokenizers", "auto,char", "--device", "cpu") == 0
    out = capfd.readouterr().out
    assert out.count("tok:char") == 3 and out.count("chrF++") == 3 and out.count("TER") == 3


def test_what_does_not_fit_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, short = text(tmp_path / "s", REFERENCE), text(tmp_path / "r", OTHER[:3])
    (tmp_path / "bad").write_bytes(b"a\n\xff\n")
    cases = {
        ("--test", source, short): "--test: needs --pairs with the one pair",
        ("--test", source, "--pairs", "fr-en"): "needs a reference, too",
        ("--test", source, short, "--pairs", "fr-en"): f"{short}: has 3 lines, but {source} has 4; give parallel files",
        ("--test", source, tmp_path / "bad", "--pairs", "fr-en"): "bad:2: byte 1 is not UTF-8",
        ("--show", 3): "--show: is for test files",
        ("--metrics", "comet"): "--metrics: 'comet' is not known",
    }
    for arguments, message in cases.items():
        assert call("evaluate", tmp_path, *arguments) == 2
        error = capfd.readouterr().err
        assert message in error and error.count("\n") == 1, error

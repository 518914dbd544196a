"""``mnmt-ds translate`` and ``mnmt-ds evaluate`` as people call them."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.decoding.beam_search import BeamSettings
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.decoding.translation import hypothesis_text, make_batches, translate_all
from mnmt_ds.evaluation.report import read_verified_report
from mnmt_ds.file_integrity import with_checksum
from tests.evaluation.runs import model_run


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def call(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def test_translate_is_line_exact(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Empty lines stay empty; only \\n ends a line; what surrounds a line does not change its translation."""
    lines = [
        "derbo eulbbo",
        "",
        "   ",
        "derbo\u2028eulbbo",
        "derbo\x85eulbbo",
        "derbo eulbbo\r",
        "hsifbo " * 20,
        "derbo eulbbo",
    ]
    feed(monkeypatch, "\n".join(lines).encode())
    assert call("translate", run, "--pair", "bs-en", "--device", "cpu") == 0
    out = capfdbinary.readouterr().out
    assert out.endswith(b"\n") and b"\r" not in out
    found = out.decode().split("\n")[:-1]
    assert len(found) == len(lines)
    assert found[1] == found[2] == ""
    assert found[0] and found[0] == found[3] == found[4] == found[5] == found[7]


def test_translate_files_to_a_file(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Files follow one another; options may stand before them; n-best lists name the line."""
    (tmp_path / "a").write_bytes("\ufeffderbo eulbbo\n".encode())
    (tmp_path / "b").write_bytes(b"hsifbo\n\nderbo eulbbo")
    output = tmp_path / "deep" / "out"
    assert call("translate", run, "--pair", "bs-en", tmp_path / "a", tmp_path / "b", "-o", output) == 0
    lines = output.read_text().split("\n")
    assert len(lines) == 5 and lines[0] == lines[3] and lines[2] == lines[4] == ""
    assert sorted(path.name for path in output.parent.iterdir()) == ["out"]
    assert call("translate", run, tmp_path / "b", "--pair", "bs-en", "--nbest", 2) == 0
    rows = [line.split(" ||| ") for line in capfd.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["0", "0", "2", "2"]
    assert float(rows[0][2]) >= float(rows[1][2]) and rows[2][1] == lines[0]


def test_a_dash_is_standard_input_and_output(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    feed(monkeypatch, b"derbo eulbbo\n")
    Path("text").write_bytes(b"hsifbo\n")
    assert call("translate", run, "--pair", "bs-en", "text", "-", "-o", "-", "--beam", 1) == 0
    assert capfd.readouterr().out.count("\n") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        (["--pair", "bs-en"], b"ok\nnot \xff ok\n", "standard input:2: byte 5 (0xff) is not UTF-8; convert the file"),
        (["--pair", "xx-en"], b"", "language 'xx': not in the tokenizer, which knows bs, en, hi, fr"),
        (["--pair", "bsen"], b"", "pair 'bsen': not of the form source-target, such as bs-en"),
        (
            ["--pair", "bs-en", "/no/file"],
            b"",
            "/no/file: no such file; give text files, or nothing for standard input",
        ),
        (["--pair", "bs-en", "--nbest", "9"], b"", "--nbest 9: a beam of 5 has no more hypotheses; raise --beam"),
    ],
)
def test_translate_mistakes(
    run: Path, arguments: list[str], data: bytes, message: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    feed(monkeypatch, data)
    assert call("translate", run, *arguments) == 2
    assert capfd.readouterr().err == f"mnmt-ds translate: {message}\n"


def test_another_tokenizer_is_refused(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    path = copy / "best" / "model.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(with_checksum({**description, "tokenizer_hash": "0" * 64})))
    assert call("translate", copy, "--pair", "bs-en") == 2
    assert f"{copy}/tokenizer: not the tokenizer of {copy}/best (hash 000000000000)" in capfd.readouterr().err


def test_jobs_hold_every_sentence_once_within_the_budget(run: Path) -> None:
    translator = open_translator(run)
    pieces = [[5] * n for n in (3, 0, 9, 1, 4, 90)]
    jobs = make_batches(translator, "bs-en", pieces, batch_tokens=30)
    tag = translator.tokenizer.tag("bs")
    assert [job.positions for job in jobs] == [[5], [2, 4], [0, 3]]
    assert jobs[1].sources == [[tag, *[5] * 9, 2], [tag, *[5] * 4, 2]]
    assert jobs[0].start == (translator.tokenizer.tag("en"),)
    assert len(jobs[0].sources[0]) == 64, "cut to the model's positions"


def test_processes_translate_alike(run: Path, tiny_corpus: Path) -> None:
    translator = open_translator(run)
    corpus = Corpus.open(tiny_corpus)
    pieces = {pair: [corpus.split(pair, "test").pieces(i)[0] for i in range(12)] for pair in corpus.pairs}
    seen: list[int] = []
    alone = translate_all(translator, pieces, BeamSettings(), 64)
    pooled = translate_all(translator, pieces, BeamSettings(), 64, processes=2, progress=seen.append)
    assert sum(seen) == 36
    for pair in pieces:
        assert [[h.tokens for h in row] for row in alone[pair]] == [[h.tokens for h in row] for row in pooled[pair]]


def test_evaluate(run: Path, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Scores are sacreBLEU's of the written files, which are in the corpus' order; classes follow the thresholds."""
    options = ["--high", 200, "--very-low", 100, "--tokenizers", "auto,none", "--samples", 20]
    assert call("evaluate", run, *options) == 0
    table = capfd.readouterr().out
    directory = run / "evaluation" / "best.test"
    report = json.loads((run / "evaluation" / "best.test.json").read_text())
    corpus, translator = Corpus.open(tiny_corpus), open_translator(run)
    for pair in corpus.pairs:
        sources, references = corpus.split(pair, "test").text()
        assert (directory / f"{pair}.ref").read_text().split("\n")[:-1] == references
        hypotheses = (directory / f"{pair}.hyp").read_text().split("\n")[:-1]
        pieces = translator.tokenizer.encode_many(sources, pair[:2])
        again = translate_all(translator, {pair: pieces}, BeamSettings(), 1024)[pair]
        assert hypotheses == [hypothesis_text(translator, row[0]) for row in again]
        facts = report["pairs"][pair]
        assert facts["bleu"] == sacrebleu.BLEU(force=True).corpus_score(hypotheses, [references]).score
        assert facts["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
        assert "tok:13a" in facts["bleu_signature"] and "tok:none" in facts["other_bleu"][0]["signature"]
        assert f"{facts['chrf']:.2f}" in table
    assert {pair: facts["class"] for pair, facts in report["pairs"].items()} == {
        "bs-en": "very low", "hi-en": "low", "fr-en": "high"
    }  # fmt: skip
    assert report["macro"]["chrf"] == pytest.approx(sum(f["chrf"] for f in report["pairs"].values()) / 3)
    assert "BLEU signature: nrefs:1|case:mixed|eff:no|tok:13a" in table


def test_evaluate_against(
    run: Path, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = model_run(tmp_path / "other", tiny_corpus, seed=1)
    assert call("evaluate", run, "--against", other, "--samples", 20) == 2
    assert f"{other}/evaluation/best.test.json: not evaluated yet" in capfd.readouterr().err
    assert call("evaluate", other) == 0 and call("evaluate", run) == 0
    capfd.readouterr()
    monkeypatch.setattr("mnmt_ds.evaluation.report.translate_all", None)  # nothing changed: nothing is decoded
    assert call("evaluate", run, "--against", other, "--samples", 20) == 0
    found = json.loads((run / "evaluation" / "best.test.json").read_text())
    theirs = json.loads((other / "evaluation" / "best.test.json").read_text())
    for pair, facts in found["pairs"].items():
        row = found["against"]["chrf"][pair]
        assert row["delta"] == pytest.approx(facts["chrf"] - theirs["pairs"][pair]["chrf"])
        assert row["low"] <= row["delta"] <= row["high"] and 0 < row["p"] <= 1
    assert f"BLEU - {other}" in capfd.readouterr().out


def test_other_pairs_evaluated_again_are_readable(run: Path) -> None:
    """The report's hashes are those of the texts that it was written with, not of those that stood there before."""
    for options in ([], ["--pairs", "bs-en", "--fresh"], ["--beam", 1]):
        assert call("evaluate", run, *options) == 0
        report = read_verified_report(run / "evaluation" / "best.test.json")
        assert sorted(report["files"]) == sorted(path.name for path in (run / "evaluation" / "best.test").iterdir())


def test_evaluate_mistakes(run: Path, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([run, "--checkpoint", "best_xx"], f"{run}/best_xx: no such checkpoint; this run has best"),
        ([tmp_path / "none"], f"{tmp_path}/none: no such run; give the directory that the recipe names"),
        ([run, "--data", tmp_path], f"{tmp_path}/manifest.json: no prepared corpus here; run mnmt-ds prepare"),
        ([run, "--split", "extra"], "has no extra set"),
        ([run, "--tokenizers", "14a"], "BLEU tokenizer '14a': not known"),
        ([run, "--pairs", "xx-en"], "pair 'xx-en': not in"),
    ):
        assert call("evaluate", *arguments) == 2
        assert message in capfd.readouterr().err

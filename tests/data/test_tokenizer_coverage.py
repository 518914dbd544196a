"""What a tokenizer cannot say is counted, by language and side, in ``prepare`` and again in ``validate``."""

import json
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest

from mnmt_ds.data import tokenizer_coverage
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.held_out_overlap import LanguageFile
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.tokenizer_coverage import count_coverage, coverage_lines, read_coverage
from mnmt_ds.data.validate import validate
from mnmt_ds.data.worker_pool import process_pool

WORDS = ["a", "big", "cat", "sees", "old", "rivers", "and", "small", "dogs"]


def settings(folder: Path, **tokenizer: object) -> DataSettings:
    """en-fa, whose target has U+200C, which SentencePiece's default takes for a space, and rare characters."""
    rows = []
    for i in range(60):
        words = [WORDS[digit] for digit in (i // 9, i % 9, (i * i) % 9, (i + 4) % 9)]
        tail = f" {chr(0x4E00 + i)}" if i >= 50 else ""
        rows.append(f"{' '.join(words)}\t{' '.join(word[::-1] for word in words)} می\u200cروم{tail}\n")
    (folder / "en-fa.tsv").write_text("".join(rows), encoding="utf-8")
    return DataSettings.model_validate(
        {
            "directory": str(folder / "data"),
            "pairs": ["en-fa"],
            "corpora": {"*": {"train": [{"format": "tsv", "path": str(folder / "{pair}.tsv")}]}},
            "clean": {"min_script": 0.0},
            "split": {"dev": 5, "test": 5},
            "tokenizer": {"size": 60, "hard_limit": False, "coverage": 0.99, **tokenizer},
        }
    )


@pytest.fixture
def pool() -> Iterator[Executor]:
    with process_pool(1) as made:
        yield made


def by_hand(corpus: Corpus, side: int, language: str) -> dict[str, tuple[int, int, int, int]]:
    """(lines, pieces, unknown, changed) of every text of a side."""
    counts = {}
    for split in ("train", "dev", "test"):
        texts = corpus.split("en-fa", split).text()[side]
        ids = [corpus.tokenizer.encode(text, language) for text in texts]
        back = [corpus.tokenizer.decode(row) for row in ids]
        changed = sum(" ".join(a.split()) != " ".join(b.split()) for a, b in zip(texts, back, strict=True))
        counts[split] = len(texts), sum(map(len, ids)), sum(row.count(3) for row in ids), changed
    return counts


def test_prepare_and_validate_report_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = settings(tmp_path)
    prepare(data, processes=1)
    printed = capsys.readouterr().out
    corpus = Corpus.open(tmp_path / "data")
    written = read_coverage(corpus.manifest["tokenizer_coverage"])
    for number, (side, language) in enumerate((("source", "en"), ("target", "fa"))):
        counts = by_hand(corpus, number, language)
        for split, expected in counts.items():
            part = written[f"en-fa.{split}"][side]
            assert (part.lines, part.pieces, part.unknown, part.changed) == expected and part.language == language
    target = written["en-fa.train"]["target"]
    assert target.changed == target.lines and "U+200C" in target.lost and target.first == "text/en-fa.train.tgt:1"
    unknown = sum(sides["target"].unknown for sides in written.values())
    assert unknown >= 10
    line = next(line for line in printed.splitlines() if "tokenizer, fa as target" in line)
    pieces = sum(sides["target"].pieces for sides in written.values())
    assert f"{100 * unknown / pieces:.2f} % unknown pieces; 100.00 % of 60 lines are changed" in line
    assert "U+200C 60" in line and "byte_fallback would help" in line
    assert not [line for line in printed.splitlines() if "en as source" in line], "English survives"
    report = (tmp_path / "data" / "report.md").read_text()
    assert "| en-fa.train | target | fa |" in report and "SentencePiece " in report
    assert json.loads((tmp_path / "data" / "report.json").read_text())["tokenizer_coverage"]
    assert validate(data, processes=1) == [] and line in capsys.readouterr().out.splitlines()


def test_nothing_is_lost_without_normalisation_and_with_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(settings(tmp_path, normalization="identity", byte_fallback=True, size=330), processes=1)
    assert "tokenizer: no unknown pieces, and no line is changed by encoding and decoding" in capsys.readouterr().out


def test_long_texts_are_looked_at_evenly(
    tiny_corpus: Path, tmp_path: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 lines every tenth, blocks joined; the first fault is named by its line in the file."""
    monkeypatch.setattr(tokenizer_coverage, "MOST_LINES", 10)
    monkeypatch.setattr(tokenizer_coverage, "BLOCK", 3)
    lines = ["the cat ❤" if i in (49, 50) else "the cat" for i in range(1, 101)]
    (tmp_path / "t").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "empty").write_text("")
    files = {"x": [LanguageFile(tmp_path / "t", "en")], "y": [LanguageFile(tmp_path / "empty", "en")]}
    counts = count_coverage(pool, files, tiny_corpus / "tokenizer")
    part = counts["x"]["source"]
    assert (part.lines, part.unknown, part.changed, part.first) == (10, 1, 1, "text/x:50")
    assert part.lost == {"U+2764": 1} and counts["y"]["source"].lines == 0
    assert "10.00 % of 10 lines" in coverage_lines(counts)[0]


def test_the_version_of_sentencepiece_is_part_of_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version trains anew; where that gives another vocabulary, prepare says why."""
    import sentencepiece

    data = settings(tmp_path)
    prepare(data, processes=1)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["sentencepiece"] == sentencepiece.__version__
    outputs = {path.name for path in (tmp_path / "data" / "work" / "tokenizer").iterdir()}
    monkeypatch.setattr(sentencepiece, "__version__", "0.0.1")
    prepare(data, processes=1)
    assert outputs.isdisjoint(path.name for path in (tmp_path / "data" / "work" / "tokenizer").iterdir())
    assert Corpus.open(tmp_path / "data").manifest["sentencepiece"] == "0.0.1"
    assert "another vocabulary" not in caplog.text, "the same version in truth, the same vocabulary"
    monkeypatch.setattr(sentencepiece, "__version__", "0.0.2")
    prepare(data.model_copy(update={"tokenizer": data.tokenizer.model_copy(update={"model": "bpe"})}), processes=1)
    assert "trained by SentencePiece 0.0.1, and is now by 0.0.2: another vocabulary" in caplog.text


def test_given_rows_with_an_empty_side_are_said_by_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.en").write_text("a cat\n\nold dogs\n")
    (tmp_path / "t.fa").write_text("tac a\nsgod\n\n")
    files = {"format": "moses", "path": str(tmp_path / "t.en"), "target_path": str(tmp_path / "t.fa")}
    data = settings(tmp_path)
    corpora = {"*": {"train": data.corpora["*"].model_dump()["train"], "test": [files]}}
    data = DataSettings.model_validate({**data.model_dump(), "corpora": corpora})
    assert validate(data, processes=1) == []
    said = (
        f"en-fa test: 2 of 3 given rows have an empty side (first: {tmp_path}/t.en:2); kept, so that the rows line up"
    )
    assert said in capsys.readouterr().out

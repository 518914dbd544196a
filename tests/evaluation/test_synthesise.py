"""``mnmt-ds synthesise``: what translate gives, line for line, in chunks that survive a kill, by several processes."""

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.cli.synthesise import shard_of
from mnmt_ds.decoding import synthesis
from mnmt_ds.decoding.synthesis import PARTS, RECORD, closest
from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import read_checked_json
from tests.evaluation.runs import model_run
from tests.evaluation.test_translate_options import translate

LINES = ["derbo eulbbo", "hsifbo", "", "eulbbo hsifbo derbo", "derbo", "hsifbo derbo", "eulbbo"]


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in LINES).encode()))
    return path


def synthesise(run: Path, text: Path, out: Path, *options: Any, direction: str = "forward") -> int:
    pair = "en-bs" if direction == "back" else "bs-en"
    words = ["synthesise", run, text, "--pair", pair, "--direction", direction, "-o", out, "--device", "cpu"]
    return main([str(word) for word in (*words, "--jobs", 1, "--chunk", 3, *options)])


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_both_directions_give_what_translate_gives(
    run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthesise(run, text, tmp_path / "forward") == 0
    assert "format: moses" in capsys.readouterr().out
    assert lines_of(tmp_path / "forward" / "bs-en.bs") == LINES
    assert lines_of(tmp_path / "forward" / "bs-en.en") == translate(run, LINES)
    assert "".join(translate(run, LINES)) != ""
    assert synthesise(run, text, tmp_path / "back", direction="back") == 0
    assert lines_of(tmp_path / "back" / "en-bs.bs") == LINES
    assert lines_of(tmp_path / "back" / "en-bs.en") == translate(run, LINES)
    record = read_checked_json(tmp_path / "back" / RECORD)
    assert (record["lines"], record["counts"]["empty"], record["direction"]) == (
        7,
        translate(run, LINES).count(""),
        "back",
    )
    assert sorted(path.name for path in (tmp_path / "back" / PARTS).iterdir()) == ["lock", "plan.json"]


def test_what_was_cut_off_goes_on(run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after each chunk, a damaged chunk, and a second and third call on the finished corpus."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert synthesise(run, text, whole) == 0
    real, made = synthesis.translate_all, []

    def dies_in_the_second_chunk(*args: Any, **options: Any) -> Any:
        made.append(1)
        if len(made) % 2 == 0:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(synthesis, "translate_all", dies_in_the_second_chunk)
    for expected in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            synthesise(run, text, out)
        chunks = sorted((out / PARTS).glob("0*.json"))
        assert len(chunks) == expected and not (out / RECORD).exists()
    chunks[0].write_text(chunks[0].read_text().replace(":", ": ", 1)[:-9])
    monkeypatch.setattr(synthesis, "translate_all", real)
    assert synthesise(run, text, out) == 0
    for name in ("bs-en.bs", "bs-en.en"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    monkeypatch.setattr(synthesis, "translate_all", None)
    assert synthesise(run, text, out) == 0  # all is there
    (out / "bs-en.en").write_text("other\n")
    assert synthesise(run, text, out) == 2


def test_processes_share_the_work_in_any_order(run: Path, text: Path, tmp_path: Path) -> None:
    assert synthesise(run, text, tmp_path / "whole") == 0
    for number, order in enumerate(itertools.permutations((1, 2))):
        out = tmp_path / f"out{number}"
        for i in order:
            assert not (out / RECORD).exists()
            assert synthesise(run, text, out, "--shard", f"{i}/2") == 0
        assert (out / "bs-en.en").read_bytes() == (tmp_path / "whole" / "bs-en.en").read_bytes()


def test_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [shard_of("2/8"), shard_of(None)] == [(1, 8), (0, 1)]
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert [shard_of(None), shard_of("1/1")] == [(3, 4), (0, 1)]
    for wrong in ("0/2", "3/2", "2", "a/b", "-1/2"):
        with pytest.raises(UserError, match="--shard"):
            shard_of(wrong)


def test_the_closest_hypothesis_is_taken(run: Path, text: Path, tmp_path: Path) -> None:
    assert closest(["the red house", "a blue fish", "a blue dish"], "a blue fish!") == "a blue fish"
    rows = translate(run, LINES, "--nbest", "5")
    last = {line: [row.split(" ||| ")[1] for row in rows if row.startswith(f"{line} |||")][-1:] for line in range(7)}
    references = tmp_path / "references"
    references.write_text("".join(f"{''.join(last[line])}\n" for line in range(7)), encoding="utf-8")
    assert synthesise(run, text, tmp_path / "out", "--closest-to", references) == 0
    assert lines_of(tmp_path / "out" / "bs-en.en") == ["".join(last[line]) for line in range(7)]


def test_long_lines_are_left_empty_and_counted(run: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text(f"derbo\n{'derbo ' * 200}\n")
    assert synthesise(run, text, tmp_path / "out") == 0
    assert lines_of(tmp_path / "out" / "bs-en.en") == [*translate(run, ["derbo"]), ""]
    assert json.loads((tmp_path / "out" / RECORD).read_text())["counts"]["too long"] == 1


def test_faults(run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, empty, short, bad = (tmp_path / name for name in ("out", "empty", "short", "bad"))
    empty.write_text("")
    short.write_text("one\n")
    bad.write_bytes(b"derbo\n\xff\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    assert synthesise(run, text, out) == 0
    faults: list[tuple[tuple[Any, ...], str]] = [
        ((run, text, out, "--beam", "2"), "begun with another search; name another directory, or --fresh"),
        ((run, empty, tmp_path / "a"), "no line of text"),
        ((run, bad, tmp_path / "a"), "bad:2: byte 1"),
        ((run, text, other), "is no synthetic corpus"),
        ((run, text, other, "--fresh"), "is no synthetic corpus"),
        ((run, text, tmp_path / "a", "--closest-to", short), "1 lines, the text has 7"),
        ((run, text, tmp_path / "a", "--closest-to", text, "--beam", "1"), "needs several hypotheses"),
        ((run, text, tmp_path / "a", "--fresh", "--shard", "1/2"), "--fresh: one process"),
        ((run, tmp_path, tmp_path / "a"), "cannot be read"),
    ]
    for arguments, said in faults:
        capsys.readouterr()
        assert synthesise(*arguments) == 2, said
        assert said in capsys.readouterr().err
    assert (other / "thesis.tex").read_text() == "mine" and not (tmp_path / "a").exists()
    assert synthesise(run, text, out, "--beam", "2", "--fresh") == 0

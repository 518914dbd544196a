"""``mnmt-ds synthesise``: what translate gives, line for line, in chunks that survive a kill, by several processes."""

import gzip
import itertools
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main, make_parser
from mnmt_ds.cli.synthesise import shard_of
from mnmt_ds.data.settings import Files
from mnmt_ds.decoding import synthesis
from mnmt_ds.decoding.beam_search import BeamSettings
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.decoding.synthesis import PARTS, RECORD, closest
from mnmt_ds.decoding.translation import open_decoder
from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from tests.evaluation.runs import model_run
from tests.evaluation.test_translate_options import translate
from tests.small_disk import fill, small_disk

LINES = ["derbo eulbbo", "hsifbo", "", "eulbbo hsifbo derbo", "derbo", "hsifbo derbo", "eulbbo"]


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in LINES).encode()))
    return path


def words(run: Path, text: Path, out: Path, *options: Any, direction: str = "forward") -> list[str]:
    pair = "en-bs" if direction == "back" else "bs-en"
    first = ["synthesise", run, text, "--pair", pair, "--direction", direction, "-o", out, "--device", "cpu"]
    return [str(word) for word in (*first, "--jobs", 1, "--chunk", 3, *options)]


def synthesise(*arguments: Any, direction: str = "forward") -> int:
    return main(words(*arguments, direction=direction))


def another_process(*arguments: Any) -> None:
    """The command inside another one."""
    args = make_parser("synthesise").parse_args(words(*arguments))
    assert args.run(args) == 0


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_an_ensemble_gives_what_translate_gives(
    run: Path, tiny_corpus: Path, text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And is another plan than the first model alone."""
    other = model_run(tmp_path / "other", tiny_corpus, seed=5)
    assert synthesise(run, text, tmp_path / "out", "--ensemble", other) == 0
    made = lines_of(tmp_path / "out" / "bs-en.en")
    assert made == translate(run, LINES, "--ensemble", other) and made != translate(run, LINES)
    assert read_checked_json(tmp_path / "out" / RECORD)["model"].count("+") == 1
    capfd.readouterr()
    assert synthesise(run, text, tmp_path / "out") == 2
    assert "model" in capfd.readouterr().err


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
        assert synthesise(run, text, out) == 130
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
    for rank in ("4", "one", "-1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(UserError, match="no part of the work"):
            shard_of(None)
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


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_fresh_removes_its_own_files_once_all_is_well(run: Path, text: Path, tmp_path: Path) -> None:
    """A mistake beside --fresh costs nothing; what is called like our files and is none stays."""
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.write_text("")
    assert synthesise(run, text, out) == 0
    (out / "notes").write_text("mine")
    (out / PARTS / "thesis.json").write_text("mine")
    whole = files_in(out)
    assert synthesise(run, empty, out, "--fresh") == 2
    assert synthesise(tmp_path / "no_model", text, out, "--fresh") == 2
    assert files_in(out) == whole
    assert synthesise(run, text, out, "--fresh", "--beam", "2") == 0
    assert (out / "notes").read_text() == (out / PARTS / "thesis.json").read_text() == "mine"
    for number, files in enumerate(
        ({"parts/1.txt": "a"}, {"parts/plan.json": "{}"}, {"synthesis.json": '{"pair": "bs-en"}', "bs-en.bs": "a"},
         {"parts": "a"}, {"bs-en.bs": "a", "parts/000001.json": "{}"})
    ):  # fmt: skip
        other = tmp_path / f"other{number}"
        for name, content in files.items():
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            (other / name).write_text(content)
        before = files_in(other)
        assert synthesise(run, text, other) == synthesise(run, text, other, "--fresh") == 2
        assert files_in(other) == before


def test_chunks_of_another_plan_or_text_are_never_joined(
    run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that another one's --fresh overtook; text that was rewritten with as many lines; text that moved."""
    out, other = tmp_path / "out", tmp_path / "other"
    assert synthesise(run, text, other, "--beam", "1", "--shard", "1/2") == 0
    assert synthesise(run, text, out, "--shard", "2/2") == 0
    for path in (other / PARTS).glob("0*.json"):
        (out / PARTS / path.name).write_bytes(path.read_bytes())
    assert synthesise(run, text, out, "--shard", "2/2") == 0 and not (out / RECORD).exists()
    moved = tmp_path / "moved.gz"
    moved.write_bytes(text.read_bytes())
    assert synthesise(run, moved, out) == 0
    assert lines_of(out / "bs-en.en") == translate(run, LINES)
    assert synthesise(run, text, out) == 0
    moved.write_bytes(gzip.compress("".join(f"{line}\n" for line in LINES[::-1]).encode()))
    assert synthesise(run, moved, out) == 2
    assert "begun with another text, or text in another order" in capsys.readouterr().err


def test_text_that_changes_while_it_is_made(
    run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the chunks, and after the last one: nothing is joined that does not belong together."""
    real, out = synthesis.translate_all, tmp_path / "out"
    content = text.read_bytes()

    def rewrites(*args: Any, **options: Any) -> Any:
        text.write_bytes(gzip.compress("".join(f"{line} derbo\n" for line in LINES).encode()))
        return real(*args, **options)

    monkeypatch.setattr(synthesis, "translate_all", rewrites)
    assert synthesise(run, text, out) == 2
    assert "chunk 0 is of other text" in capsys.readouterr().err
    assert not (out / RECORD).exists() and not (out / "bs-en.en").exists()
    monkeypatch.setattr(synthesis, "translate_all", real)
    assert synthesise(run, text, out) == 2
    text.write_bytes(content)
    assert synthesise(run, text, out) == 0 and lines_of(out / "bs-en.en") == translate(run, LINES)


def test_who_began_first_decides_what_is_made(
    run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process writes its plan after this one saw none."""
    real = synthesis.lock

    def another_is_first(path: Path, wait: bool = False) -> Any:
        monkeypatch.setattr(synthesis, "lock", real)
        another_process(run, text, path.parents[1], "--beam", "2", "--shard", "1/2")
        return real(path, wait=wait)

    monkeypatch.setattr(synthesis, "lock", another_is_first)
    assert synthesise(run, text, tmp_path / "out") == 2
    assert "begun with another search" in capsys.readouterr().err


def test_two_processes_that_do_the_same_work(
    run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one finds the corpus finished when its last chunk is done, and leaves nothing behind."""
    real, out, calls = synthesis.translate_all, tmp_path / "out", []

    def another_does_it_all(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            monkeypatch.setattr(synthesis, "translate_all", real)
            another_process(run, text, out)
        return real(*args, **options)

    monkeypatch.setattr(synthesis, "translate_all", another_does_it_all)
    assert synthesise(run, text, out) == 0
    assert lines_of(out / "bs-en.en") == translate(run, LINES)
    assert sorted(path.name for path in (out / PARTS).iterdir()) == ["lock", "plan.json"]


def test_odd_text_and_odd_paths(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CRLF, U+2028, empty lines alone, a file in a zip archive; the printed entry is YAML and names the files."""
    home = tmp_path / "a: b, {c} #d [e]'\"&"
    home.mkdir()
    text, archive, empty = home / "text", home / "text.zip", home / "empty"
    text.write_bytes("derbo\r\nhsifbo\u2028derbo\n\r\n".encode())
    empty.write_text("\n\n")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(text, "one/bs.txt")
        file.write(text, "two/bs.txt")
    for number, path in enumerate((text, archive / "one/bs.txt")):
        capsys.readouterr()
        out = home / str(number)
        assert synthesise(run, path, out) == 0
        assert lines_of(out / "bs-en.bs") == ["derbo ", "hsifbo derbo", " "]
        assert lines_of(out / "bs-en.en") == translate(run, ["derbo", "hsifbo derbo", ""])
        (entry,) = yaml.safe_load(capsys.readouterr().out.rpartition(":\n")[2])
        files = Files.model_validate(entry)
        assert (files.path, files.target_path) == (str(out / "bs-en.bs"), str(out / "bs-en.en"))
    assert synthesise(run, empty, home / "empty_out") == 0
    assert lines_of(home / "empty_out" / "bs-en.en") == ["", ""]
    os.mkfifo(home / "pipe")
    assert synthesise(run, home / "pipe", home / "out") == 2
    assert "is no plain file" in capsys.readouterr().err
    assert synthesise(run, text, empty) == 2


def test_a_model_that_is_replaced_while_it_works(
    tiny_corpus: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Worker processes read the model again, and must find the same one."""
    one = model_run(tmp_path / "one", tiny_corpus)
    translator = open_translator(one)
    description = {**translator.description, "sha256": "0" * 64}
    opened = open_decoder(translator._replace(description=description), BeamSettings(), 2)
    with pytest.raises(UserError, match="was replaced since it was read"), opened:
        pass


def test_of_several_students_the_best_for_the_pair_translates(
    tiny_corpus: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the model's pair, which back-translation turns round; a student's own directory is a run, too."""
    run, losses = tmp_path / "run", {"one": (1.0, 3.0), "two": (2.0, 2.0)}
    for seed, (name, (bs, hi)) in enumerate(losses.items()):
        student = model_run(run / "students" / name, tiny_corpus, seed)
        path = student / "snapshots" / "7" / "model.json"
        description = read_checked_json(path) | {"dev": {"bs-en": bs, "hi-en": hi}}
        write_checked_json(path, description)
    one, two = (run / "students" / name for name in losses)
    expected = {name: translate(run / "students" / name, LINES) for name in losses}
    assert expected["one"] != expected["two"]
    assert synthesise(run, text, tmp_path / "forward") == 0
    assert "student one, whose dev loss on bs-en is the lowest" in capsys.readouterr().err
    assert lines_of(tmp_path / "forward" / "bs-en.en") == expected["one"]
    assert synthesise(run, text, tmp_path / "back", direction="back") == 0
    assert lines_of(tmp_path / "back" / "en-bs.en") == expected["one"]
    assert synthesise(two, text, tmp_path / "two") == 0
    assert lines_of(tmp_path / "two" / "bs-en.en") == expected["two"]
    assert synthesise(one, text, tmp_path / "forward") == 0, "the same model: the corpus is there already"
    assert synthesise(two, text, tmp_path / "forward") == 2


def test_a_full_disk_costs_nothing_that_was_made(
    run: Path, text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever it becomes full: one line that names the disk; what was made goes on once there is room."""
    whole = tmp_path / "whole"
    assert synthesise(run, text, whole) == 0
    with small_disk(tmp_path / "disk", "256k") as disk:
        out, refusals = disk / "out", 0
        for left in range(0, 200_000, 4_096):
            fill(disk, left)
            capfd.readouterr()
            code = synthesise(run, text, out)
            if code == 0:
                break
            lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mnmt-ds ")]
            assert code == 2 and len(lines) == 1 and "no space left on the disk" in lines[0], lines
            assert str(disk) in lines[0]
            refusals += 1
        assert code == 0 and refusals > 2
        for name in ("bs-en.bs", "bs-en.en"):
            assert lines_of(out / name) == lines_of(whole / name)
        assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]

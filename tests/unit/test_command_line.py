"""The command line: words in any order, errors in one line, the level of messages."""

import contextlib
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mnmt_ds import __version__, log
from mnmt_ds.cli.examples import EXAMPLES
from mnmt_ds.cli.main import COMMANDS, main, make_parser
from mnmt_ds.config import parse_yaml

RECIPE = "data: {pairs: [bs-en]}\n"


def test_overrides_may_stand_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    words = ["train", "--dump-config", str(tmp_path / "r.yaml"), "train.lr=0.5", "--resume", "train.seed=3"]
    assert main(words) == 0
    train = parse_yaml(capsys.readouterr().out)["train"]
    assert (train["lr"], train["seed"], train["gradient_accumulation_steps"]) == (0.5, 3, 1)


def test_files_may_stand_behind_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "model", "--pair", "bs-en", str(tmp_path / "text")]) == 2
    assert capsys.readouterr().err == (
        f"mnmt-ds translate: {tmp_path / 'text'}: no such file; give text files, or nothing for standard input\n"
    )


def test_files_behind_options_are_paths_as_all_others(capsys: pytest.CaptureFixture[str]) -> None:
    others = {"translate": [], "synthesise": ["text", "-o", "out", "--direction", "back"]}
    for command, word, message in (
        ("translate", "", "is empty"), ("translate", "~/none", "/none: no such file"),
        ("synthesise", "-", "no place here"),
    ):  # fmt: skip
        with suppress(SystemExit):
            assert main([command, "model", *others[command], "--pair", "bs-en", word]) == 2
        error = capsys.readouterr().err
        assert message in error and "~" not in error


def test_a_mistake_of_the_user_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for words in (["train", "r.yaml", "--nonsense"], ["nonsense"], ["train"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian", "r.yaml"], "no such command 'trian'; did you mean 'train'?"),
        (["train", "r.yaml", "--resum"], "unknown arguments: --resum; did you mean '--resume'?"),
        (["bench", "loss", "--output-direct", "x"], "unknown arguments: --output-direct"),
        (["train"], "the following arguments are required: recipe\n"),
        (["translate", "model"], "the following arguments are required: --pair\n"),
    ],
)
def test_words_are_not_guessed(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_any_readable_path_is_translated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, expected in ((tmp_path, f"{tmp_path}: cannot be read"), (Path("/dev/null"), "none")):
        assert main(["translate", str(tmp_path / "none"), str(path), "--pair", "bs-en"]) == 2
        error = capsys.readouterr().err
        assert expected in error and "no such file" not in error


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert len(make_parser(command).format_help()) > 200
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0


def test_the_level_of_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "info")
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert main(["train", str(tmp_path / "r.yaml"), "--dump-config", "--log-level", "error"]) == 0
    import os

    assert os.environ[log.VARIABLE] == "error", "for the processes that the command starts"
    monkeypatch.setenv(log.VARIABLE, "info")
    log.set_up()


def test_the_package_is_the_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "mnmt_ds", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"mnmt-ds {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLES[command]) >= 2
    for words, _ in EXAMPLES[command]:
        assert words.split()[0] == command
        with contextlib.suppress(SystemExit):  # --help-config prints and ends
            args, late = make_parser(command).parse_known_args(shlex.split(words))
            assert not late or ("=" in late[0] if hasattr(args, "overrides") else hasattr(args, "files"))
            assert not any(word.startswith("-") for word in late)
    assert "error" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert all(f"mnmt-ds {words}\n" in printed for words, _ in EXAMPLES[command])


def test_there_are_examples_of_no_other_command() -> None:
    assert list(EXAMPLES) == list(COMMANDS)

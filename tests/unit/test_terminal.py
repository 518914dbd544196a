"""No control character of a file, a recipe or another process reaches a terminal."""

import contextlib
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mnmt_ds import log
from mnmt_ds.cli.main import main
from mnmt_ds.terminal import CONTROL, EscapedStream, escape, escaped_output

NASTY = "\x1b[2Jred\x07\x9b1m\r\x7f\u202e"


def test_escapes() -> None:
    assert escape(f"a{NASTY}\tb\n") == "a\\x1b[2Jred\\x07\\x9b1m\\r\\x7f\\u202e\tb\n"
    assert escape("ქართული, עברית, हिन्दी\u200d") == "ქართული, עברית, हिन्दी\u200d"


def test_output_error_and_logs_are_escaped_and_bytes_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    with escaped_output():
        print(f"pair {NASTY}")
        print(f"fault {NASTY}", file=sys.stderr)
        logging.getLogger("mnmt_ds.test").error("node %s failed", NASTY)
        sys.stdout.flush()
        sys.stdout.buffer.write(b"\x1b data\n")
        sys.stdout.buffer.flush()
    out, error = capfd.readouterr()
    assert "pair \\x1b[2Jred" in out and "\x1b data" in out and out.count("\x1b") == 1
    assert not CONTROL.search(error) and error.count("\\x1b[2J") == 2


def test_a_log_line_is_escaped_by_itself() -> None:
    log.set_up()
    with contextlib.redirect_stderr(io.StringIO()) as written:
        logging.getLogger("mnmt_ds.test").error("worker: %s", NASTY)
    assert not CONTROL.search(written.getvalue()) and "\\x1b[2J" in written.getvalue()


def test_words_of_the_command_line_and_overrides(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: {directory: x, pairs: [a-en]}\n")
    assert main(["train", str(recipe), f"train.{NASTY}=1"]) == 2
    with pytest.raises(SystemExit):
        main([f"tra{NASTY}in"])
    text = "".join(capfd.readouterr())
    assert "\\x1b[2J" in text and not CONTROL.search(text)


def test_a_last_traceback_is_escaped() -> None:
    program = "from mnmt_ds.terminal import escaped_output\nwith escaped_output():\n    raise ValueError('\\x1b[2J')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "ValueError: \\x1b[2J" in done.stderr and "\x1b" not in done.stderr


def test_a_stream_that_a_logger_kept_goes_on_to_the_present_one() -> None:
    with escaped_output():
        kept = sys.stdout
    with contextlib.redirect_stdout(io.StringIO()) as written:
        kept.write("later \x1b")
    assert isinstance(kept, EscapedStream) and written.getvalue() == "later \\x1b"

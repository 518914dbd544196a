"""Messages: level, time and rank before each line; the training reports without them."""

import ast
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mnmt_ds import log
from tests.tiny import ROOT

LOG = logging.getLogger("mnmt_ds.some.module")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (log.VARIABLE, "RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "")  # so that what a test sets is undone, too
        monkeypatch.delenv(name)
    yield
    logging.getLogger("mnmt_ds").setLevel(logging.INFO)


def test_prefix_and_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    log.set_up()
    LOG.warning("%d files", 3)
    monkeypatch.setenv("RANK", "3")
    LOG.info("text")
    LOG.debug("hidden")
    log.REPORT.info("step 1/2 | epoch 0.50")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "TIME ", line) for line in captured.err.splitlines()]
    assert lines == ["TIME WARNING: 3 files", "TIME INFO rank 3: text", "step 1/2 | epoch 0.50"]


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("ERROR", 1)])
def test_levels(level: str, shown: int, capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(level)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        LOG.log(number, "text")
    assert len(capsys.readouterr().err.splitlines()) == shown


def test_an_unknown_level_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(log.VARIABLE, "loud")
    log.set_up()
    LOG.info("text")
    first, second = capsys.readouterr().err.splitlines()
    assert "loud is none of debug, info, warning, error; taking info" in first and second.endswith("text")


def test_a_traceback_stays_with_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    try:
        raise KeyError("x")
    except KeyError:
        LOG.exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("ERROR: failed") and lines[-1] == "KeyError: 'x'"


def test_no_message_goes_around_the_log() -> None:
    """Only the commands' own last word, a UserError, is printed on standard error."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "mnmt_ds").rglob("*.py"))
        if path.parent.name not in ("cli", "bench")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and "stderr" in ast.unparse(node)
    ]
    assert not bare


CODE = """
from mnmt_ds import log
from tests.tiny import ROOT
log.set_up({level!r})
log.set_up_deepspeed()
from deepspeed.utils import logger
logger.info("chatter"); logger.warning("warned")
"""


@pytest.mark.parametrize(("level", "words"), [("info", ["warned"]), ("debug", ["chatter", "warned"])])
def test_deepspeeds_messages(level: str, words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", CODE.format(level=level)], capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    assert [word for word in ("chatter", "warned") if word in text] == words, text

"""The sessions that README and the tutorial show run, command by command, in a directory of their own."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

SMALL = "train.max_steps=3 model.d_model=32 model.ffn=64 validation.max_tokens=4096"
"""What the everyday suite adds to each training, so that it takes seconds."""


def session(page: str, info: str) -> list[str]:
    """All lines of a page's blocks of one session, in order."""
    return [line for block in blocks(ROOT / page, info) for line in block.splitlines()]


def run(lines: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs lines as one bash script, in a folder in which the repository's own folders are."""
    for name in ("docs", "ds_configs", "launchers"):
        (folder / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
    }
    script = "\n".join(["set -euo pipefail", *lines])
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


def test_quick_start_runs(tmp_path: Path) -> None:
    """README's quick start on half of the text, three updates of a smaller model."""
    lines = session("README.md", "sh quickstart")
    assert len(lines) >= 5
    small = [_smaller(line) for line in lines]
    done = run(small, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "BLEU signature" in done.stdout and "macro" in done.stdout
    assert len(done.stdout.rstrip("\n").split("\n")[-2:]) == 2
    assert (tmp_path / "runs" / "toy" / "first" / "best" / "model.safetensors").exists()


def _smaller(line: str) -> str:
    command, _, _ = line.partition("  #")
    if command.startswith("mnmt-ds train"):
        return f"{command} {SMALL}"
    return f"{command} --share 0.5" if "toy_corpus.py" in command else command


@pytest.mark.slow
def test_tutorial_runs(tmp_path: Path) -> None:
    """Every command of the tutorial, as it stands there: some six minutes on one core."""
    done = run(session("docs/tutorial.md", "sh tutorial"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "taught:" in done.stdout + done.stderr, "no teacher taught in the tutorial's LSSD run"
    assert (tmp_path / "runs" / "toy" / "report" / "compare.html").stat().st_size > 10_000


@pytest.mark.slow
def test_from_an_archive_to_an_exported_model(tmp_path: Path) -> None:
    """Every command of the page, then the code of the exported README on a test sentence."""
    done = run(session("docs/opus.md", "sh opus"), tmp_path)
    assert done.returncode == 0, done.stderr
    opus = tmp_path / "runs" / "opus"
    assert "training sentences are synthetic" in done.stdout and (opus / "preview.html").stat().st_size > 10_000
    (code,) = blocks(opus / "ct2" / "README.md", "python")
    line = (opus / "data_bt" / "text" / "qaa-en.test.src").read_text(encoding="utf-8").split("\n")[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.replace("…", line), {"DIRECTORY": str(opus / "ct2")})
    assert printed.getvalue().strip().endswith(".")

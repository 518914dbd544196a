"""A synthetic corpus whose making is killed before any change of a file: the same call makes the whole corpus."""

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mnmt_ds import files
from mnmt_ds.decoding import synthesis
from mnmt_ds.decoding.beam_search import BeamSettings

LINES = [f"line {i}" for i in range(7)]


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def translator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Translates a line into as many words as it has pieces."""

    def encode(lines: list[str], language: str) -> list[list[str]]:
        return [[f"{word}!" for word in line.split()] for line in lines]

    monkeypatch.setattr(synthesis, "translate_all", lambda translator, pieces, *args: pieces)
    monkeypatch.setattr(synthesis, "_choose", lambda translator, row, reference: " ".join(row))
    monkeypatch.setattr(files, "sync", lambda path: None)
    return SimpleNamespace(
        max_positions=99,
        frame=lambda pair: SimpleNamespace(source_extra=1),
        tokenizer=SimpleNamespace(encode_many=encode),
    )


def make(directory: Path, text: Path, translator: Any, chunk: int, fresh: bool) -> None:
    described = synthesis.describe_files([text])
    plan = synthesis.SynthesisPlan("bs-en", "forward", "0", {}, described, [], chunk)
    if fresh:
        synthesis.start_anew(directory, plan)
    if synthesis.begin(directory, plan) is None:
        missing = synthesis.missing_chunks(directory, plan)
        synthesis.translate_chunks(directory, plan, missing, translator, BeamSettings(), 99, lambda count: 1)
        assert synthesis.finish(directory, plan, {}) is not None


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fresh", [False, True])
def test_killed_before_every_change(
    translator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    """Also while a finished corpus of another plan is replaced."""
    text = tmp_path / "text"
    text.write_text("".join(f"{line}\n" for line in LINES))
    make(tmp_path / "whole", text, translator, 2, False)
    expected = contents(tmp_path / "whole")
    assert expected["bs-en.en"] == "".join(f"{line.replace(' ', '! ')}!\n" for line in LINES).encode()
    for number in itertools.count():
        out = tmp_path / f"out{number}"
        if fresh:
            make(out, text, translator, 3, False)
        with monkeypatch.context() as patch:
            _kill_at(patch, number)
            try:
                make(out, text, translator, 2, fresh)
                break
            except Killed:
                pass
        make(out, text, translator, 2, fresh)
        assert contents(out) == expected, number
    assert number > 10 and contents(out) == expected


def _kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Before the change with this number, from 0."""
    counter = itertools.count()

    def wrapped(real: Any) -> Any:
        def changed(*args: Any, **options: Any) -> Any:
            if next(counter) == number:
                raise Killed
            return real(*args, **options)

        return changed

    for name in ("replace", "unlink", "mkdir"):
        patch.setattr(os, name, wrapped(getattr(os, name)))

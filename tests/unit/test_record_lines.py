"""Altered, missing, doubled and exchanged lines of metrics.jsonl are named; a cut last line is what a crash leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mnmt_ds.errors import UserError
from mnmt_ds.record_lines import check_lines, read_records, write_lines
from mnmt_ds.tracking import Tracker, TrackingSettings

RECORDS = [
    {"kind": "run", "update": 0, "epoch": 0.0, "time": 1.5},
    {"kind": "train", "update": 2, "epoch": 0.5, "time": 2.5, "train/loss": 3.25},
    {"kind": "valid", "update": 2, "epoch": 0.5, "time": 3.5, "valid/bs-en/loss": float("nan")},
    {"kind": "train", "update": 4, "epoch": 1.0, "time": 4.5, "train/loss": 2.25},
]
Lines = list[bytes]


def tracker(run: Path) -> Tracker:
    return Tracker(run, TrackingSettings(), True, "run")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of four lines, each written by a process of its own."""
    for record in RECORDS:
        values = {key: value for key, value in record.items() if "/" in key}
        tracker(tmp_path).log(str(record["kind"]), int(record["update"]), float(record["epoch"]), values)  # type: ignore[call-overload]
    return tmp_path / "metrics.jsonl"


def test_a_log_is_read_as_it_was_written(log: Path) -> None:
    assert [record["kind"] for record in read_records(log)] == ["run", "train", "valid", "train"]
    assert all("crc" not in record for record in read_records(log))
    log.write_text(write_lines(RECORDS))
    assert json.dumps(read_records(log)) == json.dumps(RECORDS)


def test_every_flipped_bit_is_named_or_changes_nothing(log: Path) -> None:
    content, before = log.read_bytes(), json.dumps(read_records(log))
    named = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        log.write_bytes(flipped)
        try:
            assert json.dumps(read_records(log)) == before, position
        except UserError as error:
            named += 1
            assert str(error).startswith(f"{log}:") and "\n" not in str(error)
    assert named > 0.95 * len(content)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[:1] + lines[2:], 2),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
        (lambda lines: [lines[0], lines[1], lines[1], lines[2], lines[3]], 3),
        (lambda lines: [lines[0], lines[1][:20], lines[2], lines[3]], 2),
        (lambda lines: [*lines[:3], lines[3].replace(b"2.25", b"1.25")], 4),
        (lambda lines: [lines[0], b'{"kind": "train", "update": 1}', *lines[1:]], 2),
        (lambda lines: [lines[0], b"[]", *lines[1:]], 2),
        (lambda lines: [lines[0], b"[" * 100_000, *lines[1:]], 2),
    ],
)
def test_what_was_done_to_lines_is_named(log: Path, change: Callable[[Lines], Lines], line: int) -> None:
    log.write_bytes(b"\n".join([*change(log.read_bytes().splitlines()), b""]))
    with pytest.raises(UserError, match=rf"^{log}:{line}: [^\n]*restore the file from a copy, or resume the run"):
        read_records(log)


def test_a_cut_last_line_is_left_out(log: Path) -> None:
    content, before = log.read_bytes(), read_records(log)
    last = content.rindex(b"\n", 0, -1) + 1
    for length in (last, last + 1, last + 40, len(content) - 2):
        log.write_bytes(content[:length])
        assert str(read_records(log)) == str(before[:3])
    log.write_bytes(content[:-1])
    assert len(read_records(log)) == 4


def test_a_log_of_an_earlier_version(tmp_path: Path, log: Path) -> None:
    """Lines without checksums stay as they are, and are held to their order."""
    old = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
    log.write_bytes(old + old[:9])
    resumed = tracker(tmp_path)
    resumed.rewind(4)
    assert log.read_bytes() == old
    resumed.log("train", 6, 1.5, {"train/loss": 1.0})
    tracker(tmp_path).log("train", 8, 2.0, {"train/loss": 1.0})
    assert [record["update"] for record in read_records(log)] == [0, 2, 2, 4, 6, 8]
    lines = old.splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], lines[3], lines[1], lines[2]]))
    with pytest.raises(UserError, match=rf"{log}:3: has update 2 after update 4;"):
        read_records(log)


def test_a_resumed_run_drops_damaged_lines_by_name(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(log.read_bytes().replace(b"3.25", b"3.24"))
    said: list[str] = []
    resumed = tracker(tmp_path)
    monkeypatch.setattr(resumed, "warning", said.append)
    resumed.rewind(2)
    assert said == [f"{log}:2: was altered, or lines above it are gone; the line is left out"]
    resumed.log("train", 3, 1.0, {})
    assert [record["kind"] for record in read_records(log)] == ["run", "valid", "train"]
    assert check_lines(log)[1] == []

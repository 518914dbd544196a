"""Files are hashed once for as long as nobody touches them; whatever touches them is seen."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from mnmt_ds import file_integrity
from mnmt_ds.file_integrity import CACHE, first_altered, read_checked_json, write_checked_json
from mnmt_ds.files import sha256


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read to be hashed, in order."""
    seen: list[Path] = []

    def counting(path: Path) -> str:
        seen.append(path)
        time.sleep(0.01)
        return sha256(path)

    monkeypatch.setattr(file_integrity, "sha256", counting)
    monkeypatch.setattr(file_integrity, "SETTLED_NS", 0)
    return seen


@pytest.fixture
def expected(tmp_path: Path) -> dict[Path, str]:
    """Three files with their digests."""
    paths = [tmp_path / "data" / name for name in "abc"]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
    return {path: sha256(path) for path in paths}


def flip(path: Path, position: int = 500) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def test_what_was_not_touched_is_not_read_again(expected: dict[Path, str], hashed: list[Path]) -> None:
    directory = next(iter(expected)).parent
    for _ in range(3):
        assert first_altered(expected, directory) is None
        assert hashed == list(expected)


def test_a_flipped_bit_is_seen_although_size_and_mtime_are_set_back(
    expected: dict[Path, str], hashed: list[Path]
) -> None:
    directory, path = next(iter(expected)).parent, list(expected)[1]
    assert first_altered(expected, directory) is None
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        assert first_altered(expected, directory) == path
    flip(path)
    assert first_altered(expected, directory) is None
    assert hashed == [*expected, path, path, path]


def test_a_file_that_was_just_written_is_not_remembered(
    expected: dict[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next change could have the same time."""
    directory = next(iter(expected)).parent
    monkeypatch.setattr(file_integrity, "SETTLED_NS", 10**12)
    assert first_altered(expected, directory) is None
    assert (directory / CACHE).read_text() == ""


def test_a_line_is_read_once_and_old_ones_go(
    expected: dict[Path, str], hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are written again and again do not make the file of digests grow."""
    directory, parsed = next(iter(expected)).parent, []
    parse = file_integrity.parse_json
    monkeypatch.setattr(file_integrity, "parse_json", lambda line, shape: parsed.append(line) or parse(line, shape))
    monkeypatch.setattr(file_integrity, "STALE_LINES", 4)
    monkeypatch.setattr(file_integrity, "SETTLED_NS", 0)
    for round_number in range(20):
        for path in expected:
            path.touch()
            assert first_altered({path: expected[path]}, directory) is None
        assert first_altered(expected, directory) is None
        lines = [line for line in (directory / CACHE).read_text().splitlines() if line]
        assert len(lines) <= 2 * 3 + 4 + 3 and len(hashed) == 3 * (round_number + 1)
    assert len([line for line in parsed if line]) <= 2 * 60


def test_one_process_hashes_and_the_others_wait(expected: dict[Path, str], hashed: list[Path]) -> None:
    directory = next(iter(expected)).parent
    results: list[Path | None] = []
    ranks = [threading.Thread(target=lambda: results.append(first_altered(expected, directory))) for _ in range(8)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert results == [None] * 8 and hashed == list(expected)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"1": 2}', "[1]", '[1, "a"]\n', "7\n[]\n", "\x00" * 50])
def test_a_spoilt_cache_costs_time_alone(expected: dict[Path, str], hashed: list[Path], content: str) -> None:
    directory = next(iter(expected)).parent
    (directory / CACHE).write_text(content)
    assert first_altered(expected, directory) is None
    assert first_altered(expected, directory) is None
    assert hashed == list(expected)


def test_every_flipped_bit_of_a_cache_costs_time_alone(expected: dict[Path, str]) -> None:
    directory = next(iter(expected)).parent
    assert first_altered(expected, directory) is None
    content = (directory / CACHE).read_bytes()
    for position in range(0, len(content), 7):
        (directory / CACHE).write_bytes(content)
        flip(directory / CACHE, position)
        assert first_altered(expected, directory) is None


def test_a_directory_that_cannot_be_written(
    expected: dict[Path, str], hashed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = next(iter(expected)).parent
    monkeypatch.setattr(file_integrity.os, "access", lambda path, mode: path != directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert first_altered(expected, directory) is None
    assert hashed == list(expected) and not (directory / CACHE).exists()
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # no place at all
    assert first_altered(expected, directory) is None
    assert hashed == [*expected, *expected]


def test_checked_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = {"b": [1, 2.5, None, "č"], "a": {"10": 1, "9": float("inf")}}
    write_checked_json(path, values)
    assert read_checked_json(path) == values
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))  # the layout does not count
    assert read_checked_json(path) == values
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(ValueError, match=r"^altered since it was written$"):
        read_checked_json(path)
    path.write_text('{"a": 1}')
    assert read_checked_json(path) == {"a": 1}
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"^Input should be a valid dictionary$"):
        read_checked_json(path)


def test_every_flipped_bit_of_checked_json_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = {"pairs": {"bs-en": {"sentences": 12, "ratio": 0.25}}, "name": "ab"}
    write_checked_json(path, values)
    content = path.read_bytes()
    seen = 0
    for position in range(len(content)):
        path.write_bytes(content)
        flip(path, position)
        try:
            kept = {key: value for key, value in read_checked_json(path).items() if key in values}
        except ValueError:
            seen += 1
        else:
            assert kept == values
    assert seen > 0.8 * len(content)

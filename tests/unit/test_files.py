"""Files and directories that are written whole or not at all, hashes and locks."""

import errno
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from mnmt_ds import files
from mnmt_ds.errors import UserError, file_fault


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_text_json_and_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    files.write_text(tmp_path / "new" / "a.txt", "é\r\n")
    files.write_text(tmp_path / "new" / "a.txt", "ü\n")
    files.write_json(tmp_path / "new" / "b.json", {"è": [1, 2.5]})
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ü\n".encode()
    text = (tmp_path / "new" / "b.json").read_text(encoding="utf-8")
    assert "è" in text and text.endswith("\n") and json.loads(text) == {"è": [1, 2.5]}
    assert names(tmp_path / "new") == ["a.txt", "b.json"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(KeyError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_the_umask_decides_the_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (tmp_path / "model.tmp").mkdir()
    (tmp_path / "model.tmp" / "left over").touch()
    for content in ("first", "second"):
        with files.replacing_directory(target) as temporary:
            (temporary / "part").mkdir()
            (temporary / "part" / content).write_text(content)
    assert names(target / "part") == ["second"] and names(target) == ["part"]
    with pytest.raises(KeyError), files.replacing_directory(target) as temporary:
        raise KeyError
    assert names(tmp_path) == ["model"] and names(target / "part") == ["second"]


def test_a_new_directory_leaves_all_others_alone(tmp_path: Path) -> None:
    """What a user has under names that a replaced directory would take for leftovers stays."""
    for name in ("model", "model.tmp", "model.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "model.tmp" / "own").touch()
    (tmp_path / "model.old" / "own").touch()
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(OSError) as error, files.new_directory(tmp_path / "link") as temporary:
        raise OSError(errno.ENOSPC, "", str(temporary / "part"))
    assert error.value.filename == str(tmp_path / "link" / "part")
    with files.new_directory(tmp_path / "link") as temporary:
        (temporary / "part").touch()
    assert names(tmp_path) == ["link", "model", "model.old", "model.tmp"]
    assert names(tmp_path / "model") == ["part"] and names(tmp_path / "model.tmp") == ["own"]
    with pytest.raises(UserError, match="exists and is not empty"), files.new_directory(tmp_path / "link"):
        pass


def test_links_and_second_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        files.replace_link(tmp_path / "last", Path(name))
        files.link_or_copy(tmp_path / name, tmp_path / f"second {name}")
    assert (tmp_path / "last").read_text() == (tmp_path / "second two").read_text() == "two"
    assert names(tmp_path) == ["last", "one", "second one", "second two", "two"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


HOLD = "import sys, pathlib; from mnmt_ds.files import lock; f = lock(pathlib.Path(sys.argv[1])); print(1, flush=True)"


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not files.is_locked(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD + "; sys.stdin.read()", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
    assert files.is_locked(path)
    with pytest.raises(BlockingIOError):
        files.lock(path)
    holder.kill()
    holder.communicate()
    assert not files.is_locked(path)
    with files.lock(path, wait=True):
        assert files.is_locked(path)
    assert not files.is_locked(path)


@pytest.mark.parametrize("name", ["", ".", "here"])
def test_a_directory_is_not_written_over(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a path has no name, as that of an empty word."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_text(Path(name), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError) as caught:
        files.lock(tmp_path / "lock")
    assert str(file_fault(caught.value)).startswith(f"{tmp_path}/lock: the file system has no locks")


def test_directories_that_flush_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems refuse to flush a directory; a file that is not flushed is an error."""
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or path == Path("bad"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    for path in (Path("good"), Path("bad")):
        with pytest.raises(OSError) if path.name == "bad" else nullcontext():
            files.write_text(path, "text")
    assert [found.name for found in tmp_path.iterdir()] == ["good"]

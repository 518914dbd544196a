"""Errors of files and disks become one line; outputs reach devices, FIFOs and the targets of links."""

import errno
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from mnmt_ds import files
from mnmt_ds.cli import main as command_line
from mnmt_ds.distributed import ALONE
from mnmt_ds.errors import UserError, file_fault
from mnmt_ds.tracking import Tracker, TrackingSettings, read_records

NUMBERS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO]


def failing(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", NUMBERS)
def test_errors_of_disks_are_one_line(number: int, tmp_path: Path) -> None:
    """Those that a library made another error of, too."""
    plain = file_fault(failing(number, str(tmp_path / "file")))
    wrapped = RuntimeError("unexpected pos 64 vs 0")
    wrapped.__context__ = failing(number)
    rust = ValueError(f"I/O error: whatever (os error {number})")
    for fault in (plain, file_fault(wrapped, tmp_path / "file"), file_fault(rust, tmp_path / "file")):
        assert str(fault).startswith(f"{tmp_path}/file: ") and "\n" not in str(fault)
        assert ("MB are free" in str(fault)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert "about 35 MB are needed" in str(file_fault(failing(errno.ENOSPC), tmp_path, 35 * 10**6))
    assert file_fault(KeyError("x")) is None and file_fault(failing(errno.ECONNREFUSED)) is None


def test_no_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are full Python's own error names none, as if a file were missing."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere/at/all"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    assert "set TMPDIR" in str(file_fault(caught.value))


@pytest.mark.parametrize("name", ["fsync", "replace", "open"])
def test_a_failing_write_names_its_file_and_leaves_the_old_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    files.write_text(path, "old")

    def fails(*arguments: object, **named: object) -> None:
        raise failing(errno.ENOSPC)

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(os, name, fails)
        files.write_text(path, "new")
    assert caught.value.filename == str(path) or name == "open"
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_every_command_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command in command_line.COMMANDS:
        module = command_line.command_module(command)

        def full(args: object) -> int:
            raise RuntimeError("some library's words") from failing(errno.ENOSPC, "/somewhere/file")

        def no_arguments(parser: object) -> None:
            pass

        monkeypatch.setattr(module, "run", full)
        monkeypatch.setattr(module, "add_arguments", no_arguments)
        assert command_line.main([command]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"mnmt-ds {command}: /somewhere/file: no space left"), lines


def test_a_full_standard_output_is_one_line() -> None:
    import subprocess
    import sys

    script = (
        "import sys; from mnmt_ds.cli import export, main; export.add_arguments = lambda parser: None;"
        "export.run = lambda args: print('a plan') or 0; sys.exit(main.main(['export']))"
    )
    for unbuffered in ("", "1"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            )  # fmt: skip
        assert done.returncode == 2 and done.stderr.startswith("mnmt-ds export: standard output: no space left")
        assert done.stderr.count("\n") == 1


def test_the_main_ranks_disk_is_a_users_matter() -> None:
    def full() -> None:
        raise failing(errno.EROFS, "/somewhere/file")

    with pytest.raises(UserError, match="/somewhere/file: the file system is read-only"):
        ALONE.on_main_first(full)


def test_a_record_is_logged_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a record; the tracker keeps the fault for all ranks."""
    tracker = Tracker(tmp_path, TrackingSettings(), True, "run")
    tracker.log("train", 1, 0.5, {"x": 1.0})
    before = tracker.path.read_bytes()
    tracker.path.unlink()
    tracker.path.symlink_to("/dev/full")
    tracker.log("train", 2, 0.5, {"x": 1.0})
    assert str(tracker.fault).startswith(f"{tracker.path}: no space left") and tracker.records == 1
    tracker.path.unlink()
    tracker.path.write_bytes(before)
    written, count = os.write, iter((5, None))

    def half(descriptor: int, data: bytes) -> int:
        if (size := next(count)) is None:
            raise failing(errno.ENOSPC)
        return written(descriptor, data[:size])

    monkeypatch.setattr(files, "write_all", lambda descriptor, data: [half(descriptor, data) for _ in range(2)])
    with pytest.raises(OSError, match="No space"):
        files.append_line(tracker.path, "a further record")
    assert tracker.path.read_bytes() == before


def test_a_log_goes_back_to_where_a_checkpoint_was_written(tmp_path: Path) -> None:
    """Records after it go, also those of the same update; the log is not written where nothing changes."""
    tracker = Tracker(tmp_path, TrackingSettings(), True, "run")
    for kind, update in (("run", 0), ("train", 1), ("train", 2), ("valid", 2), ("sampler", 2), ("train", 3)):
        tracker.log(kind, update, 0.0, {})
    assert tracker.records == 5
    tracker.rewind(2, 2)
    assert [record["kind"] for record in read_records(tracker.path)] == ["run", "train", "train"]
    assert tracker.records == 2
    inode = tracker.path.stat().st_ino
    tracker.rewind(2)
    assert tracker.path.stat().st_ino == inode
    with tracker.path.open("a") as file:
        file.write('{"kind": "train", "upda')
    tracker.rewind(2)
    tracker.log("valid", 2, 0.0, {})
    assert [record["kind"] for record in read_records(tracker.path)] == ["run", "train", "train", "valid"]


def test_links_are_followed(tmp_path: Path) -> None:
    """Also chains, and those to what is not there yet; the link stays a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "target").write_text("old")
    (tmp_path / "chain").symlink_to("link")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("real/new")
    (tmp_path / "circle").symlink_to("circle")
    for name, target in (("chain", "target"), ("dangling", "real/new")):
        files.write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink() and (tmp_path / target).read_text() == "new"
    with pytest.raises(OSError, match="symbolic links"):
        files.write_text(tmp_path / "circle", "new")
    assert (tmp_path / "circle").is_symlink() and sorted(os.listdir(tmp_path / "real")) == ["new"]


def test_fifos_devices_and_descriptors_are_written_to(tmp_path: Path) -> None:
    fifo, got = tmp_path / "fifo", []
    os.mkfifo(fifo)
    (tmp_path / "to fifo").symlink_to("fifo")
    for path in (fifo, tmp_path / "to fifo"):
        reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
        reader.start()
        with files.writing(path) as stream:
            stream.write(b"lines\n")
        reader.join(10)
        assert got.pop() == "lines\n" and stat.S_ISFIFO(fifo.stat().st_mode)
    if os.geteuid() == 0:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        files.write_text(tmp_path / "null", "gone")
        assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)
    with (tmp_path / "log").open("w+") as log:
        log.write("before\n")
        log.flush()
        for number, name in enumerate((f"/dev/fd/{log.fileno()}", f"/proc/self/fd/{log.fileno()}")):
            files.write_text(Path(name), f"line {number}\n")
        assert (tmp_path / "log").read_text() == "before\nline 0\nline 1\n"
    assert not list(tmp_path.glob(".*"))

"""Old checkpoints are removed by health: what is damaged, half removed or no checkpoint never costs a good one."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.checkpoint_writer import WrittenFiles
from mnmt_ds.distributed import ALONE
from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.engine.checkpointing.retention import CheckpointRetention
from mnmt_ds.engine.checkpointing.verification import fault_of
from mnmt_ds.errors import UserError
from mnmt_ds.study.run_state import has_ended


class StandIn:
    """An engine whose training state is a line of text."""

    error: Exception | None = None

    def save_checkpoint(self, directory: Path, tag: str) -> WrittenFiles:
        (directory / tag).mkdir()
        (directory / tag / "states.pt").write_text(directory.name * 50)
        return WrittenFiles({}, self.error)


def save(run: Path, update: int, error: Exception | None = None) -> Path:
    engine = StandIn()
    engine.error = error
    engines: Any = {"student": engine}
    return checkpoint.save(run, engines, {"update": update, "snapshots": [update]}, 3 * 10**6, lambda: ALONE)


def names(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()} - {"last"}


def damage(path: Path) -> None:
    file = path / "student" / "states.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")


def half_remove(path: Path) -> None:
    (path / "manifest.json").unlink()
    (path / "state.json").unlink()


SPOILT = {
    "damaged": damage,
    "half removed": half_remove,
    "without state": lambda path: (path / "state.json").unlink(),
    "garbled manifest": lambda path: (path / "manifest.json").write_text("[1, 2]"),
    "of another user": lambda path: [os.chown(file, 12345, 12345) for file in path.rglob("*") if file.is_file()],
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_does_not_verify_never_counts(kind: str, tmp_path: Path) -> None:
    """Among newer and older ones: the two newest good ones stay, as does all that is newer than they are."""
    if kind == "of another user" and os.geteuid():
        pytest.skip("only root gives files away")
    said: list[str] = []
    for update in (2, 4, 6, 8, 11, 12):
        save(tmp_path, update)
    for update in (6, 8, 11, 12):
        SPOILT[kind](tmp_path / "checkpoints" / f"step_{update}")
    newest = checkpoint.newest(tmp_path, said.append, ALONE)
    assert newest is not None and newest[0].name == "step_4" and len(said) == 4
    retention = CheckpointRetention(tmp_path, 2, said.append)
    for update in (9, 10):
        retention.remove_old(save(tmp_path, update))
        assert names(tmp_path) >= {f"step_{update}", "step_9" if update == 10 else "step_4", "step_11", "step_12"}
    assert checkpoint.newest(tmp_path, said.append, ALONE) is not None
    assert sum("step_8 does not count" in line for line in said) == 1, "said once"
    for update in (11, 12):  # what was damaged there is replaced
        retention.remove_old(save(tmp_path, update))
    assert {"step_11", "step_12"} <= names(tmp_path) and "step_4" not in names(tmp_path)
    assert all(fault_of(tmp_path / "checkpoints" / f"step_{n}") is None for n in (11, 12))


def test_strays_are_named_and_passed_over(tmp_path: Path) -> None:
    """Files, broken links, names that do not parse, empty directories; also where a checkpoint has to go."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step_99").mkdir()
    (folder / "step_5").write_text("a file")
    (folder / "step_6").symlink_to("nowhere")
    for name in ("step_x", "step_²", "step_007", "step_", "step_-3", "step_1.5", "step_3 (copy)"):
        (folder / name).mkdir()
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append, ALONE) is None, "there never was a checkpoint"
    assert len(said) == 10 and all(line.startswith(f"{folder}/step_") for line in said)
    assert not has_ended(tmp_path)
    retention = CheckpointRetention(tmp_path, 1, said.append)
    for update in (5, 6, 99):
        retention.remove_old(save(tmp_path, update))
        newest = checkpoint.newest(tmp_path, said.append, ALONE)
        assert newest is not None and newest[1]["update"] == update
    assert {"step_x", "step_007"} < names(tmp_path) and not {"step_5", "step_6"} & names(tmp_path)


def test_links_are_read_and_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 2)
    elsewhere = tmp_path / "large disk"
    (tmp_path / "checkpoints" / "step_2").rename(elsewhere)
    (tmp_path / "checkpoints" / "step_2").symlink_to(elsewhere)
    newest = checkpoint.newest(tmp_path, pytest.fail, ALONE)
    assert newest is not None and newest[0].name == "step_2"
    retention = CheckpointRetention(tmp_path, 1, pytest.fail)
    for update in (3, 4):
        retention.remove_old(save(tmp_path, update))
    assert names(tmp_path) == {"step_2", "step_4"} and fault_of(elsewhere) is None


def test_where_all_are_damaged_nothing_begins_anew(tmp_path: Path) -> None:
    damage(save(tmp_path, 2))
    with pytest.raises(UserError, match="no checkpoint verifies"):
        checkpoint.newest(tmp_path, lambda line: None, ALONE)


def test_a_good_checkpoint_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """... and again when a file of it has changed since."""
    hashed: list[str] = []
    retention = CheckpointRetention(tmp_path, 2, lambda line: None)
    monkeypatch.setattr(
        "mnmt_ds.engine.checkpointing.retention.fault_of",
        lambda path: hashed.append(path.name) or fault_of(path),
    )
    for update in (1, 2, 3):
        retention.remove_old(save(tmp_path, update))
    assert not hashed
    damage(tmp_path / "checkpoints" / "step_3")
    retention.remove_old(save(tmp_path, 4))
    assert hashed == ["step_3"] and names(tmp_path) == {"step_2", "step_3", "step_4"}


def test_a_new_state_replaces_the_old_one_alone(tmp_path: Path) -> None:
    """Its other files are not written again; killed between the two renames, the old one is put back."""
    path = save(tmp_path, 2)
    inode = (path / "student" / "states.pt").stat().st_ino
    checkpoint.replace_state(tmp_path, {"update": 2, "validated": 2}, ALONE)
    assert checkpoint.read_state(path) == {"update": 2, "validated": 2} and fault_of(path) is None
    assert (path / "student" / "states.pt").stat().st_ino == inode and names(tmp_path) == {"step_2"}
    path.rename(path.with_name("step_2.old"))
    path.with_name("step_2.tmp").mkdir()
    newest = checkpoint.newest(tmp_path, pytest.fail, ALONE)
    assert newest is not None and newest[0] == path and names(tmp_path) == {"step_2"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_costs_this_save_alone(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether DeepSpeed's files, ours, a flush or a renaming fail: one line, nothing half, what was there stays."""
    before = save(tmp_path, 2)
    failing = OSError(number, os.strerror(number))
    with pytest.raises(UserError) as caught:
        save(tmp_path, 4, failing)
    places = [str(caught.value)]
    for name in ("fsync", "rename", "replace"):
        with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
            patch.setattr(os, name, lambda *arguments, error=failing, **named: (_ for _ in ()).throw(error))
            save(tmp_path, 4)
        places.append(str(caught.value))
        failing.filename = None
    for line in places:
        assert line.startswith(f"{tmp_path}/checkpoints") and "\n" not in line
        assert number == errno.EIO or "about 3 MB are needed" in line
    assert names(tmp_path) - {"step_4"} == {"step_2"} and fault_of(before) is None
    checkpoint.newest(tmp_path, pytest.fail, ALONE)

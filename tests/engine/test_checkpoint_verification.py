"""A checkpoint is read only where none but its owner could have written it and its manifest names every file."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from mnmt_ds.engine.checkpointing.verification import fault_of, write_manifest
from mnmt_ds.engine.parallel.loading import weights_only
from mnmt_ds.errors import UserError
from mnmt_ds.files import sha256


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory in the form of a checkpoint, written under a umask that lets the group write."""
    before = os.umask(0o002)
    try:
        path = tmp_path / "run" / "checkpoints" / "step_7"
        (path / "student").mkdir(parents=True)
        (path / "student" / "mp_rank_00_model_states.pt").write_bytes(b"weights")
        (path / "state.json").write_text("{}")
        write_manifest(path, {str(p.relative_to(path)): sha256(p) for p in path.rglob("*") if p.is_file()})
    finally:
        os.umask(before)
    assert fault_of(path) is None
    return path


def test_others_can_write_nothing_of_a_new_checkpoint(checkpoint: Path) -> None:
    for path in (checkpoint.parent, checkpoint, *checkpoint.rglob("*")):
        assert path.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("mode", [0o020, 0o002])
@pytest.mark.parametrize(
    "name", ["..", ".", "student", "state.json", "manifest.json", "student/mp_rank_00_model_states.pt"]
)
def test_what_others_could_write_is_refused(checkpoint: Path, name: str, mode: int) -> None:
    path = checkpoint.parent if name == ".." else checkpoint / name
    path.chmod(path.stat().st_mode | mode)
    assert str(fault_of(checkpoint)).startswith(f"{path} can be written by others")


def test_all_may_not_write_a_runs_directory_but_its_group_may(checkpoint: Path) -> None:
    run = checkpoint.parent.parent
    run.chmod(0o775)
    assert fault_of(checkpoint) is None
    run.chmod(0o777)
    assert str(fault_of(checkpoint)).startswith(f"{run} can be written by others")
    run.chmod(0o1777)
    assert fault_of(checkpoint) is None, "sticky: none renames the checkpoints there"
    run.chmod(0o777)
    write_manifest(checkpoint, {str(p.relative_to(checkpoint)): sha256(p) for p in checkpoint.rglob("*.*")
                                if p.name != "manifest.json"})  # fmt: skip
    assert fault_of(checkpoint) is None and run.stat().st_mode & 0o777 == 0o775


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
@pytest.mark.parametrize("sticky", [0, 0o1000])
@pytest.mark.parametrize("name", ["../..", "..", ".", "student", "state.json", "manifest.json"])
def test_what_belongs_to_another_user_is_refused(checkpoint: Path, name: str, sticky: int) -> None:
    """The owner of a sticky directory renames in it what it likes."""
    path = {"..": checkpoint.parent, "../..": checkpoint.parent.parent}.get(name, checkpoint / name)
    path.chmod(path.stat().st_mode | sticky)
    os.chown(path, 12345, -1)
    assert fault_of(checkpoint) == f"{path} belongs to another user"


def add(path: Path) -> Path:
    path.write_bytes(b"more")
    return path


def link(path: Path) -> Path:
    content = path.read_bytes()
    path.unlink()
    other = path.parents[4] / "elsewhere"
    other.write_bytes(content)
    path.symlink_to(other)
    return path


def flip(path: Path) -> Path:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    return path


def remove(path: Path) -> Path:
    path.unlink()
    return path


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (add, "student/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "is not in the checkpoint's manifest.json"),
        (add, "notes.txt", "is not in the checkpoint's manifest.json"),
        (link, "student/mp_rank_00_model_states.pt", "is neither a file nor a directory"),
        (flip, "student/mp_rank_00_model_states.pt", "was altered"),
        (flip, "state.json", "was altered"),
        (flip, "manifest.json", "is missing or garbled"),
        (remove, "state.json", "is missing"),
        (remove, "manifest.json", "is missing or garbled"),
    ],
)
def test_what_the_manifest_does_not_say_is_refused(
    checkpoint: Path, change: Callable[[Path], Path], name: str, said: str
) -> None:
    path = change(checkpoint / name)
    assert str(fault_of(checkpoint)).startswith(f"{path} {said}")


def test_deepspeed_unpickles_the_classes_of_its_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = DynamicLossScaler(4.0, 2.0, 10, 1.0, 1)
    torch.save({"w": torch.ones(2), "scaler": scaler, "stage": ZeroStageEnum.weights}, tmp_path / "good.pt")
    torch.save({"w": torch.ones(2), "half": Fraction(1, 2)}, tmp_path / "odd.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = dict(os.environ)
    with weights_only(tmp_path):
        loaded = torch.load(tmp_path / "good.pt", weights_only=False)
    assert loaded["scaler"].cur_scale == 4.0 and loaded["stage"] is ZeroStageEnum.weights
    with (
        pytest.raises(
            UserError, match=r"^\S+: holds fractions\.Fraction, which no checkpoint has; .*from another one$"
        ),
        weights_only(tmp_path),
    ):
        torch.load(tmp_path / "odd.pt", weights_only=False)
    assert dict(os.environ) == before


class AsGetattr(NamedTuple):
    """Pickled as Python 3.11.0 to 3.11.3 pickle a member of an enumeration."""

    owner: Any
    name: str

    def __reduce_ex__(self, protocol: Any) -> Any:
        return getattr, (self.owner, self.name)


def test_members_of_enumerations_that_older_pythons_wrote(tmp_path: Path) -> None:
    torch.save({"stage": AsGetattr(ZeroStageEnum, "weights")}, tmp_path / "good.pt")
    with weights_only(tmp_path):
        assert torch.load(tmp_path / "good.pt", weights_only=False)["stage"] is ZeroStageEnum.weights
    for owner, name in ((ZeroStageEnum, "mro"), (DynamicLossScaler, "backward"), (torch.Tensor, "numpy")):
        torch.save(AsGetattr(owner, name), tmp_path / "odd.pt")
        with pytest.raises(UserError, match=r"holds \S+, which no checkpoint has"), weights_only(tmp_path):
            torch.load(tmp_path / "odd.pt", weights_only=False)

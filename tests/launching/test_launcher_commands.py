"""What DeepSpeed's launcher is asked for, and what is refused before it is asked."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.errors import UserError
from mnmt_ds.launching import job
from tests.tiny import ROOT

TRAIN = ROOT / "launchers" / "train.py"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[list[str], dict[str, str], str]]:
    """Commands, their environments and the file of variables that DeepSpeed would read, in place of what they start."""
    seen: list[tuple[list[str], dict[str, str], str]] = []

    def supervise(command: Sequence[str], environment: Mapping[str, str], *_: Any) -> int:
        """Notes them."""
        file = environment.get("DS_ENV_FILE")
        seen.append((list(command), dict(environment), Path(file).read_text() if file else ""))
        return 0

    monkeypatch.setattr(job, "supervise", supervise)
    monkeypatch.setattr(job, "PROGRAMS", {"openmpi": "env", "slurm": "no-such-program"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DS_ENV_FILE", raising=False)
    (tmp_path / "two").write_text("a slots=1\nb slots=2\n")
    (tmp_path / "here").write_text("localhost slots=2\n")
    return seen


def test_openmpi_gets_every_value_as_it_is(
    asked: list[tuple[list[str], dict[str, str], str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DeepSpeed would hand on NCCL_SOCKET_IFNAME="^lo" with the quotes, since mpirun goes through no shell."""
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "^lo")
    monkeypatch.setenv("OMPI_MCA_hwloc_base_binding_policy", "socket")
    (tmp_path / ".deepspeed_env").write_text("OF_MINE=a; b\n")
    assert job.launch(["--hostfile", "two", "--launcher", "OpenMPI"], TRAIN, "r.yaml", ["a.b=c d"], checks=False) == 0
    [(command, environment, file)] = asked
    words = command[command.index("env") :]
    assert "--no_python" in command[: command.index("env")] and file == ""
    assert {"NCCL_SOCKET_IFNAME=^lo", "OF_MINE=a; b"} < set(words)
    assert words[-5:] == [sys.executable, "-u", str(TRAIN), "r.yaml", "a.b=c d"]
    shown = subprocess.run(
        [*words[:-5], "sh", "-c", 'echo "$OF_MINE$NCCL_SOCKET_IFNAME"'], capture_output=True, text=True
    )
    assert shown.stdout == "a; b^lo\n"
    assert environment["OMPI_MCA_hwloc_base_binding_policy"] == "socket"  # the user's own
    assert environment["PRTE_MCA_hwloc_default_binding_policy"] == "none"


def test_this_machine_alone_wants_no_ssh(asked: list[tuple[list[str], dict[str, str], str]]) -> None:
    assert job.launch(["--hostfile", "here"], TRAIN, "r.yaml", [], checks=False) == 0
    [(command, environment, _)] = asked
    assert "--no_ssh_check" in command and command[command.index("--master_addr") + 1] == "127.0.0.1"
    assert "DS_ENV_FILE" not in environment


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--launcher openmpi --num_gpus 1", "--launcher openmpi: takes no --include, --exclude, --num_nodes"),
        ("--launcher openmpi --include a@b:0", "--launcher openmpi: takes no --include, --exclude, --num_nodes"),
        ("--launcher slurm", "--launcher slurm: no-such-program is not installed here"),
        ("--launcher mpirun", "--launcher mpirun: DeepSpeed has none of that name; it has pdsh,"),
    ],
)
def test_refused_before_the_start(asked: list[Any], options: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        job.launch([*shlex.split(options), "--hostfile", "two"], TRAIN, "r.yaml", [], checks=False)
    assert str(caught.value).startswith(line) and not asked

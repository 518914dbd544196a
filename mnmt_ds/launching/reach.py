"""How a command reaches a node: as a child process on this one, by ssh, or by srun within a Slurm allocation."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = ("localhost", "127.0.0.1")
PASSED = (
    "DS_ACCELERATOR", "GLOO_", "HF_", "LD_LIBRARY_PATH", "MKL_", "MNMT_DS_", "NCCL_", "OMP_", "PYTHON",
    "TORCH_", "UCX_", "WANDB_DIR", "WANDB_MODE", "XDG_CACHE_HOME",
)  # fmt: skip
"""Beginnings of the names of variables that every node is to have as this one has them. No secrets: they would stand
in command lines for all to see."""
UNSAFE = frozenset('"$`\\\n')
"""Characters that DeepSpeed does not quote."""


class Reach(NamedTuple):
    """The way to the nodes of a job."""

    launcher: str = "pdsh"
    """DeepSpeed's runner: pdsh and openmpi go by ssh, slurm by srun."""
    ssh_port: int | None = None

    def command(self, node: str, words: Sequence[str], variables: Mapping[str, str]) -> list[str]:
        """Words to run so that ``words`` run on the node, in this directory and with these variables."""
        if is_here(node):
            return ["env", *(f"{name}={value}" for name, value in variables.items()), *words]
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        line = f"cd {shlex.quote(os.getcwd())} && exec env {exports} {shlex.join(words)}"
        if self.launcher == "slurm":
            return ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "bash", "-c", line]
        port = [] if self.ssh_port is None else ["-p", str(self.ssh_port)]
        own = shlex.split(os.environ.get("PDSH_SSH_ARGS_APPEND", ""))  # what pdsh gives to its ssh, too
        alive = ["-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=3", "-o", "ConnectTimeout=10"]
        return ["ssh", "-x", "-o", "BatchMode=yes", *alive, *port, *own, node, line]

    def refused(self, code: int) -> bool:
        """Whether an exit code is the transport's own: the node was not reached, or was lost."""
        return code == 255


def is_here(node: str) -> bool:
    """Whether a hostfile's name means this machine for certain."""
    return node in (*HERE, socket.gethostname())


def passed_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What of the environment every node of the job is given, the directory of the job first in PYTHONPATH."""
    found = {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED) and value and not UNSAFE & set(value)
    }
    found["PATH"] = ":".join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])  # ninja is there
    found["PYTHONPATH"] = ":".join(filter(None, [str(Path.cwd()), environment.get("PYTHONPATH", "")]))
    return found


def python(module: str, *arguments: str) -> list[str]:
    """A module under this interpreter, which every node has at the same path."""
    return [sys.executable, "-m", module, *arguments]


def run(reach: Reach, node: str, words: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """Runs a command on a node; subprocess.TimeoutExpired after ``seconds``."""
    command = reach.command(node, words, passed_variables())
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)

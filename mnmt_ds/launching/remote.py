"""Runs commands on a job's nodes: as a child process on this one, by ssh, or by srun within a Slurm allocation."""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LOCAL_NAMES = ("localhost", "127.0.0.1")
FORWARDED_NAMES = frozenset({
    "DS_ACCELERATOR", "HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "HF_HOME", "HF_HUB_CACHE",
    "HF_HUB_OFFLINE", "LD_LIBRARY_PATH", "WANDB_DIR", "WANDB_MODE", "XDG_CACHE_HOME",
})  # fmt: skip
"""Names of variables that every node is to have as this one has them."""
FORWARDED_PREFIXES = ("GLOO_", "KMP_", "MKL_", "MNMT_DS_", "NCCL_", "OMP_", "PYTHON", "TORCH_", "UCX_")
"""Beginnings of the names of others. No secrets, whatever their names begin with: see ``is_secret``."""
SECRET_NAME = re.compile(
    r"(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|CREDENTIALS?|APIKEYS?|(^|_)KEYS?|(^|_)AUTH)(_|$)", re.IGNORECASE
)
SECRET_VALUE = re.compile(r"://[^/\s]*:[^/\s]*@")
UNSAFE_CHARACTERS = frozenset('"$`\\\n')
"""Characters that DeepSpeed does not quote."""


class RemoteShell(NamedTuple):
    """Builds the commands that reach the nodes of a job, by ssh or srun."""

    launcher: str = "pdsh"
    """DeepSpeed's runner: pdsh and openmpi go by ssh, slurm by srun."""
    ssh_port: int | None = None
    """Port of the nodes' ssh; None: ssh's own default."""

    def command(self, node: str, argv: Sequence[str], variables: Mapping[str, str]) -> list[str]:
        """Makes the command that runs another one on a node.

        Args:
            node: the node's name, as in the hostfile.
            argv: program and arguments to run there, in this process's working directory.
            variables: environment variables to set for it.

        Returns:
            Program and arguments to run here.
        """
        if is_local(node):
            return ["env", *(f"{name}={value}" for name, value in variables.items()), *argv]
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        line = f"cd {shlex.quote(os.getcwd())} && exec env {exports} {shlex.join(argv)}"
        if self.launcher == "slurm":
            return ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "bash", "-c", line]
        port = [] if self.ssh_port is None else ["-p", str(self.ssh_port)]
        extra = shlex.split(os.environ.get("PDSH_SSH_ARGS_APPEND", ""))  # what pdsh gives to its ssh, too
        keepalive_options = ["-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=3", "-o", "ConnectTimeout=10"]
        return ["ssh", "-x", "-o", "BatchMode=yes", *keepalive_options, *port, *extra, node, line]

    def unreachable(self, code: int) -> bool:
        """Returns whether an exit code is ssh's or srun's own: the node was not reached, or was lost.

        Args:
            code: exit code of a command of ``command``.

        Returns:
            Whether it is.
        """
        return code == 255


def is_secret(name: str, value: str) -> bool:
    """Returns whether a variable may hold a secret, which must not stand in a command line for all to see.

    Args:
        name: its name, such as HF_TOKEN, WANDB_API_KEY or AWS_SECRET_ACCESS_KEY.
        value: its value; an address with a password in it is a secret, too.

    Returns:
        Whether it may.
    """
    return bool(SECRET_NAME.search(name) or SECRET_VALUE.search(value))


def is_local(node: str) -> bool:
    """Returns whether a hostfile's name means this machine for certain.

    Args:
        node: the name.

    Returns:
        Whether it does.
    """
    return node in (*LOCAL_NAMES, socket.gethostname())


def forwarded_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Picks the environment variables that every node of the job gets, this directory first in PYTHONPATH.

    Args:
        environment: variables of this process.

    Returns:
        Variables by name.
    """
    variables = {
        name: value
        for name, value in environment.items()
        if (name in FORWARDED_NAMES or name.startswith(FORWARDED_PREFIXES))
        and value
        and not UNSAFE_CHARACTERS & set(value)
        and not is_secret(name, value)
    }
    path = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]  # ninja is in the first
    variables["PATH"] = ":".join(path)
    variables["PYTHONPATH"] = ":".join(filter(None, [str(Path.cwd()), environment.get("PYTHONPATH", "")]))
    return variables


def python_command(module: str, *arguments: str) -> list[str]:
    """Makes the command that runs a module under this interpreter, which every node has at the same path.

    Args:
        module: its dotted name.
        arguments: its arguments.

    Returns:
        Program and arguments.
    """
    return [sys.executable, "-m", module, *arguments]


def run_on_node(
    shell: RemoteShell, node: str, argv: Sequence[str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    """Runs a command on a node to its end.

    Args:
        shell: how nodes are reached.
        node: the node's name.
        argv: program and arguments.
        timeout: seconds at most.

    Returns:
        Its exit code and what it printed.

    Raises:
        subprocess.TimeoutExpired: when it takes longer.
    """
    command = shell.command(node, argv, forwarded_variables())
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)

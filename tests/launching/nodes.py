"""Two nodes on one machine: network namespaces joined by a pair of virtual interfaces, with an ssh server in each."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mnmt_ds.config import dump
from tests.tiny import recipe

TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "pdsh", "unshare", "mount")
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
ALTERED_PORT = 2223


def why_not() -> str:
    """Empty where two nodes can be made here, else the reason."""
    missing = [name for name in TOOLS if shutil.which(name, path=PLACES) is None]
    if missing:
        return f"two nodes: not installed: {', '.join(missing)} (Debian: iproute2 openssh-server pdsh)"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True)
    return f"two nodes: no namespaces here ({tried.stderr.strip()})" if tried.returncode or os.getuid() else ""


def write_recipe(corpus: Path, run: Path, updates: int) -> Path:
    """LSSD with rates high enough for pairs to turn worse, so that teachers teach."""
    made = recipe(
        corpus,
        run,
        method={"name": "lssd"},
        model={"dropout": 0.2},
        validation={"every": 6},
        train={"max_steps": updates, "max_epochs": 10**6, "lr": 2e-2, "warmup_steps": 2, "save_every": 4},
    )
    path = run.with_suffix(".yaml")
    path.write_text(dump(made), encoding="utf-8")
    return path


class Nodes(NamedTuple):
    """node-a, where jobs are started, and node-b; node-c is node-b with some files exchanged for others."""

    directory: Path
    spaces: tuple[str, str]

    def popen(self, words: Sequence[str], cwd: Path, **variables: str) -> "subprocess.Popen[str]":
        """A command on node-a, its output in one stream."""
        own = {
            "GLOO_SOCKET_IFNAME": "eth0", "PDSH_SSH_ARGS_APPEND": f"-F {self.directory / 'config'}",
            "PATH": PLACES,
        }  # fmt: skip
        return subprocess.Popen(
            ["ip", "netns", "exec", self.spaces[0], *words], cwd=cwd, env={**os.environ, **own, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def processes(self, which: int) -> list[int]:
        """All processes on a node."""
        return processes(self.spaces[which])

    def ranks(self, which: int) -> list[int]:
        """Training processes on a node."""
        found = []
        for number in self.processes(which):
            try:
                words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            launcher = b"deepspeed.launcher.launch" in words or any(w.endswith((b"/deepspeed", b"pdsh")) for w in words)
            if any(word.endswith(b"launchers/train.py") for word in words) and not launcher and b"-c" not in words:
                found.append(number)
        return found

    def kill(self, which: int) -> None:
        """Everything on a node ends at once, the ssh server too."""
        for number in self.processes(which):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def cut_off(self, which: int) -> None:
        """A node's network is gone; no connection is closed in order."""
        run("ip", "netns", "exec", self.spaces[which], "ip", "link", "set", "eth0", "down")

    def alter(self, exchanged: dict[Path, Path]) -> None:
        """Starts node-c: node-b, but each of these paths shows another's contents there."""
        mounts = "".join(f"mount --bind '{other}' '{path}' && " for path, other in exchanged.items())
        server = f"{mounts} exec {_sshd()} -D -f {self.directory}/sshd_b -p {ALTERED_PORT} -o PidFile=none"
        subprocess.Popen(["ip", "netns", "exec", self.spaces[1], "unshare", "--mount", "sh", "-c", server])
        self.wait("node-c")

    def wait(self, name: str) -> None:
        """Waits until a node answers."""
        for _ in range(50):
            process = self.popen(["ssh", "-F", str(self.directory / "config"), name, "true"], Path.cwd())
            if process.wait() == 0:
                return
            time.sleep(0.2)
        raise AssertionError(f"{name} does not answer: {process.communicate()[0]}")


@contextmanager
def two_nodes(directory: Path) -> Iterator[Nodes]:
    """Makes them, and ends all that runs on them."""
    directory.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(exist_ok=True)
    spaces = (f"mnmt{os.getpid()}a", f"mnmt{os.getpid()}b")
    nodes = Nodes(directory, spaces)
    for key in ("key", "host"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key))
    hosts = {"node-a": ("10.77.0.1", 2222), "node-b": ("10.77.0.2", 2222), "node-c": ("10.77.0.2", ALTERED_PORT)}
    (directory / "config").write_text(
        "".join(f"Host {name}\n HostName {at}\n Port {port}\n" for name, (at, port) in hosts.items())
        + "Host 10.77.0.*\n Port 2222\n"
        + f"Host *\n IdentityFile {directory}/key\n IdentitiesOnly yes\n StrictHostKeyChecking no\n"
        + " UserKnownHostsFile /dev/null\n LogLevel ERROR\n"
    )
    with namespaces(spaces):
        for letter in "ab":
            (directory / f"sshd_{letter}").write_text(
                f"Port 2222\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/key.pub\nStrictModes no\n"
                f"PidFile none\nPermitRootLogin prohibit-password\n"
            )
        for space, letter in zip(spaces, "ab", strict=True):
            run("ip", "netns", "exec", space, _sshd(), "-f", str(directory / f"sshd_{letter}"))
            nodes.wait(f"node-{letter}")
        yield nodes


@contextmanager
def namespaces(spaces: tuple[str, str]) -> Iterator[None]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2 on their eth0; at the end all that runs in them ends, too.

    A process of its own sees to that, also where this one is killed.
    """
    kill = "for n in 1 2 3; do kill -9 $(ip netns pids $space) && sleep 0.1; done; ip netns del $space"
    guard = subprocess.Popen(
        ["sh", "-c", f"cat; for space; do {kill}; done 2> /dev/null", "sh", *spaces], stdin=subprocess.PIPE,
        env={**os.environ, "PATH": PLACES}, start_new_session=True,
    )  # fmt: skip
    try:
        for space in spaces:
            run("ip", "netns", "add", space)
        run("ip", "link", "add", "mnmtveth", "netns", spaces[0], "type", "veth", "peer", "name", "eth0", "netns",
            spaces[1])  # fmt: skip
        run("ip", "-n", spaces[0], "link", "set", "mnmtveth", "name", "eth0")
        for number, space in enumerate(spaces, start=1):
            run("ip", "-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", space, "link", "set", device, "up")
        yield
    finally:
        guard.communicate()


def processes(space: str) -> list[int]:
    """All processes in a namespace."""
    return [int(number) for number in run("ip", "netns", "pids", space).split()]


def _sshd() -> str:
    """sshd wants its absolute path."""
    return str(shutil.which("sshd", path=PLACES))


def run(*words: str) -> str:
    """What a command says; it must end well."""
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PATH": PLACES})
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout

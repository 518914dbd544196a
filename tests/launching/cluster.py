"""A small real Slurm on two nodes of one machine: its own key, controller and daemons, all in one directory."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.launching.nodes import PLACES, namespaces
from tests.spawn import PATIENCE

TOOLS = ("ip", "unshare", "mount", "hostname", "munged", "slurmctld", "slurmd", "sbatch", "salloc", "srun", "scontrol")
NAMES = ("node-a", "node-b")
CONFIGURATION = """\
ClusterName=tiny
SlurmctldHost=node-a(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/linear
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmctldParameters={controller}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
NodeName=node-a NodeAddr=10.77.0.1 CPUs=2
NodeName=node-b NodeAddr=10.77.0.2 CPUs=2
PartitionName=DEFAULT Nodes=node-a,node-b MaxTime=60 State=UP
PartitionName=low Default=YES PriorityTier=1 GraceTime=60
PartitionName=abrupt PriorityTier=1
PartitionName=urgent PriorityTier=2 PreemptMode=OFF
"""


def why_not() -> str:
    """Empty where such a cluster can be made here, else the reason."""
    missing = [name for name in TOOLS if shutil.which(name, path=PLACES) is None]
    if missing:
        return f"Slurm: not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge iproute2)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True)
    return f"Slurm: no namespaces here ({tried.stderr.strip()})" if tried.returncode or os.getuid() else ""


class Cluster(NamedTuple):
    """node-a, with the controller, and node-b; jobs are submitted on node-a."""

    directory: Path
    spaces: tuple[str, str]

    def popen(
        self, words: Sequence[str], cwd: Path, which: int = 0, output: Path | None = None, **variables: str
    ) -> "subprocess.Popen[str]":
        """A command on a node, which goes by the node's name; its output in one stream, or one file."""
        enter = f"hostname {NAMES[which]} && mount --bind '{self.directory}/hosts' /etc/hosts && exec \"$@\""
        own = {"SLURM_CONF": str(self.directory / "slurm.conf"), "PATH": PLACES}
        with open(os.devnull if output is None else output, "w") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.spaces[which], "unshare", "--uts", "sh", "-c", enter, "sh", *words],
                cwd=cwd, env={**os.environ, **own, **variables}, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if output is None else file, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

    def say(self, *words: str, cwd: Path = Path("/"), **variables: str) -> str:
        """What a command on node-a says; it must end well."""
        process = self.popen(words, cwd, **variables)
        output = process.communicate(timeout=60 * PATIENCE)[0]
        assert process.returncode == 0, f"{' '.join(words)}: {output}"
        return output

    def ready(self) -> bool:
        """Whether the controller answers, and has both nodes."""
        process = self.popen(["sinfo", "-h", "-N", "-o", "%T", "-p", "low"], Path("/"))
        return process.communicate(timeout=60 * PATIENCE)[0].split() == ["idle", "idle"]

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        return dict(word.partition("=")[::2] for word in self.say("scontrol", "-o", "show", "job", number).split())


@contextmanager
def cluster(directory: Path, controller: str = "") -> Iterator[Cluster]:
    """Starts one; stops all its daemons and jobs. ``controller``: SlurmctldParameters."""
    directory.mkdir(mode=0o755)
    made = Cluster(directory, (f"slurm{os.getpid()}a", f"slurm{os.getpid()}b"))
    (directory / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 node-a\n10.77.0.2 node-b\n")
    (directory / "slurm.conf").write_text(
        CONFIGURATION.format(directory=directory, controller=controller).replace("SlurmctldParameters=\n", "")
    )
    (directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    for name in ("state", *(f"spool-{name}" for name in NAMES)):
        (directory / name).mkdir()
    key = directory / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = ("socket", "key-file", "pid-file", "log-file", "seed-file")
    munge = [f"--{name}={directory}/munge.{name.removesuffix('-file')}" for name in files]
    daemons = {
        "munged": (0, "munged", "--foreground", "--force", *munge),
        "slurmctld": (0, "slurmctld", "-D", "-i"),
        **{f"slurmd {name}": (which, "slurmd", "-D", "-N", name) for which, name in enumerate(NAMES)},
    }
    with namespaces(made.spaces):
        started = {}
        for name, (which, *words) in daemons.items():
            started[name] = made.popen(words, directory, which, directory / f"{name}.out")
            _wait(directory, started, (directory / "munge.socket").exists)
        _wait(directory, started, made.ready)
        yield made


def _wait(directory: Path, started: "Mapping[str, subprocess.Popen[str]]", what: Callable[[], bool]) -> None:
    """Until something is so; what was started must run until then."""
    until = time.monotonic() + 60 * PATIENCE
    while not what():
        ended = [name for name, process in started.items() if process.poll() is not None]
        assert not ended, (directory / f"{ended[0]}.out").read_text()
        assert time.monotonic() < until, f"{', '.join(started)}: not ready after a minute"
        time.sleep(0.2)

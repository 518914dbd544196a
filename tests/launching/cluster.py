"""A small real Slurm on two nodes of one machine: its own key, controller and daemons, all in one directory."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.launching.nodes import PLACES, kill_all, namespaces
from tests.spawn import PATIENCE

TOOLS = ("ip", "unshare", "mount", "hostname", "munged", "slurmctld", "slurmd", "sbatch", "salloc", "srun", "scontrol")
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

    def popen(self, words: Sequence[str], cwd: Path, which: int = 0, **variables: str) -> "subprocess.Popen[str]":
        """A command on a node, which goes by the node's name; its output in one stream."""
        name = "node-" + "ab"[which]
        enter = f"hostname {name} && mount --bind '{self.directory}/hosts' /etc/hosts && exec \"$@\""
        own = {"SLURM_CONF": str(self.directory / "slurm.conf"), "PATH": PLACES}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.spaces[which], "unshare", "--uts", "sh", "-c", enter, "sh", *words], cwd=cwd,
            env={**os.environ, **own, **variables}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def say(self, *words: str, cwd: Path = Path("/"), **variables: str) -> str:
        """What a command on node-a says; it must end well."""
        process = self.popen(words, cwd, **variables)
        output = process.communicate(timeout=60 * PATIENCE)[0]
        assert process.returncode == 0, f"{' '.join(words)}: {output}"
        return output

    def answers(self) -> bool:
        """Whether the controller does."""
        return self.popen(["scontrol", "ping"], Path("/")).wait(60 * PATIENCE) == 0

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
    for name in ("state", "spool-node-a", "spool-node-b"):
        (directory / name).mkdir()
    key = directory / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    munge = [f"--{name}={directory}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]
    started = []
    with namespaces(made.spaces):
        try:
            started.append(made.popen(["munged", "--foreground", "--force", *munge], directory))
            while not (directory / "munge.socket").exists():
                assert started[0].poll() is None, started[0].communicate()[0]
                time.sleep(0.1)
            started.append(made.popen(["slurmctld", "-D", "-i"], directory))
            for which in (0, 1):
                started.append(made.popen(["slurmd", "-D", "-N", "node-" + "ab"[which]], directory, which))
            until = time.monotonic() + 60 * PATIENCE
            while not made.answers() or made.say("sinfo", "-h", "-N", "-o", "%T", "-p", "low").split() != ["idle", "idle"]:
                for process in started:
                    assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < until, made.say("scontrol", "show", "nodes")
                time.sleep(0.5)
            yield made
        finally:
            for space in made.spaces:
                kill_all(space)
            for process in started:
                process.communicate()

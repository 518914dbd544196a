"""``launchers/slurm.sh`` under a real Slurm (tests/launching/cluster.py): its losses, its ends, its next starts."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnmt_ds.tracking import read_records
from tests.launching.cluster import Cluster, cluster, why_not
from tests.launching.nodes import PLACES, processes, write_recipe
from tests.spawn import PATIENCE
from tests.tiny import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
UPDATES = 90
HERE = {
    "MNMT_DS_ENV": "current", "PATH": f"{Path(sys.executable).parent}:{PLACES}", "PYTHONPATH": str(ROOT),
}  # fmt: skip
"""The script takes the Python environment that runs the tests."""


def training(run: Path) -> list[tuple[float, float]]:
    """Of each update its loss and what teachers said."""
    path = run / "metrics.jsonl"
    records = read_records(path) if path.exists() else []
    return [(record["train/loss"], record.get("train/kd_loss", 0.0)) for record in records if record["kind"] == "train"]


@pytest.fixture(scope="module")
def whole(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, float]]:
    """What two ranks on this machine say that were never disturbed."""
    run = tmp_path_factory.mktemp("local") / "whole"
    words = [sys.executable, str(ROOT / "launchers" / "launch.py"), "--num_gpus", "2"]
    done = subprocess.run(
        [*words, str(write_recipe(tiny_corpus, run, UPDATES))], cwd=ROOT, capture_output=True, text=True,
        timeout=300 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = training(run)
    assert len(found) == UPDATES and any(kd > 0 for _, kd in found), "no teacher taught"
    return found


class Job:
    """A recipe under ``slurm.sh`` on both nodes."""

    def __init__(self, slurm: Cluster, path: Path, *words: str, partition: str = "low") -> None:
        self.slurm, self.path, self.run, self.log = slurm, path, path.with_suffix(""), path.with_suffix(".log")
        script = str(ROOT / "launchers" / "slurm.sh")
        options = ["--parsable", "--nodes=2", f"--partition={partition}", f"--output={self.log}"]
        self.number = slurm.say("sbatch", *options, script, str(path), *words, cwd=ROOT, **HERE).split()[-1]

    def facts(self) -> dict[str, str]:
        return self.slurm.job(self.number)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self, what: Callable[[], object], seconds: float = 240, step: float = 0.5) -> None:
        """Until something is so; the job must not end before."""
        until = time.monotonic() + seconds * PATIENCE
        while not what():
            assert time.monotonic() < until, f"{self.facts()}\n{self.said()}"
            time.sleep(step)

    def reach(self, updates: int) -> None:
        """Waits until so many updates are done."""
        self.wait(lambda: len(training(self.run)) >= updates, step=0.05)

    def start(self, number: int) -> None:
        """Waits until it has started again so often."""
        self.wait(lambda: self.facts()["Restarts"] == str(number) and self.facts()["JobState"] == "RUNNING")

    def end(self) -> str:
        """Waits until Slurm has done with it; its state."""
        self.wait(lambda: self.facts()["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"))
        return self.facts()["JobState"]

    def ranks(self, which: int) -> list[int]:
        """Its training processes on a node."""

        def is_rank(words: list[str]) -> bool:
            return any(word.endswith("launchers/train.py") for word in words[:3]) and str(self.path) in words

        return running(self.slurm, which, is_rank)


def time_limit(job: Job) -> None:
    """What Slurm does --signal=B:USR1@... before it."""
    job.slurm.say("scancel", "--batch", "--signal=USR1", job.number)


def preemption(job: Job) -> None:
    """A job that comes first wants all nodes."""
    job.slurm.say("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")


def requeue(job: Job) -> None:
    job.slurm.say("scontrol", "requeue", job.number)


Losses = list[tuple[float, float]]


def test_two_nodes_give_the_losses_of_the_local_run(tmp_path: Path, tiny_corpus: Path, whole: Losses) -> None:
    """And a run that has ended is not queued again, be it submitted once more."""
    with cluster(tmp_path / "slurm") as slurm:
        for resumed in (False, True):
            job = Job(slurm, write_recipe(tiny_corpus, tmp_path / "run", UPDATES))
            assert job.end() == "COMPLETED", job.said()
            assert job.facts()["Restarts"] == "0" and "back into the queue" not in job.said()
            assert "2 node(s), no fault(s)" in job.said() and "node node-b: 10.77.0.2" in job.said()
            assert (f"resumed at update {UPDATES}" in job.said()) == resumed
            assert training(job.run) == whole


@pytest.mark.parametrize("controller", ["", "preempt_send_user_signal"])
def test_a_job_that_must_leave_goes_on_by_itself(
    tmp_path: Path, tiny_corpus: Path, whole: Losses, controller: str
) -> None:
    """Each time it is back in the queue, and its next start goes on from what was saved; all is as if not."""
    with cluster(tmp_path / "slurm", controller) as slurm:
        job = Job(slurm, write_recipe(tiny_corpus, tmp_path / "run", UPDATES))
        done = 0
        for number, leave in enumerate((preemption,) if controller else (time_limit, preemption, requeue)):
            job.start(number)
            job.reach(done + 3)
            leave(job)
            job.start(number + 1)
            done = len(training(job.run))
            assert done < UPDATES, "it had ended before"
            if leave is not requeue:  # where Slurm ends all at once, that they have saved is likely, but not certain
                assert job.said().count("stopped on request at update") == number + 1, job.said()
        assert job.end() == "COMPLETED", job.said()
        assert job.facts()["Restarts"] == str(number + 1)
        assert f"resumed at update {done}" in job.said()
        assert ("SIGUSR1: asking all ranks" in job.said()) and training(job.run) == whole


def test_preempted_before_training_has_begun(tmp_path: Path, tiny_corpus: Path, whole: Losses) -> None:
    """Ranks that cannot save yet die of SIGTERM; with or without GraceTime the job starts anew."""
    with cluster(tmp_path / "slurm") as slurm:
        for partition in ("low", "abrupt"):
            job = Job(slurm, write_recipe(tiny_corpus, tmp_path / partition, 4), partition=partition)
            job.wait(lambda job=job: job.ranks(1), step=0.05)
            preemption(job)
            job.start(1)
            assert job.end() == "COMPLETED" and len(training(job.run)) == 4, job.said()


def test_a_run_that_fails_or_is_cancelled_is_not_queued_again(tmp_path: Path, tiny_corpus: Path) -> None:
    with cluster(tmp_path / "slurm") as slurm:
        path = write_recipe(tiny_corpus, tmp_path / "run", 10**6)
        faulty = Job(slurm, path, f"data.directory={tmp_path}/nowhere")
        assert faulty.end() == "FAILED" and faulty.facts()["ExitCode"] == "2:0", faulty.said()
        for name in ("node-a", "node-b"):
            assert f"node {name}: {tmp_path}/nowhere/manifest.json: no prepared corpus" in faulty.said()
        assert not (tmp_path / "run" / "metrics.jsonl").exists()

        killed = Job(slurm, path)
        killed.reach(3)
        os.kill(killed.ranks(1)[0], signal.SIGKILL)
        began = time.monotonic()
        while killed.ranks(0) or killed.ranks(1):
            time.sleep(0.05)
        print(f"no rank is left after {(seconds := time.monotonic() - began):.1f} s")
        assert killed.end() == "FAILED" and seconds < 5 * PATIENCE, killed.said()
        assert "srun: error: node-b: task 1: Killed" in killed.said()

        cancelled = Job(slurm, path)
        cancelled.reach(8)
        slurm.say("scancel", cancelled.number)
        assert cancelled.end() == "CANCELLED", cancelled.said()
        for job in (faulty, killed, cancelled):
            assert job.facts()["Restarts"] == "0" and "back into the queue" not in job.said()
            assert not job.ranks(0) and not job.ranks(1)


@pytest.mark.parametrize("which", [0, 1])
def test_a_stopped_rank_is_named_and_nothing_is_left(which: int, tmp_path: Path, tiny_corpus: Path) -> None:
    """On a node of its own, where the other rank cannot end it."""
    with cluster(tmp_path / "slurm") as slurm:
        path, minutes = write_recipe(tiny_corpus, tmp_path / "run", 10**6), 0.75 * PATIENCE
        job = Job(slurm, path, f"train.timeout_minutes={minutes}")
        job.reach(3)
        (stopped,) = job.ranks(which)
        os.kill(stopped, signal.SIGSTOP)
        assert job.end() == "FAILED", job.said()
        (line,) = [line for line in job.said().splitlines() if "the job ends" in line]
        assert f"rank {which} on {('node-a', 'node-b')[which]} (process {stopped}) does not answer" in line, line
        assert job.facts()["Restarts"] == "0" and not job.ranks(0) and not job.ranks(1)


def test_deepspeeds_own_runner_gives_the_losses_of_the_local_run(
    tmp_path: Path, tiny_corpus: Path, whole: Losses
) -> None:
    """In an allocation: asked to stop, it saves; a rank that dies ends it, and its node is named; then to the end."""
    run, path = tmp_path / "run", write_recipe(tiny_corpus, tmp_path / "run", UPDATES)
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    script = str(ROOT / "launchers" / "launch.py")
    words = [sys.executable, script, "--hostfile", str(tmp_path / "hosts"), "--launcher", "slurm", str(path)]
    with cluster(tmp_path / "slurm") as slurm:

        def start() -> "subprocess.Popen[str]":
            options = ["--nodes=2", "--ntasks-per-node=1"]
            return slurm.popen(["salloc", *options, *words, "--resume"], ROOT, **HERE)

        def updated(process: "subprocess.Popen[str]", updates: int) -> None:
            until = time.monotonic() + 240 * PATIENCE
            while len(training(run)) < updates:
                assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
                time.sleep(0.05)

        stopped = start()
        updated(stopped, 3)
        os.kill(running(slurm, 0, lambda words: words[1:2] == [script])[0], signal.SIGTERM)
        said = stopped.communicate(timeout=300 * PATIENCE)[0]
        assert stopped.returncode == 0 and "2 node(s), 2 slot(s): node-a, node-b" in said, said
        saved = len(training(run))
        assert f"stopped on request at update {saved};" in said and saved < UPDATES

        killed = start()
        updated(killed, saved + 3)
        os.kill(running(slurm, 1, lambda words: "srun" not in words[0] and "train.py" in words[2])[0], signal.SIGKILL)
        said = killed.communicate(timeout=300 * PATIENCE)[0]
        assert killed.returncode not in (0, 2) and "srun: error: node-b: task 1: Killed" in said, said

        last = start()
        said = last.communicate(timeout=300 * PATIENCE)[0]
        assert last.returncode == 0 and "resumed at update" in said, said
    assert training(run) == whole


def running(slurm: Cluster, which: int, wanted: Callable[[list[str]], bool]) -> list[int]:
    """Processes on a node, by the words that they were started with."""
    found = []
    for number in processes(slurm.spaces[which]):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{number}/cmdline").read_bytes().decode().split("\0")
            if len(words) > 3 and wanted(words):
                found.append(number)
    return found

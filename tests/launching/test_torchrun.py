"""``launchers/torchrun.sh`` by hand: one node and two, asked to stop, a rank killed; what goes on is the same run.

Ranks that are stopped or killed, also under DeepSpeed's launcher.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnmt_ds.distributed import free_port
from mnmt_ds.tracking import read_records
from tests.launching.nodes import write_recipe
from tests.spawn import PATIENCE
from tests.tiny import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").exists(), reason="finds its processes in /proc")]
UPDATES = 24


def start(ranks: int, path: Path, *words: str, **variables: str) -> "subprocess.Popen[str]":
    """The script, its output in one stream, in a session of its own."""
    here = {"MNMT_DS_ENV": "current", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        ["bash", str(ROOT / "launchers" / "torchrun.sh"), str(ranks), str(path), *words], cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), **here, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def start_two_ranks(launcher: str, path: Path, *words: str) -> "subprocess.Popen[str]":
    """On this machine, under a launcher."""
    if launcher == "torchrun":
        return start(2, path, *words)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launchers" / "launch.py"), "--num_gpus", "2", str(path), *words], cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=300 * PATIENCE)[0]


def training(run: Path) -> list[tuple[float, float]]:
    """Of each update its loss and what teachers said."""
    path = run / "metrics.jsonl"
    records = read_records(path) if path.exists() else []
    return [(record["train/loss"], record.get("train/kd_loss", 0.0)) for record in records if record["kind"] == "train"]


def wait_for(run: Path, process: "subprocess.Popen[str]", updates: int) -> None:
    until = time.monotonic() + 300 * PATIENCE
    while len(training(run)) < updates:
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.05)


def ranks_of(path: Path) -> Iterator[int]:
    """Processes that train a recipe, by the words that they were started with."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.endswith("launchers/train.py") for word in words[:3]) and str(path) in words:
            yield int(entry.name)


def rank_of(pid: int) -> int:
    """A process's rank, by its environment."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(int(word.partition(b"=")[2]) for word in variables if word.startswith(b"RANK="))


def test_what_was_stopped_or_killed_goes_on_as_if_it_had_not_been(tiny_corpus: Path, tmp_path: Path) -> None:
    """Two ranks on one node; then one on each of two: stopped by SIGTERM, gone on with, a rank killed, gone on with."""
    whole = start(2, write_recipe(tiny_corpus, tmp_path / "whole", UPDATES))
    said = ended(whole)
    assert whole.returncode == 0, said
    assert "1 node(s), no fault(s)" in said and "2 rank(s)" in said
    assert len(training(tmp_path / "whole")) == UPDATES
    assert any(kd > 0 for _, kd in training(tmp_path / "whole")), "no teacher taught"
    assert (tmp_path / "whole" / "last").exists()

    run = tmp_path / "run"
    path = write_recipe(tiny_corpus, run, UPDATES)

    def both(*words: str) -> "list[subprocess.Popen[str]]":
        common = {"NODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        return [start(1, path, *words, NODE_RANK=str(number), **common) for number in (0, 1)]

    nodes = both()
    wait_for(run, nodes[0], 3)
    nodes[1].send_signal(signal.SIGTERM)
    said, other = map(ended, nodes)
    assert [node.returncode for node in nodes] == [0, 0], said + other
    assert "asking all ranks to save and leave" in other and "stopped on request at update" in said
    saved = len(training(run))
    assert 3 <= saved < UPDATES and (run / "checkpoints" / "last").resolve().name == f"step_{saved}"

    nodes = both("--resume")
    wait_for(run, nodes[0], saved + 3)
    os.kill(next(ranks_of(path)), signal.SIGKILL)
    began = time.monotonic()
    said, other = map(ended, nodes)
    assert all(node.returncode not in (0, 2) for node in nodes), said + other
    assert time.monotonic() - began < 60 * PATIENCE and not list(ranks_of(path)), "ranks are left"
    assert f"resumed at update {saved}" in said

    last = start(2, path, "--resume")
    said = ended(last)
    assert last.returncode == 0 and "resumed at update" in said, said
    assert training(run) == training(tmp_path / "whole")


def test_ctrl_c_lets_ranks_save_and_a_second_one_ends_them(tiny_corpus: Path, tmp_path: Path) -> None:
    """SIGINT to the script's whole process group, as a terminal sends it."""
    run = tmp_path / "run"
    path = write_recipe(tiny_corpus, run, 10**6)
    once = start(2, path)
    wait_for(run, once, 3)
    os.killpg(once.pid, signal.SIGINT)
    said = ended(once)
    assert once.returncode == 0 and "stopped on request at update" in said, said
    saved = len(training(run))
    assert (run / "checkpoints" / "last").resolve().name == f"step_{saved}" and not list(ranks_of(path))

    twice = start(2, path, "--resume")
    assert twice.stdout is not None
    wait_for(run, twice, saved + 1)
    os.killpg(twice.pid, signal.SIGINT)
    while "asking all ranks" not in (line := twice.stdout.readline()):
        assert line, "it has ended"
    os.killpg(twice.pid, signal.SIGINT)
    assert "once more ends this node's at once" in ended(twice)
    assert twice.returncode != 0 and not list(ranks_of(path))


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_rank_ends_all(which: int, launcher: str, tiny_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = write_recipe(tiny_corpus, run, 10**6)
    job = start_two_ranks(launcher, path)
    wait_for(run, job, 3)
    os.kill(next(pid for pid in ranks_of(path) if rank_of(pid) == which), signal.SIGKILL)
    began = time.monotonic()
    while list(ranks_of(path)):
        time.sleep(0.05)
    seconds = time.monotonic() - began
    said = ended(job)
    print(f"{launcher}, rank {which}: no rank is left after {seconds:.1f} s, launcher {time.monotonic() - began:.1f} s")
    assert job.returncode not in (0, 2) and seconds < 5 * PATIENCE, (seconds, said)


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_stopped_rank_is_named_and_nothing_is_left(
    which: int, launcher: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Rank 0 keeps what the ranks tell one another; the other one has to do without."""
    run = tmp_path / "run"
    path, minutes = write_recipe(tiny_corpus, run, 10**6), 0.75 * PATIENCE
    job = start_two_ranks(launcher, path, f"train.timeout_minutes={minutes}")
    wait_for(run, job, 3)
    stopped = next(pid for pid in ranks_of(path) if rank_of(pid) == which)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    said = ended(job)
    assert job.returncode not in (0, 2) and time.monotonic() - began < 60 * minutes + 30 * PATIENCE, said
    (line,) = [line for line in said.splitlines() if "the job ends" in line]
    assert f"rank {which} on {socket.gethostname()} (process {stopped}) does not answer" in line and "in update" in line
    assert (run / "stacks" / f"rank_{1 - which}.txt").exists() and not list(ranks_of(path)), said


def test_what_is_missing_is_said_before_anything_starts(tiny_corpus: Path, tmp_path: Path) -> None:
    path = write_recipe(tiny_corpus, tmp_path / "run", UPDATES)
    alone = start(1, path, NODES="2")
    assert "say NODE_RANK=0" in ended(alone) and alone.returncode == 2
    faulty = start(1, path, f"data.directory={tmp_path}/nowhere")
    said = ended(faulty)
    assert faulty.returncode == 2 and "nowhere" in said, said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

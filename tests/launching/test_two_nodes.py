"""A job on two nodes (tests/launching/nodes.py), by hostfile, ssh and pdsh: its losses, its failures, its refusals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnmt_ds.tracking import read_records
from tests.launching.nodes import Nodes, two_nodes, why_not, write_recipe
from tests.spawn import PATIENCE
from tests.tiny import ROOT, write_corpus

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
needs_openmpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="not installed: mpirun (Debian: openmpi-bin)")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with two_nodes(tmp_path / "nodes") as made:
        (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
        yield made


def launch(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "launchers" / "launch.py"), *options]


def training(run: Path) -> list[tuple[float, float]]:
    records = read_records(run / "metrics.jsonl")
    return [(record["train/loss"], record.get("train/kd_loss", 0.0)) for record in records if record["kind"] == "train"]


@pytest.mark.slow
def test_two_nodes_give_the_losses_of_the_local_run(nodes: Nodes, tiny_corpus: Path, tmp_path: Path) -> None:
    local, far = (write_recipe(tiny_corpus, tmp_path / name, 26) for name in ("local", "far"))
    done = subprocess.run(launch("--num_gpus", "2", str(local)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process = nodes.popen(launch("--hostfile", str(tmp_path / "hosts"), str(far)), ROOT)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert "node-a: " in output and "2 node(s), 2 slot(s): node-a, node-b" in output
    assert any(kd > 0 for _, kd in training(tmp_path / "local")), "no teacher taught"
    assert len(training(tmp_path / "far")) == 26
    assert training(tmp_path / "far") == training(tmp_path / "local")


def by_openmpi(nodes: Nodes, tmp_path: Path, recipe: Path, **variables: str) -> "subprocess.Popen[str]":
    """A job on both nodes that mpirun starts."""
    (tmp_path / "hosts").write_text("10.77.0.1 slots=1\n10.77.0.2 slots=1\n")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    by_ssh = {"OMPI_MCA_plm_rsh_args": f"-F {nodes.directory / 'config'}"}
    options = ["--hostfile", str(tmp_path / "hosts"), "--launcher", "openmpi"]
    return nodes.popen(launch(*options, str(recipe)), ROOT, **as_root, **by_ssh, **variables)


@pytest.mark.slow
@needs_openmpi
def test_openmpi_starts_the_ranks_too(nodes: Nodes, tiny_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = by_openmpi(nodes, tmp_path, write_recipe(tiny_corpus, run, 4))
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert len(training(run)) == 4 and "2 rank(s)" in output


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a rank is killed", "all is killed", "its network is gone"])
def test_a_lost_node_ends_the_job_by_name(nodes: Nodes, tiny_corpus: Path, tmp_path: Path, how: str) -> None:
    run = tmp_path / "run"
    words = launch("--hostfile", str(tmp_path / "hosts"), str(write_recipe(tiny_corpus, run, 10**6)))
    process = nodes.popen(words, ROOT)
    wait_for_updates(run, process)
    if how == "a rank is killed":
        os.kill(nodes.ranks(1)[0], signal.SIGKILL)
    elif how == "all is killed":
        nodes.kill(1)
    else:
        nodes.cut_off(1)
    began = time.monotonic()
    reached = (0,) if how == "its network is gone" else (0, 1)
    while any(map(nodes.ranks, reached)) and time.monotonic() - began < 60:
        time.sleep(0.05)
    gone = time.monotonic() - began
    output = process.communicate(timeout=120)[0]
    seconds = time.monotonic() - began
    print(f"{how}: no rank is left after {gone:.1f} s, launcher {seconds:.1f} s")
    assert process.returncode != 0 and seconds < 40, f"{seconds:.0f} s\n{output}"
    assert "launch: node node-b: " in output, output
    assert not nodes.ranks(0), "ranks are left on the other node"
    if how == "a rank is killed":
        assert not nodes.ranks(1)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_stopped_rank_is_named_and_nothing_is_left(
    nodes: Nodes, tiny_corpus: Path, tmp_path: Path, which: int
) -> None:
    run, minutes = tmp_path / "run", 0.75 * PATIENCE
    recipe = str(write_recipe(tiny_corpus, run, 10**6))
    process = nodes.popen(
        launch("--hostfile", str(tmp_path / "hosts"), recipe, f"train.timeout_minutes={minutes}"), ROOT
    )
    wait_for_updates(run, process)
    (stopped,) = nodes.ranks(which)
    os.kill(stopped, signal.SIGSTOP)
    output = process.communicate(timeout=60 * minutes + 60 * PATIENCE)[0]
    (line,) = [line for line in output.splitlines() if "the job ends" in line]
    assert f"rank {which} on " in line and f"(process {stopped}) does not answer" in line and "in update" in line
    assert process.returncode != 0 and not nodes.ranks(0) and not nodes.ranks(1), output


@pytest.mark.slow
@needs_openmpi
def test_openmpi_ends_the_job_where_a_rank_is_killed(nodes: Nodes, tiny_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = by_openmpi(nodes, tmp_path, write_recipe(tiny_corpus, run, 10**6))
    wait_for_updates(run, process)
    os.kill(nodes.ranks(1)[0], signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGKILL, output
    assert "exited on signal 9" in output and not nodes.ranks(0) and not nodes.ranks(1), output


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["pdsh", pytest.param("openmpi", marks=needs_openmpi)])
def test_a_request_to_stop_reaches_all_nodes_and_saves(
    nodes: Nodes, tiny_corpus: Path, tmp_path: Path, launcher: str
) -> None:
    run = tmp_path / "run"
    recipe = write_recipe(tiny_corpus, run, 10**6)
    if launcher == "openmpi":
        process = by_openmpi(nodes, tmp_path, recipe)
    else:
        process = nodes.popen(launch("--hostfile", str(tmp_path / "hosts"), str(recipe)), ROOT)
    wait_for_updates(run, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "stopped on request at update" in output and (run / "checkpoints" / "last").exists()


@pytest.mark.slow
def test_other_data_and_other_code_are_refused_before_training(nodes: Nodes, tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_corpus(tmp_path / "other", seed=8)
    source = tmp_path / "init.py"
    source.write_text((ROOT / "mnmt_ds" / "__init__.py").read_text().replace('__version__ = "', '__version__ = "9.'))
    nodes.alter({tiny_corpus: other, ROOT / "mnmt_ds" / "__init__.py": source})
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-c slots=1\nnode-x slots=1\n")
    run = tmp_path / "run"
    process = nodes.popen(launch("--hostfile", str(tmp_path / "hosts"), str(write_recipe(tiny_corpus, run, 9))), ROOT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 2, output
    lines = [line.partition("launch: ")[2] for line in output.splitlines() if "launch: node" in line]
    assert any(line.startswith("node node-c: mnmt_ds 9.") and "on node-a" in line for line in lines), output
    assert any(line.startswith("node node-c: data ") and "on node-a" in line for line in lines), output
    assert any(line.startswith("node node-x: cannot be reached") for line in lines), output
    assert not any("node-a:" in line for line in lines)
    assert not (run / "metrics.jsonl").exists() and not list(run.glob(".preflight-*"))


def wait_for_updates(run: Path, process: "subprocess.Popen[str]", updates: int = 3) -> None:
    until = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or len(training(run)) < updates:
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.2)

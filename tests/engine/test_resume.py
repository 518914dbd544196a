"""Stopped and resumed equals uninterrupted, bit for bit; a spoilt checkpoint is refused and the one before it used."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mnmt_ds.config import dump
from mnmt_ds.distributed import free_port
from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.engine.checkpointing.verification import fault_of
from mnmt_ds.file_integrity import read_checked_json
from mnmt_ds.tracking import read_records
from tests.tiny import ROOT, recipe

STAGE = 1


def write_recipe(corpus: Path, run: Path, **train: Any) -> Path:
    run_recipe = recipe(
        corpus,
        run,
        deepspeed=str(ROOT / "ds_configs" / f"zero{STAGE}.json"),
        method={"name": "lssd", "variant": "adaptive", "teachers": {"cache": "ram"}},
        validation={"every": 6},
        train={"max_steps": 26, "lr": 2e-2, "warmup_steps": 2, "save_every": 4, **train},
    )
    path = run.with_suffix(".yaml")
    path.write_text(dump(run_recipe), encoding="utf-8")
    return path


def command(path: Path, *extra: str, ranks: int = 2, script: str = "launchers/train.py") -> list[str]:
    launcher = [
        str(Path(sys.executable).with_name("deepspeed")),
        "--num_gpus",
        str(ranks),
        "--master_port",
        str(free_port()),
    ]
    return [*launcher, str(ROOT / script), str(path), *extra]


def start(path: Path, *extra: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(path, *extra),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(path: Path, *extra: str) -> str:
    done = subprocess.run(command(path, *extra), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def whole(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, on two ranks through the real launcher."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(write_recipe(tiny_corpus, run))
    return run


def history(run: Path) -> list[dict[str, Any]]:
    """Everything that was logged, less clocks and memory."""
    kept = []
    for record in read_records(run / "metrics.jsonl"):
        if record["kind"] in ("train", "valid"):
            kept.append({k: v for k, v in record.items() if not k.startswith(("time", "runtime", "memory"))})
    return kept


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = checkpoint.complete(run)[0], checkpoint.complete(whole)[0]
    state, expected_state = checkpoint.read_state(ours), checkpoint.read_state(theirs)
    assert state == expected_state
    assert history(run) == history(whole)
    weights, expected = load_file(run / "last" / "model.safetensors"), load_file(whole / "last" / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for file in sorted(theirs.rglob("*optim_states.pt")):
        assert same(load(file), load(ours / file.relative_to(theirs))), file
    for version in expected_state["snapshots"]:
        left, right = (load_file(r / "snapshots" / str(version) / "model.safetensors") for r in (run, whole))
        assert all(torch.equal(left[name], right[name]) for name in right), version


def load(file: Path) -> Any:
    return torch.load(file, weights_only=False)["optimizer_state_dict"]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or callable(a) or hasattr(a, "__dict__")


def wait_for_update(run: Path, process: "subprocess.Popen[str]", update: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and any(
            record["update"] >= update for record in read_records(run / "metrics.jsonl")
        ):
            return
        time.sleep(0.02)
    raise AssertionError(f"update {update} was not reached: {process.communicate()[0]}")


@pytest.mark.parametrize(
    "update", [pytest.param(3, marks=pytest.mark.slow), 7, pytest.param(19, marks=pytest.mark.slow)]
)
def test_killed_and_resumed_is_bit_identical(tiny_corpus: Path, whole: Path, tmp_path: Path, update: int) -> None:
    """SIGKILL of launcher and ranks alike: before the first checkpoint, in mid-epoch, after teachers changed."""
    run = tmp_path / "run"
    path = write_recipe(tiny_corpus, run)
    process = start(path)
    wait_for_update(run, process, update)
    os.killpg(process.pid, signal.SIGKILL)
    kill_ranks(run)
    process.wait()
    finish(path, "--resume")
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "mnmt_ds.teachers.sharded_teachers:all_to_all_shards:7",  # in the transfer of a teacher's weights
        "mnmt_ds.teachers.state_storage:StateStorage.put:9",  # in the filling of the cache
        "mnmt_ds.teachers.shard_storage:ShardStorage.put:3",  # as a new teacher is taken in
        "mnmt_ds.teachers.state_cache:StateCache.keep_only:3",  # as the one before it is let go
        "mnmt_ds.engine.checkpointing.snapshots:link:6",  # between its file and the links to it
        "mnmt_ds.engine.students.records:remove_unused_snapshots:3",  # after a checkpoint, before the old files go
    ],
)
def test_killed_at_a_teachers_change_and_resumed(tiny_corpus: Path, whole: Path, tmp_path: Path, point: str) -> None:
    run = tmp_path / "run"
    path = write_recipe(tiny_corpus, run)
    died = subprocess.run(
        command(path, script="tests/engine/dying.py"), cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "DIE_AT": point},
    )  # fmt: skip
    assert died.returncode != 0, "the call was never reached"
    assert not (run / "last").exists()
    finish(path, "--resume")
    assert_same(run, whole)


def test_sigterm_saves_and_leaves_in_peace(tiny_corpus: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = write_recipe(tiny_corpus, run)
    process = start(path)
    wait_for_update(run, process, 9)
    began = time.monotonic()
    for number in ranks_of(run):
        os.kill(number, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert time.monotonic() - began < 30
    assert "stopped on request" in output
    finish(path, "--resume")
    assert_same(run, whole)


@pytest.mark.slow
def test_spoilt_checkpoints_are_passed_over_by_name(tiny_corpus: Path, whole: Path, tmp_path: Path) -> None:
    """One flipped bit in the newest, a lost manifest in none: the run goes on from the one before, bit for bit."""
    run = tmp_path / "run"
    path = write_recipe(tiny_corpus, run)
    finish(path, "train.max_steps=20")
    newest = checkpoint.complete(run)[0]
    victim = next(newest.rglob("*optim_states.pt"))
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(damaged)
    output = finish(path, "--resume")
    assert f"{victim} was altered" in output
    assert "resumed at update 18" in output  # saved before the validation there
    assert_same(run, whole)


def test_other_data_or_layout_is_refused(tiny_corpus: Path, whole: Path, tmp_path: Path) -> None:
    path = write_recipe(tiny_corpus, whole)
    done = subprocess.run(
        command(path, "--resume", "train.max_steps=30", "train.precision=bf16"),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode != 0
    assert "train.precision: fp32 -> bf16: the optimizer's state has the former type" in done.stdout


def ranks_of(run: Path) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = str(run.with_suffix(".yaml")).encode() in words
            entry_point = any(word.endswith(b"launchers/train.py") for word in words)
            launcher = any(word == b"deepspeed.launcher.launch" or word.endswith(b"/deepspeed") for word in words)
            if ours and entry_point and not launcher:
                pids.append(int(entry.name))
    return pids


def kill_ranks(run: Path) -> None:
    for number in ranks_of(run):
        os.kill(number, signal.SIGKILL)
    while ranks_of(run):
        time.sleep(0.05)


def test_manifest_lists_every_file(whole: Path) -> None:
    path = checkpoint.complete(whole)[0]
    listed = read_checked_json(path / "manifest.json")
    there = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(listed) == there
    assert fault_of(path) is None

"""Compiling on first use: locks, killed builds, foreign directories, no compiler; and what nvcc says of our kernels."""

import logging
import multiprocessing
import os
import re
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest
import torch

from mnmt_ds.kernels import build, implementations
from mnmt_ds.kernels.ce_with_teacher import Gate
from mnmt_ds.kernels.gates import GATE_KINDS, gate_value
from tests.kernels.sass import cuobjdump, loops


def _slow(directory: str, marker: str) -> build.LibraryRecipe:
    """Takes a while and counts its builds."""
    step = ("sh", "-c", f"echo built >> {directory}/{marker}; sleep 1")
    return build.LibraryRecipe("toy", (step,), ("sh", "-c", "echo library > {library}"))


def _build(directory: str) -> None:
    build.build(_slow(directory, "count"), Path(directory) / "x")


def test_racing_builds_compile_once(tmp_path: Path) -> None:
    racers = [multiprocessing.get_context("fork").Process(target=_build, args=(str(tmp_path),)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert (tmp_path / "count").read_text().split() == ["built"]
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o700


def test_a_killed_build_blocks_nobody(tmp_path: Path) -> None:
    victim = multiprocessing.get_context("fork").Process(target=_build, args=(str(tmp_path),))
    victim.start()
    while not (tmp_path / "count").exists():
        time.sleep(0.01)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    assert list((tmp_path / "x").glob("toy-building-*"))
    library = build.build(_slow(str(tmp_path), "count"), tmp_path / "x")
    assert library.read_text() == "library\n"
    assert not list((tmp_path / "x").glob("toy-building-*"))


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0o777)
    (tmp_path / "x").chmod(0o777)
    with pytest.raises(build.BuildError, match="open to other users"):
        build.build(_slow(str(tmp_path), "count"), tmp_path / "x")


def test_a_failing_compiler_is_one_line(tmp_path: Path) -> None:
    recipe = build.LibraryRecipe("toy", (("sh", "-c", "echo x.cpp:1: error: no; exit 1"),), ("true",))
    with pytest.raises(build.BuildError, match=r"compiling failed: x\.cpp:1: error: no"):
        build.build(recipe, tmp_path / "x")


def test_without_a_compiler_chunked_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.load.cache_clear()
    implementations.resolve_implementation.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "mnmt_ds"):
            assert implementations.resolve_implementation("auto", torch.device("cpu")) == "chunked"
        assert "no C++ compiler (no-such-compiler)" in caplog.text
    finally:
        build.load.cache_clear()
        implementations.resolve_implementation.cache_clear()


def test_the_gpu_kernels_gate_is_the_definitions() -> None:
    try:
        build.load(build.cpu_recipe)
    except build.BuildError as error:
        pytest.skip(str(error))
    teacher = torch.tensor([0.0, 0.0, 0.2, 0.2, 0.3, 0.9, 1e-30])
    student = torch.tensor([0.0, 0.1, 0.2, 0.1, 0.4, 0.1, 0.0])
    for gate in (Gate(), Gate("selective", below=0.2), Gate("selective", strict=True), Gate("adaptive", cap=1.5)):
        computed = torch.empty(7)
        kind = GATE_KINDS.index(gate.kind)
        torch.ops.mnmt_ds_cpu.gate(teacher, student, kind, gate.strict, gate.cap, gate.below, computed)
        torch.testing.assert_close(computed, gate_value(gate, teacher, student), rtol=0, atol=0)


@pytest.mark.slow  # half a minute of nvcc; the kernels themselves run in test_cuda_on_cpu.py
def test_nvcc_compiles_all_targets_without_spills() -> None:
    """sm_80, sm_90 and sm_100 in one library; no kernel spills, none exceeds what its block leaves it."""
    if shutil.which("nvcc") is None and not Path("/usr/local/cuda/bin/nvcc").exists():
        pytest.skip("no nvcc here")
    library = build.build(build.cuda_recipe(["80", "90", "100"]))
    report = library.with_suffix(".txt").read_text()
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    assert {f"sm_{t}" for t in re.findall(r"for 'sm_(\d+)'", report)} == {"sm_80", "sm_90", "sm_100"}
    assert len(registers) == len(spills) >= 3 * 34
    assert set(spills) == {("0", "0")}
    assert max(registers) <= 128
    if cuobjdump() is not None:
        # instructions of the loops over a pack of 8 words: statistics, then gradient; bf16, rows on the chip
        found = loops(library)
        for staging, more in (("threads", 0), ("bulk", 8)):  # for the waits
            ce, kd = found["bf16", 1, 0, staging], found["bf16", 1, 1, staging]
            assert sum(ce) <= 8 * 18 + more, "cross-entropy"
            assert kd[1] + kd[-1] <= 8 * 36 + more, "one teacher, all words, T = 1"

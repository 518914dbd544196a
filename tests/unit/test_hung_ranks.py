"""A rank that hangs is named with its place, all ranks leave, and their stacks are in the run's directory."""

import linecache
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mnmt_ds.distributed import free_port
from mnmt_ds.hung_ranks import (
    SILENT,
    HangDetector,
    RankState,
    diagnosis,
    find_hung_ranks,
    process_state,
    silent_ranks_beside_rank_0,
    thread_position,
)
from tests.spawn import PATIENCE

SCRIPT = Path(__file__).with_name("hanging_rank.py")
SECONDS = 5 * PATIENCE
"""The ranks' timeout."""


def _ranks(directory: Path, hanging: int | str, how: str, count: int = 2) -> tuple[list[str], list[int], float]:
    """What the ranks of a job printed, their exit codes, and the seconds that all took."""
    port, began = str(free_port()), time.monotonic()
    words = [str(count), port, str(directory), str(hanging), how, str(SECONDS)]
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), *words], stderr=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    try:
        printed = [process.communicate(timeout=60 * PATIENCE)[1] for process in processes]
        return printed, [process.returncode for process in processes], time.monotonic() - began
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    ("hanging", "how"),
    [
        (1, "sleeps"),
        *(
            pytest.param(rank, how, marks=pytest.mark.slow)
            for rank, how in [(0, "sleeps"), (1, "stops"), (0, "stops"), (1, "blocks"), (0, "blocks")]
        ),
    ],
)
def test_one_line_names_the_rank_and_all_leave(hanging: int, how: str, tmp_path: Path) -> None:
    printed, codes, _ = _ranks(tmp_path, hanging, how)
    lines = [line for text in printed for line in text.splitlines() if "hang" in line or "the job ends" in line]
    assert len(lines) == 1, printed
    what = "does not get on" if how == "sleeps" else re.escape(SILENT)
    assert re.search(rf"rank {hanging} on {re.escape(socket.gethostname())} \(process \d+\) {what}: \d+ s", lines[0])
    assert "in update 3 " in lines[0] and "; stacks of all threads: " in lines[0]
    assert all(codes), codes
    stacks = tmp_path / "stacks"
    assert "hanging_rank.py" in (stacks / f"rank_{hanging}.txt").read_text()
    assert "all_reduce" in (stacks / f"rank_{1 - hanging}.txt").read_text()


@pytest.mark.slow
def test_two_stopped_ranks_are_both_named_and_nothing_is_left(tmp_path: Path) -> None:
    """Rank 0, which keeps the ranks' messages, is one of them; of those that are left, the first one says it."""
    printed, codes, _ = _ranks(tmp_path, "0,2", "stops", count=4)
    lines = [line for text in printed for line in text.splitlines() if "the job ends" in line]
    assert lines and all(codes), (printed, codes)
    assert re.search(r"rank 0 on .*; rank 2 on .* \(process \d+\)", lines[0]) and "rank 1 " not in lines[0]
    for rank in range(4):
        assert (tmp_path / "stacks" / f"rank_{rank}.txt").read_text()


@pytest.mark.slow
def test_a_rank_alone_that_hangs_in_an_update_ends_too(tmp_path: Path) -> None:
    (printed,), (code,), _ = _ranks(tmp_path, 0, "sleeps", count=1)
    assert code == 1 and "rank 0 on" in printed and "does not get on" in printed


@pytest.mark.slow
def test_a_job_in_which_none_hangs_is_left_alone(tmp_path: Path) -> None:
    printed, codes, _ = _ranks(tmp_path, -1, "sleeps")
    assert codes == [0, 0] and not "".join(printed).count("job ends") and not (tmp_path / "stacks").exists()


def _states(*waiting: bool, heartbeats: int = 5, updates: tuple[int, ...] = ()) -> list[RankState]:
    return [
        RankState(rank, "a", 1, heartbeats, updates[rank] if updates else 7, 0, is_waiting, 9.0, "engine/loop.py:1 f")
        for rank, is_waiting in enumerate(waiting)
    ]


def test_hung_ranks_are_found() -> None:
    later = _states(True, False, True, heartbeats=9)
    assert find_hung_ranks(_states(True, False, True), later) == ([later[1]], "does not get on")
    stopped = [*later[:2], _states(True, True, True)[2]]  # its last state was that it waits
    assert find_hung_ranks(_states(True, False, True), stopped) == ([stopped[2]], SILENT)
    behind = _states(False, False, False, heartbeats=9, updates=(8, 7, 8))
    assert find_hung_ranks(_states(False, False, False), behind)[0] == [behind[1]]
    all_wait = _states(True, True, heartbeats=9)
    assert find_hung_ranks(_states(True, True), all_wait) == (all_wait, "waits for the others, as all ranks do")


def test_stopped_ranks_are_found_where_rank_0_is_silent() -> None:
    """Of this machine alone."""
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(4)]
    try:
        ranks = [RankState(rank, "a", process.pid) for rank, process in enumerate(sleepers)]
        ranks.append(RankState(4, "b", 2**22 + 1))
        os.kill(ranks[2].pid, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while process_state(ranks[2].pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert silent_ranks_beside_rank_0(ranks, ranks[1]) == [ranks[0], ranks[2]]
        assert silent_ranks_beside_rank_0(ranks, ranks[3]) == [ranks[0], ranks[2]]
        assert silent_ranks_beside_rank_0(ranks, ranks[4]) == [ranks[0]]
    finally:
        for process in sleepers:
            process.kill()


def test_the_line_is_one_line_also_of_many_ranks() -> None:
    line = diagnosis(_states(*[False] * 6), "does not get on", Path("run/stacks"))
    assert line.count("rank ") == 4 and "; and 2 more; the job ends; stacks of all threads: run/stacks" in line
    assert "rank 3 on a (process 1) does not get on: 9 s in update 7 at engine/loop.py:1 f" in line


def test_a_thread_that_waits_on_a_handle_is_known_by_its_line() -> None:
    event = threading.Event()
    thread = threading.Thread(target=lambda: event.wait(), daemon=True)
    thread.start()
    time.sleep(0.2)
    first, again = (thread_position(sys._current_frames()[thread.ident or 0]) for _ in range(2))
    event.set()
    assert first == again
    assert not thread_position(sys._current_frames()[threading.get_ident()]).is_waiting


def test_sources_that_cannot_be_read_end_no_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries put entries without lines into Python's cache of sources; a rank must not go unwatched for that."""
    monkeypatch.setitem(linecache.cache, __file__, (1, None, None, __file__))  # type: ignore[arg-type]
    position = thread_position(sys._getframe())
    assert not position.is_waiting and "test_sources_that_cannot_be_read" in position.place
    samples = []

    def sample() -> None:
        samples.append(1)
        if len(samples) == 3:
            detector._done.set()
        raise TypeError("whatever a library does")

    detector = HangDetector.__new__(HangDetector)
    detector._done, detector.interval, detector._sample = threading.Event(), 1e-3, sample  # type: ignore[method-assign]
    detector._sample_main_thread()
    assert len(samples) == 3

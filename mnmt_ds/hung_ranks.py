"""Names the rank for which a job waits, and ends the job, shortly before the ranks' own timeout is over.

A thread of every rank publishes, through a store on rank 0, what the main thread does and whether it waits for
other ranks. A rank that has waited too long, or has got nowhere within an update, finds who hangs: one that publishes
nothing any more (it is stopped, or does not let its threads run), else one that does not wait for others, else the one
that is behind. The first diagnosis is the line that the run ends with; every rank writes the stacks of all its
threads into the run's directory and exits. On the way out a rank that is stopped is continued and killed.
"""

import contextlib
import datetime
import faulthandler
import json
import linecache
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch.distributed as dist

from mnmt_ds.distributed import RankGroup, job_ranks
from mnmt_ds.errors import RunError, UserError
from mnmt_ds.training_position import POSITION

LOG = logging.getLogger(__name__)
PACKAGE = str(Path(__file__).parent)
WAITS = re.compile(r"\.(wait|synchronize|barrier)\(")
"""Source lines in which a thread waits for other ranks."""
COLLECTIVES = (os.path.join("torch", "distributed"), os.path.join("deepspeed", "comm"))
"""Parts of the paths of files whose functions wait for other ranks."""
DIAGNOSIS_KEY = "diagnosis"
"""Under which the store keeps what the run ends with: a line, the ranks that hang, the rank that found them."""
SILENT = "does not answer (stopped, or stuck outside of Python)"
DUMP_SIGNAL = signal.SIGUSR2
"""Has the interpreter write all threads' stacks, even where no thread of Python can run."""


STOPPED = ("T", "t", "")
"""``process_state`` of a process that is stopped, or gone."""


class RankState(NamedTuple):
    """State that a rank publishes of itself for the other ranks' hang detectors."""

    rank: int
    """Rank in the job."""
    host: str
    """Its machine."""
    pid: int
    """Its process."""
    heartbeat: int = 0
    """Rises with every message."""
    update: int = 0
    """``TrainingPosition.update``."""
    micro_batch: int = 0
    """``TrainingPosition.micro_batch``."""
    is_waiting: bool = False
    """Whether its main thread waits for other ranks."""
    still: float = 0.0
    """Seconds for which its main thread has been at the same place."""
    place: str = ""
    """Where the main thread is: the innermost line of this package."""
    stacks: str = ""
    """The file on its machine into which ``DUMP_SIGNAL`` writes."""


class ThreadPosition(NamedTuple):
    """Position of the main thread in the code at one moment."""

    signature: tuple[object, ...]
    """The same as long as it has not moved."""
    is_waiting: bool
    """Whether it waits for other ranks."""
    place: str
    """The innermost line of this package; where there is none, the innermost one."""


def thread_position(frame: FrameType | None) -> ThreadPosition:
    """Reads where in the code a thread is.

    Args:
        frame: its innermost frame.

    Returns:
        Its place.
    """
    signature: list[object] = [POSITION.moves]
    is_waiting, place, innermost = False, "", ""
    if frame is not None:
        innermost = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"
        is_waiting = bool(WAITS.search(_source_line(frame)))
    while frame is not None:
        file = frame.f_code.co_filename
        signature.append((id(frame.f_code), frame.f_lasti))
        if not place:
            is_waiting = is_waiting or any(pattern in file for pattern in COLLECTIVES)
            if file.startswith(PACKAGE):
                place = f"{os.path.relpath(file, PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ThreadPosition(tuple(signature), is_waiting, place or innermost)


def _source_line(frame: FrameType) -> str:
    """The line of source at which a frame is; empty where it cannot be read."""
    try:
        return linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    except Exception:  # what libraries put into Python's cache of sources, or take out of it at this moment
        return ""


def read_place(dump: str) -> str:
    """Reads from written stacks where a process is.

    Args:
        dump: of ``faulthandler``, the innermost frame of each thread first.

    Returns:
        The innermost line of this package, or of the thread that wrote; empty where there is none.
    """
    *_, thread = re.split(r"^(?:Current thread|Thread) .*$", dump, flags=re.MULTILINE)
    frames = re.findall(r'File "([^"]*)", line (\d+) in (\S+)', thread)
    own = [frame for frame in frames if frame[0].startswith(PACKAGE)]
    names = [f"{os.path.relpath(file, PACKAGE)}:{line} {function}" for file, line, function in own]
    names += [f"{os.path.basename(file)}:{line} {function}" for file, line, function in frames]
    return names[0] if names else ""


def find_hung_ranks(before: Sequence[RankState], after: Sequence[RankState]) -> tuple[list[RankState], str]:
    """Finds the ranks that a job waits for.

    Args:
        before: the ranks' states, by rank.
        after: their states some heartbeats later.

    Returns:
        The ranks, and what is wrong with them in words.
    """
    silent = [new for old, new in zip(before, after, strict=True) if new.heartbeat == old.heartbeat]
    if silent:
        return silent, SILENT
    working = [state for state in after if not state.is_waiting]
    behind = min((state.update, state.micro_batch) for state in working or after)
    hung = [state for state in working or after if (state.update, state.micro_batch) == behind]
    if not working and len(hung) == len(after) > 1:
        return hung, "waits for the others, as all ranks do"
    return hung, "does not get on"


def process_state(pid: int) -> str:
    """Reads the state of a process of this machine, as the system has it.

    Args:
        pid: of the process.

    Returns:
        A letter as in ``ps``, such as S (sleeps) or T (stopped); empty where there is no such process.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def silent_ranks_beside_rank_0(rank_states: Sequence[RankState], own: RankState) -> list[RankState]:
    """Finds the ranks that do not answer, where rank 0 is one of them, so that no rank hears of the others any more.

    Args:
        rank_states: the ranks' states at the start, by rank.
        own: the rank that asks.

    Returns:
        Rank 0 and the stopped ranks of this machine.
    """
    local_states = [state for state in rank_states[1:] if state.host == own.host and state.rank != own.rank]
    return [rank_states[0], *(state for state in local_states if process_state(state.pid) in STOPPED)]


def diagnosis(hung: Sequence[RankState], condition: str, stacks: Path) -> str:
    """Describes which ranks hang, and where.

    Args:
        hung: the ranks that hang.
        condition: what is wrong with them.
        stacks: the directory in which the ranks' stacks are.

    Returns:
        One line.
    """
    seen = "last seen at" if condition == SILENT else "at"
    names = [
        f"rank {state.rank} on {state.host} (process {state.pid}) {condition}:"
        f" {state.still:.0f} s in update {state.update} {seen} {state.place or 'an unknown place'}"
        for state in hung[:4]
    ]
    more = f"; and {len(hung) - 4} more" if len(hung) > 4 else ""
    return f"{'; '.join(names)}{more}; the job ends; stacks of all threads: {stacks}"


class HangDetector:
    """Detects hung ranks: one thread samples the main thread, another exchanges states with the other ranks."""

    def __init__(self, ranks: RankGroup, stacks: Path, timeout: float) -> None:
        """Starts both threads; all ranks of the job call this together.

        Args:
            ranks: of the job.
            stacks: the directory that stacks are written to.
            timeout: seconds that a rank waits for the other ranks.
        """
        self.ranks, self.stacks = ranks, stacks
        self.limit = timeout - min(0.2 * timeout, 10.0)
        self.interval = min(0.5, timeout / 40)
        self._store = _open_store(ranks)
        self._dump = tempfile.TemporaryFile("w")  # noqa: SIM115
        faulthandler.register(DUMP_SIGNAL, self._dump, all_threads=True)
        dumped = f"/proc/{os.getpid()}/fd/{self._dump.fileno()}"
        self.state = RankState(ranks.rank, socket.gethostname(), os.getpid(), stacks=dumped)
        self._known = ranks.gather(self.state)
        self._main = threading.main_thread().ident
        self._done, self._is_stuck, self._is_ending = threading.Event(), False, False
        self._end_lock = threading.Lock()
        self._seen: ThreadPosition | None = None
        self._since = self._answered = time.monotonic()
        for target in (self._sample_main_thread, self._exchange_states):
            threading.Thread(target=target, name="hung ranks", daemon=True).start()

    def close(self) -> None:
        """Stops the threads."""
        self._done.set()
        faulthandler.unregister(DUMP_SIGNAL)
        self._dump.close()

    def wait_for_end(self) -> None:
        """Waits a few intervals; a detector that is ending the job then ends this process before it raises an error."""
        time.sleep(3 * self.interval)
        self.leave_if_ending()

    def leave_if_ending(self) -> None:
        """Waits where the detector's threads are about to end this process."""
        if self._is_ending:
            time.sleep(30.0)

    def _sample_main_thread(self) -> None:
        while not self._done.wait(self.interval):
            try:
                self._sample()
            except Exception as error:  # the next sample may be one that can be taken
                LOG.debug("a sample of the main thread failed: %r", error)

    def _sample(self) -> None:
        """Samples the main thread; where rank 0, which keeps the store, does not answer, ends the job alone."""
        now, seen = time.monotonic(), thread_position(sys._current_frames().get(self._main or 0))
        if self._seen is None or seen[:2] != self._seen[:2]:
            self._seen, self._since = seen, now
        still = now - self._since
        self.state = self.state._replace(
            heartbeat=self.state.heartbeat + 1, update=POSITION.update, micro_batch=POSITION.micro_batch,
            is_waiting=seen.is_waiting, still=still, place=seen.place,
        )  # fmt: skip
        self._is_stuck = still > self.limit and (seen.is_waiting or POSITION.in_update)
        if self._is_stuck and now - self._answered > max(2.0, self.limit / 4):
            silent = silent_ranks_beside_rank_0(self._known, self.state)
            silent = [self._dump_stack_of(state._replace(still=now - self._answered)) for state in silent]
            self._end(diagnosis(silent, SILENT, self.stacks), silent, is_author=True)

    def _exchange_states(self) -> None:
        """Publishes this rank's state; diagnoses when the main thread is stuck; ends when any rank has diagnosed."""
        try:
            while not self._done.wait(self.interval):
                self._publish_state()
                if self._store is not None and self._store.check([DIAGNOSIS_KEY]):
                    self._end_as_diagnosed(json.loads(self._store.get(DIAGNOSIS_KEY)))
                self._answered = time.monotonic()
                if self._is_stuck:
                    self._diagnose()
        except Exception as error:  # the store is gone with rank 0: the lost connections of the ranks tell of it
            LOG.debug("the detection of hung ranks ended: %s", error)

    def _publish_state(self) -> None:
        if self._store is not None:
            self._store.set(f"rank {self.ranks.rank}", json.dumps(self.state))

    def _states(self) -> list[RankState]:
        if self._store is None:
            return [self.state]
        keys = [f"rank {number}" for number in range(self.ranks.size)]
        return [RankState(*json.loads(text)) for text in self._store.multi_get(keys)]

    def _diagnose(self) -> None:
        """Reads all ranks' states twice, some heartbeats apart, and finds who hangs; the first diagnosis counts."""
        before = self._states()
        for _ in range(3):
            time.sleep(self.interval)
            self._publish_state()
            self._answered = time.monotonic()
        if not self._is_stuck:
            return
        hung, condition = find_hung_ranks(before, self._states())
        if condition == SILENT:
            hung = [self._dump_stack_of(state) for state in hung]
        own = json.dumps([diagnosis(hung, condition, self.stacks), hung, self.ranks.rank])
        text = own if self._store is None else self._store.compare_set(DIAGNOSIS_KEY, "", own).decode()
        self._end_as_diagnosed(json.loads(text))

    def _dump_stack_of(self, state: RankState) -> RankState:
        """Has a silent rank dump its stacks and puts the place that they name into its state.

        The place stays as it was published where the rank is stopped or on another machine. A stopped rank must
        not be continued before all know that the job ends.
        """
        state = state._replace(update=POSITION.update, still=max(state.still, self.state.still))
        with contextlib.suppress(OSError):
            if state.host == self.state.host and process_state(state.pid) not in STOPPED:
                os.kill(state.pid, DUMP_SIGNAL)
                time.sleep(0.5)
                return state._replace(place=read_place(Path(state.stacks).read_text()) or state.place)
        return state

    def _end_as_diagnosed(self, diagnosed: Sequence[Any]) -> None:
        line, hung, author = diagnosed
        self._end(line, [RankState(*state) for state in hung], author == self.ranks.rank)

    def _end(self, line: str, hung: Sequence[RankState], is_author: bool) -> None:
        """Ends this process and hung ranks of this machine. Of its two threads, the first that comes here does."""
        with self._end_lock:
            self._end_now(line, hung, is_author)

    def _end_now(self, line: str, hung: Sequence[RankState], is_author: bool) -> None:
        self._is_ending = True
        if is_author:
            LOG.error("%s", line)
        writer = threading.Thread(target=self._write_stacks, daemon=True)
        writer.start()
        writer.join(5.0)  # the file system may be what hangs
        for state in hung:
            if state.rank != self.ranks.rank and state.host == self.state.host:
                kill_rank(state, self.stacks, grace=0.3 if SILENT in line else 1.0)
        if self._store is not None and self.ranks.rank == 0:
            time.sleep(2 * self.interval)  # the store goes with this rank: first the others read there why the job ends
        os._exit(1)

    def _write_stacks(self) -> None:
        with contextlib.suppress(OSError):
            self.stacks.mkdir(parents=True, exist_ok=True)
            with (self.stacks / f"rank_{self.ranks.rank}.txt").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)


def kill_rank(state: RankState, stacks: Path, grace: float) -> None:
    """Kills a hung rank of this machine, after continuing it and having it write its stacks.

    Args:
        state: of the rank.
        stacks: the directory for the stacks.
        grace: seconds in which it may leave by itself.
    """
    target, deadline = stacks / f"rank_{state.rank}.txt", time.monotonic() + grace
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(state.pid, DUMP_SIGNAL)
        os.kill(state.pid, signal.SIGCONT)
        while time.monotonic() < deadline:
            time.sleep(0.1)
            os.kill(state.pid, 0)
        with contextlib.suppress(OSError):
            if not target.exists():
                shutil.copyfile(state.stacks, target)
        os.kill(state.pid, signal.SIGKILL)


def _open_store(ranks: RankGroup) -> Any:
    """The store of the job, on rank 0; None for a process alone."""
    if ranks.size == 1:
        return None
    host, timeout = os.environ["MASTER_ADDR"], datetime.timedelta(seconds=60)

    def connect(port: int) -> Any:
        return dist.TCPStore(host, port, is_master=port == 0, wait_for_workers=False, timeout=timeout)  # type: ignore[attr-defined]

    store = connect(0) if ranks.is_main else None
    port = ranks.broadcast_from_main(store.port if store is not None else 0)
    store = store or connect(port)
    store.set(f"rank {ranks.rank}", json.dumps(RankState(ranks.rank, socket.gethostname(), os.getpid())))
    ranks.barrier()
    return store


@contextlib.contextmanager
def hang_detection(directory: Path, timeout_minutes: float) -> Iterator[None]:
    """Detects hung ranks of this job for as long as the block runs; all ranks enter it together.

    Args:
        directory: of the run, below which stacks are written.
        timeout_minutes: how long a rank waits for the other ranks.

    Returns:
        Nothing: a context manager.
    """
    detector = HangDetector(job_ranks(), directory / "stacks", 60 * timeout_minutes)
    try:
        yield
        detector.leave_if_ending()
    except (RunError, UserError):
        raise
    except Exception:  # such as a lost connection to a rank that has ended as diagnosed
        detector.wait_for_end()
        raise
    finally:
        detector.close()

"""Runs of a study as processes, several at a time; one that fails is reported and holds up nothing else."""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.errors import UserError
from mnmt_ds.reporting.runs import at_work, student_directories
from mnmt_ds.shipped_files import shipped_file
from mnmt_ds.study import run_state
from mnmt_ds.study.bilingual import gather, gathered
from mnmt_ds.study.plan import Study, StudyEntry, TrainingJob
from mnmt_ds.tracking import read_records

LAUNCHER = shipped_file("launchers/launch.py")
LOG = "log.txt"
GRACE = 60.0
"""Seconds in which a run that is asked to stop may save; then it is killed, and goes on from its last checkpoint."""
Say = Callable[[str], None]


class Failure(Exception):
    """A run's process ended badly; the message ends with the last line of its log."""


class Processes:
    """Every process that the study has started and that has not ended; each leads a process group of its own."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def run(self, command: Sequence[str], log: Path, environment: dict[str, str], lock: int) -> None:
        """Runs a command, its output appended to the log; Failure where its exit code is not 0.

        lock: a descriptor that the process inherits: whatever it locks stays locked while the process lives, even
        when the study itself is killed.
        """
        with log.open("ab") as output:
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            if self.stopped:
                raise Failure("stopped")
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=(lock,),
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
        self._running.add(process)
        if self.stopped:
            process.terminate()
        try:
            code = process.wait()
        finally:
            self._running.discard(process)
        if code:
            raise Failure(f"{last_line(log)} (exit code {code}; see {log})")

    def stop(self) -> None:
        """Asks all to stop, and kills what has not stopped after a grace."""
        self.stopped = True
        for process in list(self._running):
            process.terminate()
        end = time.monotonic() + GRACE
        while self._running and time.monotonic() < end:
            time.sleep(0.1)
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run_all(
    study: Study, entries: Sequence[StudyEntry], at_once: int, say: Say, devices: Sequence[str] = ()
) -> dict[Path, str]:
    """Makes all entries, ``at_once`` runs at a time, none before what it needs; {directory of a failed one: reason}.

    devices: GPUs of this machine as CUDA_VISIBLE_DEVICES names them, which the runs at work share out; empty: none.
    """
    processes, failed = Processes(), {}
    waiting = {entry.directory: entry for entry in entries if not complete(study, entry)}
    jobs = {d: [job for job in entry.jobs if not _done(study, job)] for d, entry in waiting.items()}
    total, finished, begun = sum(map(len, jobs.values())), 0, time.monotonic()
    slots, under_way = list(range(at_once)), dict[Future[None], tuple[StudyEntry, TrainingJob, int, float]]()
    told = time.monotonic()

    def settle() -> None:
        """Completes entries that have all their runs, gives up those that need a failed one."""
        for directory, entry in list(waiting.items()):
            lost = [need for need in entry.needs if need in failed]
            if lost and directory not in failed:
                failed[directory], jobs[directory] = f"needs {lost[0]}, which failed", []
                say(f"{entry.name}: not started: {failed[directory]}")
            if jobs[directory] or any(directory == found[0].directory for found in under_way.values()):
                continue
            if entry.per_pair and directory not in failed:
                try:
                    gather(entry)
                except Exception as error:  # whatever is wrong with its runs holds up only what needs it
                    failed[directory] = _reason(error)
                    say(f"{entry.name}: failed: {failed[directory]}")
            waiting.pop(directory)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            settle()
            while waiting or under_way:
                free = [entry for entry in waiting.values() if waiting.keys().isdisjoint(entry.needs)]
                ready = [(entry, job) for entry in free for job in jobs[entry.directory]]
                for entry, job in ready[: len(slots)]:
                    slot = slots.pop(0)
                    jobs[entry.directory].remove(job)
                    future = pool.submit(_make, study, job, processes, say, device_variables(job, slot, devices))
                    under_way[future] = (entry, job, slot, time.monotonic())
                done, _ = wait(under_way, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    entry, job, slot, start = under_way.pop(future)
                    slots.append(slot)
                    finished += 1
                    what = entry.name + (f", {job.directory.name}" if entry.per_pair else "")
                    try:
                        future.result()
                        say(f"[{finished}/{total}] {what}: done in {_minutes(time.monotonic() - start)}")
                    except Exception as error:  # the same
                        failed[entry.directory] = _reason(error)
                        say(f"[{finished}/{total}] {what}: failed: {failed[entry.directory]}")
                settle()
                if time.monotonic() > told + 60 and under_way:
                    told = time.monotonic()
                    where = "; ".join(_progress(entry, job) for entry, job, *_ in under_way.values())
                    say(f"[{finished}/{total}, {_minutes(told - begun)}] {where}")
        except BaseException:
            processes.stop()
            raise
    return failed


def complete(study: Study, entry: StudyEntry) -> bool:
    """Whether an entry is trained, evaluated and, where its pairs have models of their own, put together."""
    return all(_done(study, job) for job in entry.jobs) and (not entry.per_pair or gathered(entry))


def _done(study: Study, job: TrainingJob) -> bool:
    return run_state.trained(job) and run_state.evaluated(job, study.settings.evaluate)


def _make(study: Study, job: TrainingJob, processes: Processes, say: Say, environment: dict[str, str]) -> None:
    """Trains a run (on from its last checkpoint) and evaluates it, whatever of this is still to be done."""
    job.directory.mkdir(parents=True, exist_ok=True)
    log = job.directory / LOG
    with (job.directory / "study.lock").open("w") as lock:
        _take(job, lock.fileno(), processes, say)
        if not run_state.trained(job):
            run_state.refuse_another(job)
            run_state.clear_mark(job.directory)
            processes.run(train_command(job, environment), log, environment, lock.fileno())
            if not run_state.at_its_end(job.directory):
                raise Failure(f"{last_line(log)} (stopped before its end; see {log})")
            run_state.mark(job.directory, recipe=run_state.values_of(job.recipe))
        if not run_state.evaluated(job, study.settings.evaluate):
            processes.run(evaluate_command(study, job), log, environment, lock.fileno())
            run_state.mark(job.directory, evaluate=study.settings.evaluate)


def _take(job: TrainingJob, lock: int, processes: Processes, say: Say) -> None:
    """Locks a run's directory; waits for the end of what an earlier, killed study has started in it."""
    told = False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not at_work(job.directory):
                return
        if processes.stopped:
            raise Failure("stopped")
        if not told:
            say(f"{job.directory}: still at work since an earlier start; waiting")
        told = True
        time.sleep(0.5)


def train_command(job: TrainingJob, environment: dict[str, str] | None = None) -> list[str]:
    """What trains a run: ``mnmt-ds train``, under the deepspeed launcher where it has several ranks."""
    end = [str(job.recipe_path), "--resume", *job.overrides]
    if job.launch.ranks == 1 and job.launch.hostfile is None:
        return [*mnmt("train"), *end]
    if not LAUNCHER.exists():
        raise UserError(f"{LAUNCHER}: not there; several ranks need the repository's launchers, or set launch.ranks: 1")
    options = ["--num_gpus", str(job.launch.ranks)]
    if job.launch.hostfile is not None:
        options += ["--hostfile", str(job.launch.hostfile)]
    elif visible := (environment or {}).get("CUDA_VISIBLE_DEVICES"):
        options = ["--include", f"localhost:{visible}"]
    return [sys.executable, str(LAUNCHER), *options, *end]


def evaluate_command(study: Study, job: TrainingJob) -> list[str]:
    """What translates and scores a run's test sets."""
    return [*mnmt("evaluate"), str(job.directory), *shlex.split(study.settings.evaluate)]


def mnmt(command: str) -> list[str]:
    """``mnmt-ds COMMAND`` in this Python."""
    return [sys.executable, "-m", "mnmt_ds.cli.main", command]


def device_variables(job: TrainingJob, slot: int, devices: Sequence[str]) -> dict[str, str]:
    """A run's threads, and its share of the GPUs."""
    threads = {"OMP_NUM_THREADS": str(job.launch.threads)}
    if not devices or job.launch.hostfile is not None:
        return threads
    ranks = min(job.launch.ranks, len(devices))
    share = sorted({(slot * ranks + i) % len(devices) for i in range(ranks)})
    return {**threads, "CUDA_VISIBLE_DEVICES": ",".join(devices[i] for i in share)}


def _reason(error: Exception) -> str:
    """An error on one line; one that is not of our own making with its kind."""
    own = isinstance(error, (Failure, UserError, OSError))
    return " ".join(f"{'' if own else type(error).__name__ + ': '}{error}".split())


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "no log"
    return next((line for line in reversed(lines) if line), "nothing said")


def _progress(entry: StudyEntry, job: TrainingJob) -> str:
    """``lssd, seed 1: epoch 3.2 of 30, dev loss 4.12``."""
    records: list[dict[str, Any]] = []
    for place in student_directories(job.directory)[:1]:
        if (place / "metrics.jsonl").exists():
            records = read_records(place / "metrics.jsonl")
    what = entry.name + (f", {job.directory.name}" if entry.per_pair else "")
    if run_state.trained(job):
        return f"{what}: evaluating"
    if not records:
        return f"{what}: starting"
    text = f"{what}: epoch {records[-1].get('epoch', 0):.1f} of {job.recipe.train.max_epochs}"
    dev = [record[metric_keys.VALID_MACRO] for record in records if metric_keys.VALID_MACRO in record]
    return text + (f", dev loss {min(dev):.3f}" if dev else "")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"

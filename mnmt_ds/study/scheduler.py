"""Runs of a study as processes, several at a time; one that fails is reported and holds up nothing else."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO

from mnmt_ds.errors import UserError, file_fault
from mnmt_ds.files import errors_naming, lock
from mnmt_ds.reporting.runs import is_running, student_directories
from mnmt_ds.run_files import METRICS
from mnmt_ds.shipped_files import shipped_file
from mnmt_ds.study import run_state
from mnmt_ds.study.bilingual import is_merged, merge_pair_runs
from mnmt_ds.study.log_progress import LogProgress, read_progress
from mnmt_ds.study.plan import Study, StudyEntry, TrainingJob

LAUNCHER = shipped_file("launchers/launch.py")
LOG = "log.txt"
GRACE = 60.0
"""Seconds in which a run that is asked to stop may save; then it is killed, and goes on from its last checkpoint."""
Say = Callable[[str], None]


class RunFailed(Exception):
    """Raised where a run's process failed; the message ends with the last line of its log."""


class RunProcesses:
    """Processes that the study has started and that have not ended; each leads a process group of its own."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def run(self, command: Sequence[str], log: Path, environment: dict[str, str], lock: int) -> None:
        """Runs a command to its end, its output appended to the log.

        Args:
            command: words of the command.
            log: file that gets the command and its output.
            environment: variables beside those of this process.
            lock: a descriptor that the process inherits: whatever it locks stays locked while the process lives, even
                when the study itself is killed.

        Raises:
            RunFailed: where the exit code is not 0, or the study is being stopped.
        """
        with errors_naming(log), log.open("ab") as output:
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            if self.stopped:
                raise RunFailed("stopped")
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
            raise RunFailed(f"{last_line(log)} (exit code {code}; see {log})")

    def stop(self) -> None:
        """Asks all processes to stop, and kills those that have not stopped after ``GRACE`` seconds."""
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
    """Trains and evaluates all entries, none before those that it needs.

    Args:
        study: the study.
        entries: what is to be made; finished ones are passed over.
        at_once: runs that are under way at the same time.
        say: prints a line of progress.
        devices: GPUs of this machine as CUDA_VISIBLE_DEVICES names them, which the runs share out; empty: none.

    Returns:
        {directory of a failed entry: reason}.
    """
    processes, failed = RunProcesses(), {}
    waiting = {entry.directory: entry for entry in entries if not is_complete(study, entry)}
    jobs = {d: [job for job in entry.jobs if not _run_is_done(study, job)] for d, entry in waiting.items()}
    total, finished, started = sum(map(len, jobs.values())), 0, time.monotonic()
    free_slots, under_way = list(range(at_once)), dict[Future[None], tuple[StudyEntry, TrainingJob, int, float]]()
    last_report = time.monotonic()

    def settle() -> None:
        """Completes entries that have all their runs, gives up those that need a failed one."""
        for directory, entry in list(waiting.items()):
            failed_needs = [need for need in entry.needs if need in failed]
            if failed_needs and directory not in failed:
                failed[directory], jobs[directory] = f"needs {failed_needs[0]}, which failed", []
                say(f"{entry.name}: not started: {failed[directory]}")
            if jobs[directory] or any(directory == running.directory for running, *_ in under_way.values()):
                continue
            if entry.per_pair and directory not in failed:
                try:
                    merge_pair_runs(entry)
                except Exception as error:  # whatever is wrong with its runs holds up only what needs it
                    failed[directory] = _reason(error)
                    say(f"{entry.name}: failed: {failed[directory]}")
            waiting.pop(directory)

    progress: dict[Path, LogProgress] = {}
    with ThreadPoolExecutor(at_once) as pool:
        try:
            settle()
            while waiting or under_way:
                free = [entry for entry in waiting.values() if waiting.keys().isdisjoint(entry.needs)]
                ready = [(entry, job) for entry in free for job in jobs[entry.directory]]
                for entry, job in ready[: len(free_slots)]:
                    slot = free_slots.pop(0)
                    jobs[entry.directory].remove(job)
                    future = pool.submit(_make_run, study, job, processes, say, device_variables(job, slot, devices))
                    under_way[future] = (entry, job, slot, time.monotonic())
                finished_futures, _ = wait(under_way, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished_futures:
                    entry, job, slot, start = under_way.pop(future)
                    free_slots.append(slot)
                    finished += 1
                    job_name = entry.name + (f", {job.directory.name}" if entry.per_pair else "")
                    try:
                        future.result()
                        say(f"[{finished}/{total}] {job_name}: done in {_minutes(time.monotonic() - start)}")
                    except Exception as error:  # the same
                        failed[entry.directory] = _reason(error)
                        say(f"[{finished}/{total}] {job_name}: failed: {failed[entry.directory]}")
                settle()
                if time.monotonic() > last_report + 60 and under_way:
                    last_report = time.monotonic()
                    where = "; ".join(_progress(entry, job, progress) for entry, job, *_ in under_way.values())
                    say(f"[{finished}/{total}, {_minutes(last_report - started)}] {where}")
        except BaseException:
            processes.stop()
            raise
    return failed


def is_complete(study: Study, entry: StudyEntry) -> bool:
    """Returns whether an entry is trained, evaluated and, where its pairs have models of their own, merged.

    Args:
        study: the study.
        entry: a row in one condition with one seed.

    Returns:
        True where nothing is left to do.
    """
    return all(_run_is_done(study, job) for job in entry.jobs) and (not entry.per_pair or is_merged(entry))


def _run_is_done(study: Study, job: TrainingJob) -> bool:
    return run_state.is_trained(job) and run_state.is_evaluated(job, study.settings.evaluate)


def _make_run(study: Study, job: TrainingJob, processes: RunProcesses, say: Say, environment: dict[str, str]) -> None:
    """Trains a run (on from its last checkpoint) and evaluates it, whatever of this is still to be done."""
    job.directory.mkdir(parents=True, exist_ok=True)
    log = job.directory / LOG
    with _lock_run(job, processes, say) as held:
        if not run_state.is_trained(job):
            run_state.check_same_run(job)
            run_state.clear_mark(job.directory)
            processes.run(train_command(job, environment), log, environment, held.fileno())
            if not run_state.has_ended(job.directory):
                raise RunFailed(f"{last_line(log)} (stopped before its end; see {log})")
            run_state.write_mark(job.directory, recipe=run_state.recipe_values(job.recipe))
        if not run_state.is_evaluated(job, study.settings.evaluate):
            processes.run(evaluate_command(study, job), log, environment, held.fileno())
            run_state.write_mark(job.directory, evaluate=study.settings.evaluate)


def _lock_run(job: TrainingJob, processes: RunProcesses, say: Say) -> IO[str]:
    """Locks a run's directory; waits for the end of what an earlier, killed study has started in it."""
    file, reported = None, False
    while True:
        with contextlib.suppress(BlockingIOError):
            file = file or lock(job.directory / "study.lock")
            if not is_running(job.directory):
                return file
        if processes.stopped:
            if file is not None:
                file.close()
            raise RunFailed("stopped")
        if not reported:
            say(f"{job.directory}: still at work since an earlier start; waiting")
        reported = True
        time.sleep(0.5)


def train_command(job: TrainingJob, environment: dict[str, str] | None = None) -> list[str]:
    """Makes the command that trains a run: ``mnmt-ds train``, under the deepspeed launcher where it has several ranks.

    Args:
        job: the run.
        environment: variables of the run; CUDA_VISIBLE_DEVICES becomes the launcher's ``--include``.

    Returns:
        The words of the command.

    Raises:
        UserError: where several ranks are asked for and the launchers are not there.
    """
    end = [str(job.recipe_path), "--resume", *job.overrides]
    if job.launch.ranks == 1 and job.launch.hostfile is None:
        return [*cli_command("train"), *end]
    if not LAUNCHER.exists():
        raise UserError(f"{LAUNCHER}: not there; several ranks need the repository's launchers, or set launch.ranks: 1")
    options = ["--num_gpus", str(job.launch.ranks)]
    if job.launch.hostfile is not None:
        options += ["--hostfile", str(job.launch.hostfile)]
    elif visible := (environment or {}).get("CUDA_VISIBLE_DEVICES"):
        options = ["--include", f"localhost:{visible}"]
    return [sys.executable, str(LAUNCHER), *options, *end]


def evaluate_command(study: Study, job: TrainingJob) -> list[str]:
    """Makes the command that translates and scores a run's test sets.

    Args:
        study: its options of ``mnmt-ds evaluate``.
        job: the run.

    Returns:
        The words of the command.
    """
    return [*cli_command("evaluate"), str(job.directory), *shlex.split(study.settings.evaluate)]


def cli_command(command: str) -> list[str]:
    """Makes the beginning of an ``mnmt-ds`` command in this Python.

    Args:
        command: such as ``train``.

    Returns:
        The words of the command.
    """
    return [sys.executable, "-m", "mnmt_ds.cli.main", command]


def device_variables(job: TrainingJob, slot: int, devices: Sequence[str]) -> dict[str, str]:
    """Makes the environment variables that give a run its threads and its share of the GPUs.

    Args:
        job: the run.
        slot: number of the run among those under way.
        devices: GPUs of this machine; empty: none.

    Returns:
        Environment variables.
    """
    threads = {"OMP_NUM_THREADS": str(job.launch.threads)}
    if not devices or job.launch.hostfile is not None:
        return threads
    ranks = min(job.launch.ranks, len(devices))
    share = sorted({(slot * ranks + i) % len(devices) for i in range(ranks)})
    return {**threads, "CUDA_VISIBLE_DEVICES": ",".join(devices[i] for i in share)}


def _reason(error: Exception) -> str:
    """An error on one line; one that is not of our own making with its kind."""
    error = file_fault(error) or error
    expected = isinstance(error, (RunFailed, UserError, OSError))
    return " ".join(f"{'' if expected else type(error).__name__ + ': '}{error}".split())


def last_line(log: Path) -> str:
    """Reads the last line of a log that is not blank.

    Args:
        log: the file.

    Returns:
        The line, or that there is none.
    """
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "no log"
    return next((line for line in reversed(lines) if line), "nothing said")


def _progress(entry: StudyEntry, job: TrainingJob, before: dict[Path, LogProgress]) -> str:
    """``lssd, seed 1: epoch 3.2 of 30, dev loss 4.12``; what was read of the logs is kept."""
    job_name = entry.name + (f", {job.directory.name}" if entry.per_pair else "")
    if run_state.is_trained(job):
        return f"{job_name}: evaluating"
    log = student_directories(job.directory)[0] / METRICS
    progress = read_progress(log, before.get(log))
    if progress is None or progress.epoch is None:
        return f"{job_name}: starting"
    before[log] = progress
    text = f"{job_name}: epoch {progress.epoch:.1f} of {job.recipe.train.max_epochs}"
    return text + (f", dev loss {progress.best_dev:.3f}" if progress.best_dev is not None else "")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"

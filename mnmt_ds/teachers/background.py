"""Work beside the training step, one job after another: on a thread, and on a GPU also on a CUDA stream of its own.

On GPUs of several ranks the submitting thread launches it, on that stream: see ``runs_in_caller``.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def runs_in_caller(device: torch.device, ranks: int) -> bool:
    """Returns whether the thread that submits jobs also launches them; they still have a CUDA stream of their own.

    NCCL's collectives on two communicators must be launched in one order on all ranks. The training loop submits jobs
    at the same places on all of them; a thread would launch theirs whenever it comes to it.

    Args:
        device: where the jobs compute.
        ranks: how many take part in the jobs' collectives.

    Returns:
        True on GPUs of several ranks.
    """
    return device.type == "cuda" and ranks > 1


@dataclass(frozen=True)
class Finished(Generic[Value]):
    """Result of a job that has finished."""

    value: Value
    event: torch.cuda.Event | None
    """When it is ready on the job's CUDA stream; None on a CPU."""


class BackgroundWorker:
    """Runs jobs in the order in which they were submitted, without gradient.

    After a job has failed none is run: its collectives would meet those of other jobs on the other ranks, and all would
    hang. Every later job fails with the same error. The thread is a daemon: a rank that fails leaves at once, and does
    not wait for a job that waits for other ranks.
    """

    def __init__(self, device: torch.device, ranks: int = 1) -> None:
        """Starts no thread yet.

        Args:
            device: where the jobs compute.
            ranks: how many take part in the jobs' collectives.
        """
        self.device = device
        self._runs_in_caller = runs_in_caller(device, ranks)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wait_for_last: Callable[[], object] | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], Value]) -> "Future[Finished[Value]]":
        """Queues a job; on a GPU it starts after the work that the current CUDA stream was given so far.

        Args:
            job: the function to run.

        Returns:
            A future for ``result``.

        Raises:
            BaseException: the error of an earlier job that failed.
        """
        if self._failure is not None:
            raise self._failure
        if self._thread is None and not self._runs_in_caller:
            self._thread = threading.Thread(target=self._run, daemon=True, name="teachers")
            self._thread.start()
        future: Future[Finished[Value]] = Future()
        event = torch.cuda.current_stream(self.device).record_event() if self._stream is not None else None
        self._wait_for_last = partial(self.result, future)
        if self._runs_in_caller:
            self._run_job(job, event, future)
        else:
            self._jobs.put(partial(self._run_job, job, event, future))
        return future

    def result(self, future: "Future[Finished[Value]]") -> Value:
        """Waits for a job; its tensors are ready for the current CUDA stream.

        Args:
            future: what ``submit`` gave.

        Returns:
            What the job returned.

        Raises:
            BaseException: the job's error, or that of an earlier job.
        """
        finished = future.result()
        value = finished.value
        if finished.event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(finished.event)
            for tensor in value if isinstance(value, tuple) else (value,):
                if isinstance(tensor, Tensor) and tensor.is_cuda:
                    tensor.record_stream(current)
        return value

    def wait_all(self) -> None:
        """Waits until all jobs are done.

        Raises:
            BaseException: the error of the job that failed.
        """
        if self._wait_for_last is not None:
            self._wait_for_last()

    def _run(self) -> None:
        """Runs jobs for ever; the thread's main function."""
        while True:
            self._jobs.get()()

    def _run_job(
        self, job: Callable[[], Value], event: torch.cuda.Event | None, future: "Future[Finished[Value]]"
    ) -> None:
        """Runs a job after an event, and gives its value or its error to the future."""
        try:
            if self._failure is not None:
                raise self._failure
            with torch.no_grad():
                future.set_result(self._finish(job, event))
        except BaseException as error:  # it is raised in whoever waits for the job
            self._failure = error
            future.set_exception(error)

    def _finish(self, job: Callable[[], Value], event: torch.cuda.Event | None) -> Finished[Value]:
        """Runs a job, on a GPU on the stream of this worker."""
        if self._stream is None or event is None:
            return Finished(job(), None)
        torch.cuda.set_device(self.device)
        self._stream.wait_event(event)
        with torch.cuda.stream(self._stream):
            value = job()
        return Finished(value, self._stream.record_event())

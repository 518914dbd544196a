"""Work beside the training step, one job after another: on a thread, and on a GPU also on a CUDA stream of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor


class BackgroundWorker:
    """Runs jobs in the order in which they were submitted, without gradient.

    After a job has failed none is run: its collectives would meet those of other jobs on the other ranks, and all would
    hang. Every later job fails with the same error. The thread is a daemon: a rank that fails leaves at once, and does
    not wait for a job that waits for other ranks.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts no thread yet.

        Args:
            device: where the jobs compute.
        """
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any], Any]] = SimpleQueue()
        self._last: Future[Any] | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], Any]) -> "Future[Any]":
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
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="teachers")
            self._thread.start()
        future: Future[Any] = Future()
        event = torch.cuda.current_stream(self.device).record_event() if self._stream is not None else None
        self._last = future
        self._jobs.put((future, job, event))
        return future

    def result(self, future: "Future[Any]") -> Any:
        """Waits for a job; its tensors are ready for the current CUDA stream.

        Args:
            future: what ``submit`` gave.

        Returns:
            What the job returned.

        Raises:
            BaseException: the job's error, or that of an earlier job.
        """
        value, done = future.result()
        if self._stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for tensor in value if isinstance(value, tuple) else (value,):
                if isinstance(tensor, Tensor) and tensor.is_cuda:
                    tensor.record_stream(current)
        return value

    def wait_all(self) -> None:
        """Waits until all jobs are done.

        Raises:
            BaseException: the error of the job that failed.
        """
        if self._last is not None:
            self.result(self._last)

    def _run(self) -> None:
        """Runs jobs for ever; the thread's main function."""
        while True:
            future, job, event = self._jobs.get()
            try:
                if self._failure is not None:
                    raise self._failure
                with torch.no_grad():
                    future.set_result(self._run_job(job, event))
            except BaseException as error:  # it is raised in whoever waits for the job
                self._failure = error
                future.set_exception(error)

    def _run_job(self, job: Callable[[], Any], event: Any) -> tuple[Any, Any]:
        """Runs a job after an event; gives its result and the event of its end (None on a CPU)."""
        if self._stream is None:
            return job(), None
        torch.cuda.set_device(self.device)
        self._stream.wait_event(event)
        with torch.cuda.stream(self._stream):
            value = job()
        return value, self._stream.record_event()

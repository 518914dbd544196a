"""Work beside the training step, one job after another: on a thread, and on a GPU also on a stream of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor


class Background:
    """Runs jobs in the order in which they were submitted, without gradient.

    After one has failed none is run: its collectives would meet those of other jobs on the other ranks, and all would
    hang. Every later job fails with the same error. The thread is a daemon: a rank that fails leaves at once, and does
    not wait for a job that waits for its peers.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any], Any]] = SimpleQueue()
        self._last: Future[Any] | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], Any]) -> "Future[Any]":
        """Queues a job; on a GPU it starts after what the present stream was given so far."""
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="teachers")
            self._thread.start()
        future: Future[Any] = Future()
        now = torch.cuda.current_stream(self.device).record_event() if self._stream is not None else None
        self._last = future
        self._jobs.put((future, job, now))
        return future

    def result(self, future: "Future[Any]") -> Any:
        """What a job gave, ready for the present stream; its failure is raised here."""
        value, done = future.result()
        if self._stream is not None:
            present = torch.cuda.current_stream(self.device)
            present.wait_event(done)
            for tensor in value if isinstance(value, tuple) else (value,):
                if isinstance(tensor, Tensor) and tensor.is_cuda:
                    tensor.record_stream(present)
        return value

    def drain(self) -> None:
        """Waits until nothing is under way."""
        if self._last is not None:
            self.result(self._last)

    def _run(self) -> None:
        while True:
            future, job, start = self._jobs.get()
            try:
                if self._failure is not None:
                    raise self._failure
                with torch.no_grad():
                    future.set_result(self._do(job, start))
            except BaseException as error:  # it belongs to whoever waits for the job
                self._failure = error
                future.set_exception(error)

    def _do(self, job: Callable[[], Any], start: Any) -> tuple[Any, Any]:
        if self._stream is None:
            return job(), None
        torch.cuda.set_device(self.device)
        self._stream.wait_event(start)
        with torch.cuda.stream(self._stream):
            value = job()
        return value, self._stream.record_event()

"""Worker processes with bounded memory, and progress on a terminal (elsewhere a rare line)."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Self, TypeVar

from tqdm import tqdm

from mnmt_ds.errors import UserError

A = TypeVar("A")
B = TypeVar("B")


def process_pool(count: int | None = None) -> ProcessPoolExecutor:
    """A pool of processes; by default one for each processor this process may use."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    count = count or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count or os.cpu_count()
    return ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context(method), initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """Lets a worker end when its parent is killed; else it would wait for work for ever, holding the parent's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was killed before this
            os._exit(1)


def map_in_order(pool: Executor, function: Callable[[A], B], items: Iterable[A], ahead: int = 6) -> Iterator[B]:
    """``map`` over processes in order, with at most ``ahead`` items under way.

    Where ``items`` raises, the results of all items before come first.
    """
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
    except UserError:
        while waiting:
            yield waiting.popleft().result()
        raise
    while waiting:
        yield waiting.popleft().result()


class Progress:
    """A bar on a terminal; elsewhere a line every ten seconds. ``with Progress("bs-en", "lines") as p: p.add(5)``."""

    def __init__(self, what: str, unit: str, total: int | None = None) -> None:
        self._terminal = sys.stderr.isatty()
        width, height = shutil.get_terminal_size()  # where a terminal says 0, tqdm by itself would show nothing
        self._bar = tqdm(
            desc=what,
            unit=f" {unit}",
            total=total,
            disable=not self._terminal,
            leave=False,
            unit_scale=True,
            ncols=width,
            nrows=height,
        )
        self._what, self._unit, self._total, self._done = what, unit, total, 0
        self._next = time.monotonic() + 10

    def add(self, count: int) -> None:
        """So many more are done."""
        self._bar.update(count)
        self._done += count
        if not self._terminal and time.monotonic() > self._next:
            self._next = time.monotonic() + 10
            of = f" of {self._total:,}" if self._total else ""
            print(f"{self._what}: {self._done:,}{of} {self._unit}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

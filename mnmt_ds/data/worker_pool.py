"""Worker processes with bounded memory, and progress on a terminal (elsewhere a rare line)."""

import ctypes
import logging
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

LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def process_pool(count: int | None = None) -> ProcessPoolExecutor:
    """Makes a pool of worker processes; they end when this process does.

    Args:
        count: processes; None: one for each processor that this process may use.

    Returns:
        The pool, a context manager.
    """
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    count = count or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count or os.cpu_count()
    return ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context(method), initializer=end_with_parent, initargs=(os.getpid(),)
    )


def end_with_parent(parent: int) -> None:
    """Lets a worker end when its parent is killed; else it would wait for work for ever, holding the parent's lock.

    Args:
        parent: the parent's process number.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was killed before this
            os._exit(1)


def map_in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], max_pending: int = 6
) -> Iterator[Result]:
    """Applies a function in the pool, with few items under way; where ``items`` raises a UserError, the results of all
    items before come first.

    Args:
        pool: worker processes.
        function: what a worker computes; it and its arguments can be pickled.
        items: arguments; taken only as far as results are.
        max_pending: most items under way.

    Yields:
        Results in the order of the items.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= max_pending:
                yield pending.popleft().result()
    except UserError:
        while pending:
            yield pending.popleft().result()
        raise
    while pending:
        yield pending.popleft().result()


class ProgressBar:
    """A progress bar on a terminal; elsewhere a line every ten seconds.

    ``with ProgressBar("bs-en", "lines") as progress: progress.add(5)``
    """

    def __init__(self, label: str, unit: str, total: int | None = None) -> None:
        """Shows the bar, where there is a terminal.

        Args:
            label: what is under way.
            unit: what is counted, in the plural.
            total: how many there are; None: not known.
        """
        self._terminal = sys.stderr.isatty()
        width, height = shutil.get_terminal_size()  # where a terminal says 0, tqdm by itself would show nothing
        self._bar = tqdm(
            desc=label,
            unit=f" {unit}",
            total=total,
            disable=not self._terminal,
            leave=False,
            unit_scale=True,
            ncols=width,
            nrows=height,
        )
        self._label, self._unit, self._total, self._done = label, unit, total, 0
        self._next_line = time.monotonic() + 10

    def add(self, count: int) -> None:
        """Adds to the number of items that are done.

        Args:
            count: how many more.
        """
        self._bar.update(count)
        self._done += count
        if not self._terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + 10
            total = f" of {self._total:,}" if self._total else ""
            LOG.info("%s: %s%s %s", self._label, f"{self._done:,}", total, self._unit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

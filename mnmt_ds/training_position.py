"""Where this process's main thread is in training: what the detection of hung ranks samples."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class TrainingPosition:
    """Position of this process's main thread in the training, which the hang detector reads."""

    moves: int = 0
    """Rises whenever it gets on."""
    update: int = 0
    """The update under way, or the last one."""
    micro_batch: int = 0
    """The micro-batch of that update."""
    in_update: bool = False
    """Whether it is within an update: reading data, passes, the step."""


POSITION = TrainingPosition()
"""This process's."""


def moved(micro_batch: int | None = None) -> None:
    """Records that the main thread has moved on; does nothing in other threads.

    Args:
        micro_batch: that of the update which begins; None: as before.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    POSITION.moves += 1
    if micro_batch is not None:
        POSITION.micro_batch = micro_batch


@contextmanager
def update_under_way(update: int) -> Iterator[None]:
    """Records that an update is under way for as long as the block runs.

    Args:
        update: its number.

    Returns:
        Nothing: a context manager.
    """
    POSITION.update, POSITION.micro_batch, POSITION.in_update = update, 0, True
    moved()
    try:
        yield
    finally:
        POSITION.in_update = False
        moved()

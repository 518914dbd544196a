"""Teachers' states of announced micro-batches on their way: who asks gets the one announced for those sentences."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.teachers.cache_blocks import Ints
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers

TeacherStates = tuple[Tensor, Tensor]
"""Decoder states (B, T, E) and projection (V, E)."""


class TeacherRequest(NamedTuple):
    """A rank's next micro-batch, as far as its teacher is concerned."""

    version: Version
    pair: int
    sentence: Ints
    """Numbers of its sentences in the pair's training set."""

    @property
    def key(self) -> tuple[Version, int, bytes]:
        """What tells it from others; alike ones are answered in the order of their announcement."""
        return self.version, self.pair, self.sentence.tobytes()


class PendingStates:
    """The answers that a teachers's background is at work on."""

    def __init__(self, teachers: ShardedTeachers) -> None:
        self._library = teachers
        self._coming: dict[tuple[Version, int, bytes], deque[Future[TeacherStates]]] = {}

    def expect(self, lesson: TeacherRequest | None, future: "Future[TeacherStates]") -> None:
        """Takes note of what answers this rank's lesson, where it has one."""
        if lesson is not None:
            self._coming.setdefault(lesson.key, deque()).append(future)

    def take(
        self, version: Version, batch: Batch, announce: Callable[[list[TeacherRequest | None]], None]
    ) -> TeacherStates:
        """The answer for a micro-batch; a rank that is alone may ask for one that was not announced."""
        lesson = TeacherRequest(version, batch.pair, batch.sentence_B.cpu().numpy())
        if lesson.key not in self._coming:
            if self._library.ranks.size > 1:
                raise RuntimeError(f"teacher {version}: this micro-batch was not announced")
            announce([lesson])
        waiting = self._coming[lesson.key]
        answer: TeacherStates = self._library.background.result(waiting.popleft())
        if not waiting:
            del self._coming[lesson.key]
        return answer

    def clear(self) -> None:
        """Forgets all that was announced."""
        self._coming.clear()

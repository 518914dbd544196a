"""Teachers along a pipeline: each stage holds its own layers of every teacher, and no others.

Which teacher a micro-batch has is told to all stages before an update; what its lesson needs is started on while they
work on the micro-batch before it. A ``PipelineTeachers`` stands where ``TeacherPool`` expects ``ShardedTeachers``,
around those of this stage's layers: they run beside the student's, and the teacher's states come to the last stage in
the pipeline's own tuple. Where states are remembered nothing travels there: ``CachedPipelineTeachers`` stands before
the stages' caches.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.models.layer_sequence import LayerSegment
from mnmt_ds.teachers.pending_states import TeacherRequest, TeacherStates
from mnmt_ds.teachers.shard_storage import ShardStorage, Version
from mnmt_ds.teachers.sharded_teachers import FetchRequest, ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache

Need = TypeVar("Need", FetchRequest, TeacherRequest)


class Announcer(Protocol[Need]):
    """Who starts on what the ranks' next micro-batches need."""

    def prefetch(self, needs: Sequence[Need | None], /) -> None: ...
    def keep_only(self, versions: Iterable[Version], /) -> None: ...


class AnnouncementQueue(Generic[Need]):
    """Hands an update's announcements on, each one micro-batch before it is needed."""

    def __init__(self, holder: Announcer[Need]) -> None:
        self._holder = holder
        self._coming: Sequence[Need | None] | None = None
        self._queue: deque[Sequence[Need | None] | None] = deque()
        self.received_BTE: Tensor | None = None
        """On the last stage: what the pipeline's tuple brought of the micro-batch in hand."""

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all teachers but these."""
        self._holder.keep_only(versions)

    def prefetch(self, needs: Sequence[Need | None]) -> None:
        """What the next micro-batch of every rank of this stage needs."""
        self._coming = needs

    def schedule(self) -> None:
        """One micro-batch has been told of, with a teacher or without."""
        self._queue.append(self._coming)
        self._coming = None
        if len(self._queue) == 1:
            self._start()

    def advance(self) -> LayerSegment | None:
        """This stage of the teacher that the micro-batch in hand takes along; the next one's need is started on."""
        needs = self._queue.popleft()
        if self._queue:
            self._start()
        return self._beside(needs)

    def _beside(self, needs: Sequence[Need | None] | None) -> LayerSegment | None:
        return None

    def _start(self) -> None:
        if self._queue[0] is not None:
            self._holder.prefetch(self._queue[0])


class PipelineTeachers(AnnouncementQueue[FetchRequest]):
    """One stage's part in the way of every micro-batch past its teacher."""

    def __init__(self, teachers: ShardedTeachers) -> None:
        super().__init__(teachers)
        self._library = teachers

    @property
    def shard_storage(self) -> ShardStorage:
        """This stage's layers of every teacher in use."""
        return self._library.shard_storage

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Decoder states (B, T, E) that have arrived and the teacher's projection (V, E), on the last stage."""
        assert self.received_BTE is not None
        teacher: LayerSegment = self._library.teacher(version)  # type: ignore[assignment]
        return self.received_BTE, teacher.projection_VD

    def models(self) -> list[nn.Module]:
        """The teachers' layers on this rank's device."""
        return self._library.models()

    def _beside(self, needs: Sequence[FetchRequest | None] | None) -> LayerSegment | None:
        mine = needs[self._library.ranks.rank] if needs is not None else None
        return None if mine is None else self._library.teacher(mine.version)  # type: ignore[return-value]


class CachedPipelineTeachers(AnnouncementQueue[TeacherRequest]):
    """One stage's part in the remembering of teachers' states."""

    def __init__(self, cache: StateCache) -> None:
        super().__init__(cache)
        self._cache = cache

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Decoder states (B, T, E) and projection (V, E), on the last stage."""
        return self._cache.states(version, batch)

    def models(self) -> list[nn.Module]:
        """None on the device but the teachers's."""
        return self._cache.models()

"""Teachers along a pipeline: each stage holds its own layers of every teacher, and no others.

All stages learn before an update which teacher each of its micro-batches has. What a micro-batch needs is prefetched
while the stage works on the micro-batch before it.

Not cached (``PipelineTeachers``): the teacher's layers run beside the student's, and its activations are sent in the
pipeline's own tuple of tensors. Cached (``CachedPipelineTeachers``): nothing of a teacher is sent there; the stages'
caches bring the states to the last stage in the background.

Letters: B sentences, T target tokens, E width, V vocabulary.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.models.layer_sequence import ModelChunk
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache
from mnmt_ds.teachers.teacher_server import TeacherRequest, TeacherServer, TeacherStates, WholeTeachers


class PrefetchQueue:
    """Passes an update's requests on to another server, each one micro-batch before it is needed.

    For each micro-batch of an update, in order: ``prefetch`` where a rank has a teacher, then ``schedule``. When the
    stage comes to a micro-batch, it calls ``advance``.
    """

    def __init__(self, server: TeacherServer) -> None:
        """Starts with an empty queue.

        Args:
            server: where the requests go.
        """
        self._server = server
        self._latest: Sequence[TeacherRequest | None] | None = None
        self._queue: deque[Sequence[TeacherRequest | None] | None] = deque()
        self.received_BTE: Tensor | None = None
        """On the last stage: the teacher's states of the present micro-batch that came along the pipeline."""

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers.

        Args:
            versions: the teachers to keep.
        """
        self._server.keep_only(versions)

    def prefetch(self, requests: Sequence[TeacherRequest | None]) -> None:
        """Records what the next micro-batch to be scheduled needs.

        Args:
            requests: one entry a data-parallel rank of this stage; None: no teacher.
        """
        self._latest = requests

    def schedule(self) -> None:
        """Appends one micro-batch to the queue, with the requests recorded since the last one, or with none."""
        self._queue.append(self._latest)
        self._latest = None
        if len(self._queue) == 1:
            self._prefetch_first()

    def advance(self) -> ModelChunk | None:
        """Removes the present micro-batch from the queue, and prefetches what the one after it needs.

        Returns:
            This stage's layers of the present micro-batch's teacher, to be run beside the student's; None where the
            micro-batch has no teacher, or a cache gives its states.
        """
        requests = self._queue.popleft()
        if self._queue:
            self._prefetch_first()
        return self._layers(requests)

    def models(self) -> list[nn.Module]:
        """Lists the teachers' layers on this rank's device.

        Returns:
            At most two stages of models.
        """
        return self._server.models()

    def report(self) -> dict[str, float]:
        """Returns metrics since the last report.

        Returns:
            Values by metric key.
        """
        return self._server.report()

    def _layers(self, requests: Sequence[TeacherRequest | None] | None) -> ModelChunk | None:
        """Gives the layers that the present micro-batch runs through beside the student's."""
        return None

    def _prefetch_first(self) -> None:
        if self._queue[0] is not None:
            self._server.prefetch(self._queue[0])


class PipelineTeachers(PrefetchQueue):
    """Runs one pipeline stage's layers of the teachers beside the student's in every micro-batch."""

    def __init__(self, teachers: ShardedTeachers) -> None:
        """Serves the given teachers.

        Args:
            teachers: this stage's layers of all teachers, sharded over the ranks of this stage.
        """
        super().__init__(WholeTeachers(teachers))
        self._teachers = teachers

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Returns the states that came along the pipeline; called on the last stage.

        Args:
            version: the teacher.
            batch: the present micro-batch.

        Returns:
            Decoder states (B, T, E) and projection (V, E).
        """
        assert self.received_BTE is not None
        teacher: ModelChunk = self._teachers.teacher(version)  # type: ignore[assignment]
        return self.received_BTE, teacher.projection_VD

    def _layers(self, requests: Sequence[TeacherRequest | None] | None) -> ModelChunk | None:
        request = requests[self._teachers.ranks.rank] if requests is not None else None
        return None if request is None else self._teachers.teacher(request.version)  # type: ignore[return-value]


class CachedPipelineTeachers(PrefetchQueue):
    """Serves teacher states from the cache of one pipeline stage."""

    def __init__(self, cache: StateCache) -> None:
        """Serves from a cache.

        Args:
            cache: this stage's; the last stage's one holds the states.
        """
        super().__init__(cache)
        self.cache = cache

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Waits for the states of the present micro-batch; called on the last stage.

        Args:
            version: the teacher.
            batch: the present micro-batch.

        Returns:
            Decoder states (B, T, E) and projection (V, E).
        """
        return self.cache.states(version, batch)

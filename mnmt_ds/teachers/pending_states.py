"""Teacher states that were prefetched and not yet used: a queue of futures for each request.

Letters: B sentences, T target tokens, E width, V vocabulary.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from mnmt_ds.batch import Batch
from mnmt_ds.teachers.background import Finished
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.teacher_server import TeacherRequest, TeacherStates


class PendingStates:
    """Futures of this rank's requests, which the background worker fulfils."""

    def __init__(self, teachers: ShardedTeachers) -> None:
        """Starts empty.

        Args:
            teachers: the teachers whose background worker computes the states.
        """
        self._teachers = teachers
        self._futures: dict[tuple[Version, int, bytes], deque[Future[Finished[TeacherStates | None]]]] = {}

    def add(self, request: TeacherRequest | None, future: "Future[Finished[TeacherStates | None]]") -> None:
        """Stores the future that answers this rank's request.

        Args:
            request: this rank's request; None: it has none, and nothing is stored.
            future: a job of the background worker.
        """
        if request is not None:
            self._futures.setdefault(request.key, deque()).append(future)

    def pop(
        self, version: Version, batch: Batch, prefetch: Callable[[list[TeacherRequest | None]], None]
    ) -> TeacherStates:
        """Waits for the states of a micro-batch and removes its request.

        Args:
            version: the teacher.
            batch: the micro-batch.
            prefetch: called with the request where it was not prefetched and this rank is alone.

        Returns:
            Decoder states (B, T, E) and projection (V, E).

        Raises:
            RuntimeError: when the micro-batch was not prefetched and other ranks would have to help.
        """
        request = TeacherRequest(version, batch.pair, batch.sentence_B.numpy())
        if request.key not in self._futures:
            if self._teachers.ranks.size > 1:
                raise RuntimeError(f"teacher {version}: this micro-batch was not prefetched")
            prefetch([request])
        futures = self._futures[request.key]
        states = self._teachers.background.result(futures.popleft())
        if not futures:
            del self._futures[request.key]
        assert states is not None, "this rank has a request"
        return states

    def clear(self) -> None:
        """Drops all requests."""
        self._futures.clear()

"""Teachers whose layers stand along a pipeline: each stage holds its own layers of every teacher, and no others.

A relay stands where ``Faculty`` expects a ``Library``, around the library of this stage's layers. Which teacher a
micro-batch has is told to all stages before an update; its states come to the last stage in the pipeline's own tuple.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.models.segment import Segment
from mnmt_ds.teachers.library import Library, Wanted
from mnmt_ds.teachers.shelf import Shelf, Version

Row = Sequence[Wanted | None] | None


class Relay:
    """One stage's part in the way of every micro-batch past its teacher."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._coming: Row = None
        self._queue: deque[Row] = deque()
        self._begun = False
        self.arrived_BTE: Tensor | None = None
        """On the last stage: the teacher's states of the micro-batch in hand."""

    @property
    def shelf(self) -> Shelf:
        """This stage's layers of every teacher in use."""
        return self._library.shelf

    def retain(self, versions: Iterable[Version]) -> None:
        """Drops all teachers but these."""
        self._library.retain(versions)

    def announce(self, wanted: Sequence[Wanted | None]) -> None:
        """The teachers of the next micro-batch, of every rank of this stage."""
        self._coming = wanted

    def noted(self) -> None:
        """One micro-batch has been told of, with a teacher or without."""
        self._queue.append(self._coming)
        self._coming = None

    def turn(self) -> Segment | None:
        """This stage of the teacher of the micro-batch in hand; the next one's is fetched meanwhile."""
        wanted = self._queue.popleft()
        if not self._begun:
            self._start(wanted)
        self._begun = bool(self._queue)
        if self._begun:
            self._start(self._queue[0])
        mine = wanted[self._library.ranks.rank] if wanted is not None else None
        return None if mine is None else self._library.teacher(mine.version)  # type: ignore[return-value]

    def states(self, version: Version, batch: Batch) -> tuple[Tensor, Tensor]:
        """Decoder states (B, T, E) that have arrived and the teacher's projection (V, E), on the last stage."""
        assert self.arrived_BTE is not None
        teacher: Segment = self._library.teacher(version)  # type: ignore[assignment]
        return self.arrived_BTE, teacher.projection_VD

    def models(self) -> list[nn.Module]:
        """The teachers' layers on this rank's device."""
        return self._library.models()

    def _start(self, wanted: Row) -> None:
        if wanted is not None:
            self._library.announce(wanted)

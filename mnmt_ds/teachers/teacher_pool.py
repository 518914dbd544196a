"""All that a method needs of its frozen teachers: take them in, let them go, announce, ask."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mnmt_ds import metric_keys
from mnmt_ds.batch import Batch, Slot
from mnmt_ds.teachers.pending_states import TeacherRequest, TeacherStates
from mnmt_ds.teachers.shard_storage import ShardStorage, Version
from mnmt_ds.teachers.sharded_teachers import FetchRequest
from mnmt_ds.teachers.state_cache import StateCache


class TeacherSource(Protocol):
    """Who teaches a pair: its own best checkpoint, the overall best one, an expert. Its state is in the checkpoint."""

    def teacher_of(self, pair: str) -> Version | None:
        """The version of the pair's teacher; None while the pair is not taught."""
        ...

    def update(self, report: Any) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...
    def snapshots(self) -> set[int]: ...
    def report(self, update: int) -> dict[str, float]: ...


class TeacherHolder(Protocol):
    """Who keeps the teachers' weights and asks them: a ``Library``, or along a pipeline a ``Relay``."""

    @property
    def shard_storage(self) -> ShardStorage: ...
    def keep_only(self, versions: Iterable[Version]) -> None: ...
    def prefetch(self, wanted: Sequence[FetchRequest | None]) -> None: ...
    def states(self, version: Version, batch: Batch) -> TeacherStates: ...
    def models(self) -> list[nn.Module]: ...


class SentenceTeachers(Protocol):
    """Who answers from the sentences announced: a ``StateCache``, ``Remembered`` before one, or ``Passing``."""

    def keep_only(self, versions: Iterable[Version]) -> None: ...
    def prefetch(self, lessons: Sequence[TeacherRequest | None]) -> None: ...
    def states(self, version: Version, batch: Batch) -> TeacherStates: ...
    def models(self) -> list[nn.Module]: ...


class TeacherPool:
    """The teachers of one student: their shards, the ones on the device, and what is remembered of their states.

    Every method but ``states`` is called by all ranks alike.
    """

    def __init__(
        self,
        pairs: Sequence[str],
        teachers: TeacherHolder,
        cache: StateCache | None,
        own_shard: Callable[[], Tensor],
        load: Callable[[Version], Tensor],
        by_sentence: SentenceTeachers | None = None,
    ) -> None:
        """``by_sentence``: None: the cache, or where there is none, a whole teacher on the device for any batch."""
        self.pairs, self.teachers, self.cache = pairs, teachers, cache
        self._by_sentence: SentenceTeachers | None = by_sentence or cache
        self._own_shard, self._load = own_shard, load

    def take_snapshot(self, version: Version) -> None:
        """The student's present weights become a teacher; a rank copies its own shard, nothing is gathered."""
        self.teachers.shard_storage.put(version, self._own_shard())

    def restore(self, versions: Iterable[Version]) -> None:
        """Reads teachers from the files that a checkpoint refers to; UserError where one is missing or bad."""
        versions = set(versions)
        self.keep_only(versions)
        for version in sorted(versions, key=str):
            if version not in self.teachers.shard_storage:
                self.teachers.shard_storage.put(version, self._load(version))

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Lets all others go, with what is remembered of them."""
        (self._by_sentence or self.teachers).keep_only(set(versions))

    def prefetch(self, slots: Sequence[Slot | None], source: TeacherSource) -> None:
        """Starts on what the ranks' next micro-batches need of a source's teachers."""
        versions = [None if slot is None else source.teacher_of(self.pairs[slot.pair]) for slot in slots]
        if not any(version is not None for version in versions):
            return
        if self._by_sentence is not None:
            self._by_sentence.prefetch(
                [
                    None if slot is None or version is None else TeacherRequest(version, slot.pair, slot.sentence)
                    for slot, version in zip(slots, versions, strict=True)
                ]
            )
        else:
            self.teachers.prefetch([None if version is None else FetchRequest(version) for version in versions])

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """A teacher on a batch: decoder states (B, T, E) and projection (V, E); no dropout, no gradient."""
        with torch.no_grad():
            return (self._by_sentence or self.teachers).states(version, batch)

    def on_device(self) -> list[nn.Module]:
        """The models, or parts of them, that stand on this rank's device."""
        return [*self.teachers.models(), *(self._by_sentence.models() if self._by_sentence else ())]

    def report(self) -> dict[str, float]:
        """Metric keys; bytes are this rank's."""
        keys = {metric_keys.MEMORY_TEACHERS: float(self.teachers.shard_storage.memory_bytes())}
        return keys | (self.cache.report() if self.cache is not None else {})

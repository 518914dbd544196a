"""What every way of serving teachers' decoder states has in common, and the simplest way: whole teachers on the device.

===========================  ============================  ==========================================================
way                          class                         who computes the states of a micro-batch, and when
===========================  ============================  ==========================================================
whole teacher, not cached    ``WholeTeachers``             this rank, in its step, with the teacher fetched before
whole teacher, cached        ``StateCache``                a rank, once for each block; later they come from its cache
layers streamed              ``LayerStreamedTeachers``     this rank, in the background, layer by layer
pipeline, not cached         ``PipelineTeachers``          each stage its layers, beside the student's
pipeline, cached             ``CachedPipelineTeachers``    all stages, once for each block, in the background
===========================  ============================  ==========================================================

All but the first and the fourth compute from the sentence numbers that ``prefetch`` names, not from the batch.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.teachers.cache_blocks import Ints
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers, teacher_states

TeacherStates = tuple[Tensor, Tensor]
"""Decoder states (B, T, E) and output projection (V, E): B sentences, T target tokens, E width, V vocabulary."""


class TeacherRequest(NamedTuple):
    """Request for a teacher's states of a rank's next micro-batch."""

    version: Version
    """The teacher."""
    pair: int
    """Number of the language pair in the run's list."""
    sentence: Ints
    """Numbers of the micro-batch's sentences in the pair's training set, (B,)."""

    @property
    def key(self) -> tuple[Version, int, bytes]:
        """Hashable form of the request; equal ones are answered in the order of their prefetches."""
        return self.version, self.pair, self.sentence.tobytes()


class TeacherServer(Protocol):
    """Interface that serves each micro-batch's teacher states, prefetched one micro-batch ahead."""

    def prefetch(self, requests: Sequence[TeacherRequest | None]) -> None:
        """Prefetches what the ranks' next micro-batches need; all ranks call this in the same order.

        Args:
            requests: one entry a data-parallel rank, equal on all of them; None: no teacher.
        """
        ...

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Waits for the states of a prefetched micro-batch.

        Args:
            version: the teacher.
            batch: this rank's micro-batch, on the device.

        Returns:
            Decoder states (B, T, E) and projection (V, E).
        """
        ...

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers, with their cached states; all ranks call this together.

        Args:
            versions: the teachers to keep.
        """
        ...

    def models(self) -> list[nn.Module]:
        """Lists the teacher models, or parts of them, on this rank's device.

        Returns:
            The modules; their weights change from teacher to teacher.
        """
        ...

    def report(self) -> dict[str, float]:
        """Returns metrics since the last report.

        Returns:
            Values by metric key; empty without a cache.
        """
        ...


class WholeTeachers:
    """Serves from whole teachers on the device: each micro-batch runs through its teacher when its states are asked."""

    def __init__(self, teachers: ShardedTeachers) -> None:
        """Serves the given teachers.

        Args:
            teachers: the sharded weights, fetched whole.
        """
        self._teachers = teachers

    def prefetch(self, requests: Sequence[TeacherRequest | None]) -> None:
        """Starts to fetch the teachers of the ranks' next micro-batches.

        Args:
            requests: one entry a data-parallel rank, equal on all of them; None: no teacher.
        """
        self._teachers.prefetch([None if request is None else request.version for request in requests])

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Runs a teacher on a batch, without dropout or gradient.

        Args:
            version: the teacher; a rank that is alone may ask for one that was not prefetched.
            batch: any batch, on the device.

        Returns:
            Decoder states (B, T, E) and projection (V, E).

        Raises:
            RuntimeError: when the teacher was not prefetched for this rank.
        """
        with torch.no_grad():
            return teacher_states(self._teachers.teacher(version), batch)

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers.

        Args:
            versions: the teachers to keep.
        """
        self._teachers.keep_only(versions)

    def models(self) -> list[nn.Module]:
        """Lists the teachers on this rank's device.

        Returns:
            At most two whole models.
        """
        return self._teachers.models()

    def report(self) -> dict[str, float]:
        """Returns no metrics, since nothing is cached.

        Returns:
            An empty dictionary.
        """
        return {}

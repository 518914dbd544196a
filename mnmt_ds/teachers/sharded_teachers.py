"""Frozen models held once across the job: a shard of each on every rank, whole on a device only while it teaches.

A teacher is named by its version: the update whose weights it has, or the file that it came from. Every rank may need
another teacher for its next micro-batch. One all-to-all, in the background of the present step, brings each rank its
own: a rank sends its shards of what the others need and receives one teacher, whatever the number of ranks or pairs.

Letters: R ranks, C elements of a shard's range; B sentences, T target tokens, E width, V vocabulary.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.distributed import RankGroup
from mnmt_ds.teachers.background import BackgroundWorker, Finished
from mnmt_ds.teachers.shard_exchange import all_to_all_shards, exchange_ranges
from mnmt_ds.teachers.shard_layout import ShardLayout, fill_parameters
from mnmt_ds.teachers.shard_storage import ShardStorage, Version

ON_DEVICE = 2
"""Teachers on a device at once: the one in use, and the next one, which is being fetched."""


class FetchRequest(NamedTuple):
    """Request of a rank for a teacher on its device."""

    version: Version
    projection_only: bool = False
    """Whether the output projection is enough."""


class ShardTransfer(NamedTuple):
    """A range of a teacher's shards that one rank has to receive."""

    version: Version
    buffer: int
    """Which of the receiving rank's models is filled."""
    start: int
    """First element of the range, in every shard."""
    stop: int
    """End of the range."""


class BufferTable:
    """Table of the teachers in every rank's buffers; each rank computes it for all, so that no message is needed."""

    def __init__(self, ranks: int) -> None:
        """Starts with empty buffers.

        Args:
            ranks: number of data-parallel ranks.
        """
        # of each rank, least recently used buffer first: buffer -> (teacher, elements of its shards that are there)
        self._buffers: list[OrderedDict[int, tuple[Version | None, int]]] = [
            OrderedDict((buffer, (None, 0)) for buffer in range(ON_DEVICE)) for _ in range(ranks)
        ]

    def plan_transfers(
        self, requests: Sequence[FetchRequest | None], layout: ShardLayout
    ) -> list[ShardTransfer | None]:
        """Assigns every requested teacher a buffer; a new one takes the least recently used buffer.

        Args:
            requests: one entry a rank; None: nothing is needed.
            layout: the shards' layout.

        Returns:
            What each rank has to receive; None: nothing.
        """
        return [
            None if request is None else self._plan_transfer(buffers, request, layout)
            for buffers, request in zip(self._buffers, requests, strict=True)
        ]

    def index_of(self, rank: int, version: Version) -> int:
        """Finds a teacher's buffer.

        Args:
            rank: the rank that holds it.
            version: the teacher.

        Returns:
            The buffer's number.
        """
        return next(buffer for buffer, (held, _) in self._buffers[rank].items() if held == version)

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Empties the buffers of all other teachers.

        Args:
            versions: the teachers to keep.
        """
        kept_versions = set(versions)
        for buffers in self._buffers:
            for buffer, (version, _) in buffers.items():
                if version not in kept_versions:
                    buffers[buffer] = (None, 0)

    def _plan_transfer(
        self, buffers: "OrderedDict[int, tuple[Version | None, int]]", request: FetchRequest, layout: ShardLayout
    ) -> ShardTransfer | None:
        """Chooses the buffer of one rank's teacher, and what of the teacher is not there yet."""
        stop = layout.projection_length if request.projection_only else layout.length
        buffer = next((s for s, (version, _) in buffers.items() if version == request.version), next(iter(buffers)))
        present = buffers[buffer][1] if buffers[buffer][0] == request.version else 0
        buffers[buffer] = (request.version, max(present, stop))
        buffers.move_to_end(buffer)
        return ShardTransfer(request.version, buffer, present, stop) if present < stop else None


def planned_exchanges(
    transfers: Sequence[ShardTransfer | None], layout: ShardLayout
) -> Iterator[tuple[list[ShardTransfer | None], int, int]]:
    """Lists the exchanges of a fetch, of which every rank takes part in each.

    Args:
        transfers: what each rank has to receive; None: nothing.
        layout: the shards' layout.

    Yields:
        The transfers that an exchange serves, and the range (start, stop) of the shards that it moves.
    """
    for ranges in exchange_ranges(layout, len(transfers)):
        for start, stop in ranges:
            served = [t if t and t.start <= start < t.stop else None for t in transfers]
            if any(served):
                yield served, start, stop


class ShardedTeachers:
    """Teachers of one student, sharded over its data-parallel ranks; fetches whole ones onto a device."""

    def __init__(
        self,
        shard_storage: ShardStorage,
        layout: ShardLayout,
        ranks: RankGroup,
        blank_model: Callable[[], nn.Module],
        device: torch.device,
    ) -> None:
        """Starts with no model on the device.

        Args:
            shard_storage: this rank's shards of all teachers in use.
            layout: how a model is cut into shards.
            ranks: the ranks that hold the shards, with a group that nothing else uses.
            blank_model: makes a model on the device whose weights are to be filled.
            device: this rank's device.
        """
        self.shard_storage, self.layout, self.ranks, self.device = shard_storage, layout, ranks, device
        self.background = BackgroundWorker(device, ranks.size)
        self._blank_model = blank_model
        self._buffers = BufferTable(ranks.size)
        self._models: dict[int, nn.Module] = {}
        self._parameters: dict[int, Mapping[str, Tensor]] = {}
        # the teachers in this rank's buffers, least recently used first
        self._fetched: OrderedDict[Version, Future[Finished[nn.Module | None]]] = OrderedDict()

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers, once the background work is done; all ranks call this together.

        Args:
            versions: the teachers to keep.
        """
        self.background.wait_all()
        versions = set(versions)
        self.shard_storage.keep_only(versions)
        self._buffers.keep_only(versions)
        for version in [v for v in self._fetched if v not in versions]:
            del self._fetched[version]

    def prefetch(self, versions: Sequence[Version | None]) -> None:
        """Starts to fetch the ranks' next teachers in the background; all ranks call this in the same order.

        Args:
            versions: one entry a rank, equal on all of them; None: the rank needs no teacher.
        """
        self.allocate_buffers()
        requests = [None if version is None else FetchRequest(version) for version in versions]
        future = self.background.submit(lambda: self.fetch(requests))
        own_version = versions[self.ranks.rank]
        if own_version is not None:
            self._fetched[own_version] = future
            self._fetched.move_to_end(own_version)
            if len(self._fetched) > ON_DEVICE:
                self._fetched.popitem(last=False)

    def teacher(self, version: Version) -> nn.Module:
        """Waits for a prefetched teacher.

        Args:
            version: the teacher; a rank that is alone may ask for one that was not prefetched.

        Returns:
            The model on the device.

        Raises:
            RuntimeError: when it was not prefetched and other ranks would have to send their shards.
        """
        if version not in self._fetched:
            if self.ranks.size > 1:
                raise RuntimeError(f"teacher {version} was not prefetched for this rank")
            self.prefetch([version])
        model = self.background.result(self._fetched[version])
        assert model is not None, "this rank has asked for it"
        return model

    def models(self) -> list[nn.Module]:
        """Lists the models on this rank's device.

        Returns:
            None before the first teacher, then as many as there are buffers.
        """
        return list(self._models.values())

    def allocate_buffers(self) -> None:
        """Makes the models that teachers' weights are written into, once.

        Making a model draws random numbers. A thread would take these from the dropout of the present step; so this is
        called in the main thread, which puts the random state back.
        """
        for buffer in range(ON_DEVICE if not self._models else 0):
            with torch.random.fork_rng(devices=()):
                self._models[buffer] = self._blank_model()
            self._parameters[buffer] = dict(self._models[buffer].named_parameters())

    def fetch(self, requests: Sequence[FetchRequest | None]) -> nn.Module | None:
        """Fetches what every rank needs and does not have yet; runs in the background, on all ranks alike.

        Args:
            requests: one entry a rank, equal on all of them; None: the rank needs nothing.

        Returns:
            The model of this rank's teacher; None where it needs none.
        """
        transfers = self._buffers.plan_transfers(requests, self.layout)
        for exchange, first, last in planned_exchanges(transfers, self.layout):
            self._exchange(exchange, first, last)
        own_request = requests[self.ranks.rank]
        return (
            None if own_request is None else self._models[self._buffers.index_of(self.ranks.rank, own_request.version)]
        )

    def _exchange(self, transfers: Sequence[ShardTransfer | None], start: int, stop: int) -> None:
        """Moves one bucket, ``start`` to ``stop`` of the shards, of every transfer, and writes it into the model."""
        versions = [transfer.version if transfer else None for transfer in transfers]
        received_RC = all_to_all_shards(self.shard_storage, self.ranks, self.device, versions, start, stop)
        own_transfer = transfers[self.ranks.rank]
        if own_transfer and received_RC is not None:
            parameters = self._parameters[own_transfer.buffer]
            fill_parameters(self.layout.between(start, stop), received_RC, start, parameters)


def teacher_states(teacher: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Runs a whole model on a batch.

    Args:
        teacher: a ``Transformer`` in eval mode.
        batch: the batch, on the model's device.

    Returns:
        Decoder states (B, T, E) and projection (V, E).
    """
    hidden_BTE: Tensor = teacher(batch.source_BS, batch.decoder_BT).decoder_BTD
    projection_VE: Tensor = teacher.head.weight
    return hidden_BTE, projection_VE

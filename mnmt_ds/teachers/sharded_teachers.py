"""Frozen models, held once across the job: a shard of each on every rank, whole on a device only while it teaches.

A teacher has a version: the update whose weights it is, or the name of the file that it came from. Every rank may want
another teacher for its next micro-batch. One all-to-all brings each rank its own, in the background of the step in
hand: a rank sends its shards of what the others want, and receives one teacher, whatever the number of ranks or pairs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.distributed import RankGroup
from mnmt_ds.teachers.background import Background
from mnmt_ds.teachers.shard_exchange import BUCKET, all_to_all_shards
from mnmt_ds.teachers.shard_layout import ShardLayout, buckets, fill_parameters
from mnmt_ds.teachers.shard_storage import ShardStorage, Version

ON_DEVICE = 2
"""Teachers on a device at once: the one in use and the one that is fetched meanwhile."""


class FetchRequest(NamedTuple):
    """What a rank's next micro-batch needs of the teachers."""

    version: Version
    body: bool = True
    """False: the output projection is enough."""


class ShardTransfer(NamedTuple):
    """A range of a teacher's shards on its way to one rank's slot."""

    version: Version
    slot: int
    start: int
    stop: int


class SlotTable:
    """Which teachers stand in which slot of every rank: each rank reckons this for all, so that all agree unasked."""

    def __init__(self, ranks: int) -> None:
        self._slots: list[OrderedDict[int, tuple[Version | None, int]]] = [
            OrderedDict((slot, (None, 0)) for slot in range(ON_DEVICE)) for _ in range(ranks)
        ]

    def moves(self, wanted: Sequence[FetchRequest | None], layout: ShardLayout) -> list[ShardTransfer | None]:
        """What each rank must receive; the teacher that rested longest gives up its slot."""
        return [
            None if want is None else self._move(slots, want, layout)
            for slots, want in zip(self._slots, wanted, strict=True)
        ]

    def slot(self, rank: int, version: Version) -> int:
        """Where a rank holds a teacher."""
        return next(slot for slot, (held, _) in self._slots[rank].items() if held == version)

    def forget(self, keep: Iterable[Version]) -> None:
        """Empties the slots of all but these."""
        kept = set(keep)
        for slots in self._slots:
            for slot, (version, _) in slots.items():
                if version not in kept:
                    slots[slot] = (None, 0)

    def _move(
        self, slots: "OrderedDict[int, tuple[Version | None, int]]", want: FetchRequest, layout: ShardLayout
    ) -> ShardTransfer | None:
        stop = layout.length if want.body else layout.head
        slot = next((s for s, (version, _) in slots.items() if version == want.version), next(iter(slots)))
        held = slots[slot][1] if slots[slot][0] == want.version else 0
        slots[slot] = (want.version, max(held, stop))
        slots.move_to_end(slot)
        return ShardTransfer(want.version, slot, held, stop) if held < stop else None


class ShardedTeachers:
    """The teachers of one student, sharded; ``wanted`` lists are equal on every rank, one entry a rank."""

    def __init__(
        self,
        shard_storage: ShardStorage,
        layout: ShardLayout,
        ranks: RankGroup,
        blank_model: Callable[[], nn.Module],
        device: torch.device,
    ) -> None:
        self.shard_storage, self.layout, self.ranks, self.device = shard_storage, layout, ranks, device
        self.background = Background(device)
        self._blank_model = blank_model
        self._residents = SlotTable(ranks.size)
        self._models: dict[int, nn.Module] = {}
        self._parameters: dict[int, Mapping[str, Tensor]] = {}
        self._fetched: OrderedDict[Version, Future[nn.Module]] = OrderedDict()  # as this rank's slots

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all teachers but these."""
        self.background.drain()
        versions = set(versions)
        self.shard_storage.keep_only(versions)
        self._residents.forget(versions)
        for version in [v for v in self._fetched if v not in versions]:
            del self._fetched[version]

    def prefetch(self, wanted: Sequence[FetchRequest | None]) -> None:
        """Starts to fetch what the ranks' next micro-batches need; all ranks call this in the same order."""
        self.open_slots()
        future = self.background.submit(lambda: self.fetch(wanted))
        mine = wanted[self.ranks.rank]
        if mine is not None:
            self._fetched[mine.version] = future
            self._fetched.move_to_end(mine.version)
            if len(self._fetched) > ON_DEVICE:
                self._fetched.popitem(last=False)

    def states(self, version: Version, batch: Batch) -> tuple[Tensor, Tensor]:
        """A teacher on a batch: decoder states (B, T, E) and projection (V, E); no dropout, no gradient."""
        with torch.no_grad():
            return teacher_states(self.teacher(version), batch)

    def teacher(self, version: Version) -> nn.Module:
        """A teacher on the device, waited for where it is still on its way."""
        if version not in self._fetched:
            if self.ranks.size > 1:
                raise RuntimeError(f"teacher {version} was not announced for this rank")
            self.prefetch([FetchRequest(version)])
        return self.background.result(self._fetched[version])

    def models(self) -> list[nn.Module]:
        """The teachers on this rank's device."""
        return list(self._models.values())

    def open_slots(self) -> None:
        """Makes the models whose weights teachers take turns in: here, since making one draws random numbers, which
        a thread would take from the dropout of the step in hand."""
        for slot in range(ON_DEVICE if not self._models else 0):
            with torch.random.fork_rng():
                self._models[slot] = self._blank_model()
            self._parameters[slot] = dict(self._models[slot].named_parameters())

    def fetch(self, wanted: Sequence[FetchRequest | None]) -> nn.Module | None:
        """Brings to every rank's device what it wants and does not have; gives this rank's teacher.

        Runs in the background, on all ranks alike.
        """
        moves = self._residents.moves(wanted, self.layout)
        stop = max((m.stop for m in moves if m), default=0)
        for part in (self.layout.between(0, self.layout.head), self.layout.between(self.layout.head, stop)):
            for bucket in buckets(part, BUCKET // self.ranks.size):
                self._exchange([m if m and m.start <= bucket[0] < m.stop else None for m in moves], *bucket)
        mine = wanted[self.ranks.rank]
        return None if mine is None else self._models[self._residents.slot(self.ranks.rank, mine.version)]

    def _exchange(self, moves: Sequence[ShardTransfer | None], start: int, stop: int) -> None:
        """One bucket: ``start`` to ``stop`` of every moving teacher's shards."""
        versions = [m.version if m else None for m in moves]
        received_RC = all_to_all_shards(self.shard_storage, self.ranks, self.device, versions, start, stop)
        mine = moves[self.ranks.rank]
        if mine and received_RC is not None:
            fill_parameters(
                self.layout, self.layout.between(start, stop), received_RC, start, self._parameters[mine.slot]
            )


def teacher_states(teacher: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Decoder states and projection of a model."""
    return teacher(batch.source_BS, batch.decoder_BT).decoder_BTD, teacher.head.weight  # type: ignore[union-attr,return-value]

"""Teachers' decoder states, remembered: computed once a block, kept by the rank that computed them, sent where needed.

Every rank knows what all ranks' next micro-batches hold, so all reckon alike which blocks are new, who computes them
and who sends what to whom: nobody asks, and the collectives come in the same order everywhere. All of it happens in the
background of the step in hand; what is left of the teacher there is the fused loss's product with its projection.

Along a pipeline the last stages remember, and the stages before them reckon with them: of what is known they neither
fetch nor run their layers. Ranks that share a vocabulary remember the same, each for itself.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds import metric_keys
from mnmt_ds.batch import Batch, to_device
from mnmt_ds.teachers.cache_blocks import CachePlan, Ints
from mnmt_ds.teachers.pending_states import PendingStates, TeacherRequest, TeacherStates
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import FetchRequest, ShardedTeachers
from mnmt_ds.teachers.state_codec import decode, encode
from mnmt_ds.teachers.state_storage import BlockKey, StateStorage
from mnmt_ds.teachers.teacher_forward import TeacherForward

NOBODY = -1


class StateCache:
    """States of the teachers in a teachers; ``lessons`` are equal on every rank, one entry a rank."""

    def __init__(
        self,
        teachers: ShardedTeachers,
        plan: CachePlan,
        state_storage: StateStorage,
        collate: Callable[[int, Ints], Batch],
        fp8: bool,
        way: TeacherForward,
    ) -> None:
        self.way = way
        self.teachers, self.plan, self.state_storage, self.fp8 = teachers, plan, state_storage, fp8
        self.served = self.computed = 0
        self._collate = collate
        self._home: dict[tuple[Version, int], Ints] = {}
        self._room = [plan.memory + plan.disk] * teachers.ranks.size
        self._taken: dict[Version, list[int]] = {}
        self._answers = PendingStates(teachers)

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Forgets all teachers but these."""
        versions = set(versions)
        self.teachers.keep_only(versions)
        self.state_storage.keep_only(versions)
        self._home = {key: home for key, home in self._home.items() if key[0] in versions}
        for version in [v for v in self._taken if v not in versions]:
            self._room = [r + t for r, t in zip(self._room, self._taken.pop(version), strict=True)]
        self._answers.clear()

    def prefetch(self, lessons: Sequence[TeacherRequest | None]) -> None:
        """Starts on what the ranks' next micro-batches need; all ranks call this in the same order."""
        self.teachers.open_slots()
        future = self.teachers.background.submit(lambda: self._prepare(lessons))
        if self.way.last:
            self._answers.expect(lessons[self.teachers.ranks.rank], future)

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """The announced answer: decoder states (B, T, E) and projection (V, E)."""
        return self._answers.take(version, batch, self.prefetch)

    def models(self) -> list[torch.nn.Module]:
        """None on the device but the teachers's."""
        return []

    def report(self) -> dict[str, float]:
        """Metric keys; ``computed``: sentences computed for each that was taught, since the last report. Bytes in
        memory are this rank's, or of the last stage of its pipeline."""
        share = self.computed / max(1, self.served)
        self.served = self.computed = 0
        held = sum(taken[self.teachers.ranks.rank] for taken in list(self._taken.values()))
        return {
            metric_keys.MEMORY_TEACHER_STATES: float(min(held, self.plan.memory)),
            metric_keys.TEACHER_COMPUTED: share,
        }

    def _prepare(self, lessons: Sequence[TeacherRequest | None]) -> TeacherStates | None:
        read = self._read(lessons)
        kept = [self._kept(lesson) for lesson in lessons]
        fresh = [self._fresh(lesson, mask) for lesson, mask in zip(lessons, kept, strict=True)]
        wanted = [
            self._wanted(lesson, bool(len(blocks)) or not bool(mask.all()))
            for lesson, mask, blocks in zip(lessons, kept, fresh, strict=True)
        ]
        teacher = self.teachers.fetch(wanted)
        me = self.teachers.ranks.rank
        mine, rest = lessons[me], None
        if mine is not None:
            for block in fresh[me]:
                key = BlockKey(mine.version, mine.pair, int(block))
                read[key] = self._compute(teacher, mine.pair, self.plan.blocks[mine.pair].sentences[key.block])
            if not kept[me].all():
                rest = self._compute(teacher, mine.pair, mine.sentence[~kept[me]])
            self.served += len(mine.sentence)
        self._settle(lessons, fresh, read)
        if not self.way.last:
            return None
        arrived = self._exchange(lessons, kept, read)
        if mine is None:
            return None
        states_BTE = self._assemble(teacher, mine, kept[me], read, arrived, rest)
        return states_BTE, self.way.projection_VE(teacher)

    def _wanted(self, lesson: TeacherRequest | None, unknown: bool) -> FetchRequest | None:
        """What the teacher of a rank's lesson is fetched for: to compute what is unknown, and where the loss is."""
        return FetchRequest(lesson.version, body=unknown) if lesson is not None and (unknown or self.way.last) else None

    def _kept(self, lesson: TeacherRequest | None) -> np.ndarray:
        """Which sentences of a lesson are remembered ones."""
        if lesson is None:
            return np.zeros(0, bool)
        return self.plan.blocks[lesson.pair].block_of[lesson.sentence] < self.plan.admitted[lesson.pair]

    def _homes(self, lesson: TeacherRequest) -> Ints:
        """The rank that holds each block of the lesson's teacher and pair."""
        key = (lesson.version, lesson.pair)
        if key not in self._home:
            self._home[key] = np.full(len(self.plan.blocks[lesson.pair].rows), NOBODY, np.int64)
        return self._home[key]

    def _fresh(self, lesson: TeacherRequest | None, kept: np.ndarray) -> Ints:
        """Blocks that a rank must compute for its lesson."""
        if lesson is None:
            return np.zeros(0, np.int64)
        blocks = np.unique(self.plan.blocks[lesson.pair].block_of[lesson.sentence[kept]])
        return blocks[self._homes(lesson)[blocks] == NOBODY]

    def _settle(
        self, lessons: Sequence[TeacherRequest | None], fresh: Sequence[Ints], read: dict[BlockKey, Tensor]
    ) -> None:
        """New blocks find their homes: the first rank that computed them, where it has room."""
        for rank, (lesson, blocks) in enumerate(zip(lessons, fresh, strict=True)):
            for block in blocks if lesson is not None else ():
                size = int(self.plan.blocks[lesson.pair].rows[block]) * self.plan.bytes_a_row
                if self._homes(lesson)[block] != NOBODY or size > self._room[rank]:
                    continue
                self._homes(lesson)[block] = rank
                self._room[rank] -= size
                self._taken.setdefault(lesson.version, [0] * len(self._room))[rank] += size
                if rank == self.teachers.ranks.rank and self.way.last:
                    key = BlockKey(lesson.version, lesson.pair, int(block))
                    self.state_storage.put(key, read[key])

    def _read(self, lessons: Sequence[TeacherRequest | None]) -> dict[BlockKey, Tensor]:
        """This rank's blocks that the lessons need. Where files are in use, all ranks hear which ones were lost."""
        read: dict[BlockKey, Tensor] = {}
        lost: list[BlockKey] = []
        for lesson in lessons if self.way.last else ():
            if lesson is None:
                continue
            homes = self._homes(lesson)
            for block in np.unique(self.plan.blocks[lesson.pair].block_of[lesson.sentence[self._kept(lesson)]]):
                key = BlockKey(lesson.version, lesson.pair, int(block))
                if homes[block] == self.teachers.ranks.rank and key not in read:
                    rows = self.state_storage.get(key)
                    if rows is None:
                        lost.append(key)
                    else:
                        read[key] = rows
        if self.plan.disk and any(lessons):
            for rank, keys in enumerate(self._everyones(lost)):
                for key in keys:
                    self._home[key.version, key.pair][key.block] = NOBODY
                    size = int(self.plan.blocks[key.pair].rows[key.block]) * self.plan.bytes_a_row
                    self._room[rank] += size
                    self._taken[key.version][rank] -= size
        return read

    def _everyones(self, lost: list[BlockKey]) -> list[list[BlockKey]]:
        ranks = self.way.everyone
        if ranks.size == 1:
            return [lost]
        count = torch.tensor(len(lost), device=self.teachers.device)
        dist.all_reduce(count, group=ranks.group)
        if not int(count):
            return []
        found: list[list[BlockKey]] = [[] for _ in range(ranks.size)]
        dist.all_gather_object(found, lost, group=ranks.group)
        last = found[ranks.size - ranks.size // self.way.stages :]
        alike = len(last) // self.teachers.ranks.size
        columns = [last[k : k + alike] for k in range(0, len(last), alike)]
        return [list(dict.fromkeys(key for keys in column for key in keys)) for column in columns]

    def _compute(self, teacher: torch.nn.Module, pair: int, sentence: Ints) -> Tensor:
        """States of whole sentences, one after another, as bytes (rows, bytes a row) on the CPU; no rows where they
        do not come out."""
        self.computed += len(sentence)
        batch = to_device(self._collate(pair, sentence), self.teachers.device)
        hidden_BTE = self.way.states(teacher, batch)
        if hidden_BTE is None:
            return torch.empty(0, self.plan.bytes_a_row, dtype=torch.uint8)
        length = self.plan.blocks[pair].length[sentence]
        rows = torch.cat([hidden_BTE[i, : int(n)] for i, n in enumerate(length)])
        return encode(rows, self.fp8).cpu()

    def _exchange(
        self, lessons: Sequence[TeacherRequest | None], kept: Sequence[np.ndarray], read: dict[BlockKey, Tensor]
    ) -> dict[int, Tensor]:
        """Rows that other ranks hold of this rank's lesson, by their rank, in the order of the lesson's sentences."""
        ranks, width = self.teachers.ranks, self.plan.bytes_a_row
        if ranks.size == 1:
            return {}
        sizes = np.zeros((ranks.size, ranks.size), np.int64)  # rows from, to
        sent: list[Tensor] = []
        for to, (lesson, mask) in enumerate(zip(lessons, kept, strict=True)):
            if lesson is None:
                continue
            blocks = self.plan.blocks[lesson.pair]
            chosen = lesson.sentence[mask]
            homes = self._homes(lesson)[blocks.block_of[chosen]]
            np.add.at(sizes[:, to], homes[homes != NOBODY], blocks.length[chosen[homes != NOBODY]])
            sizes[to, to] = 0
            if to != ranks.rank:
                mine = chosen[homes == ranks.rank]
                sent += [self._rows(lesson, number, read) for number in mine]
        if not sizes.any():
            return {}
        outgoing = torch.cat(sent) if sent else torch.empty(0, width, dtype=torch.uint8)
        incoming = torch.empty(int(sizes[:, ranks.rank].sum()), width, dtype=torch.uint8, device=self.teachers.device)
        dist.all_to_all_single(
            incoming.view(-1),
            outgoing.to(self.teachers.device).view(-1),
            output_split_sizes=[int(n) * width for n in sizes[:, ranks.rank]],
            input_split_sizes=[int(n) * width for n in sizes[ranks.rank]],
            group=ranks.group,
        )
        return dict(enumerate(incoming.cpu().split([int(n) for n in sizes[:, ranks.rank]])))

    def _rows(self, lesson: TeacherRequest, number: int, read: dict[BlockKey, Tensor]) -> Tensor:
        """One sentence's rows of a block that this rank has at hand."""
        blocks = self.plan.blocks[lesson.pair]
        start = int(blocks.row_of[number])
        key = BlockKey(lesson.version, lesson.pair, int(blocks.block_of[number]))
        return read[key][start : start + int(blocks.length[number])]

    def _assemble(
        self,
        teacher: torch.nn.Module,
        lesson: TeacherRequest,
        kept: np.ndarray,
        read: dict[BlockKey, Tensor],
        arrived: dict[int, Tensor],
        rest: Tensor | None,
    ) -> Tensor:
        """Decoder states (B, T, E), 0 where a sentence has ended. ``rest``: of sentences that are not remembered."""
        blocks = self.plan.blocks[lesson.pair]
        length = blocks.length[lesson.sentence]
        homes = self._homes(lesson)[blocks.block_of[lesson.sentence]]
        me = self.teachers.ranks.rank
        queue = {
            rank: iter(rows.split(_lengths(length, kept & (homes == rank))))
            for rank, rows in arrived.items()
            if len(rows)
        }
        if rest is not None:
            queue[NOBODY] = iter(rest.split(_lengths(length, ~kept)))
        parts = []
        for number, home, known in zip(lesson.sentence, homes, kept, strict=True):
            if not known:
                parts.append(next(queue[NOBODY]))
            elif home in (me, NOBODY) or self.teachers.ranks.size == 1:
                parts.append(self._rows(lesson, number, read))
            else:
                parts.append(next(queue[int(home)]))
        dtype = next(teacher.parameters()).dtype
        rows_RE = decode(torch.cat(parts).to(self.teachers.device), self.fp8, dtype)
        states_BTE = rows_RE.new_zeros(len(length), int(length.max()), rows_RE.shape[1])
        there_BT = torch.arange(int(length.max()))[None] < torch.from_numpy(length)[:, None]
        states_BTE[there_BT.to(rows_RE.device)] = rows_RE
        return states_BTE


def _lengths(length: Ints, chosen: np.ndarray) -> list[int]:
    return [int(n) for n in length[chosen]]

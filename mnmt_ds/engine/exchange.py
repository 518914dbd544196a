"""What students give one another: decoder states of a batch, and trials of weights with the others as teachers.

Together, a student's states are made where they are asked for; along a pipeline they come from all of its stages, which
are the learner's, too: so every stage runs the peer over an update's micro-batches before the update, and the last one,
where the losses are, keeps them. Split, the ranks of a column take turns of rounds: in a
round each member that has a micro-batch asks, the others' states of it are made where they live and come back, and the
turn is over when none has a micro-batch left. Nobody's weights move within a turn.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.distributed import device, team
from mnmt_ds.engine import pipeline, student
from mnmt_ds.engine.placement import ASK, DONE, Column, Head
from mnmt_ds.engine.stream import Stream
from mnmt_ds.engine.student import Scorer, Student
from mnmt_ds.objectives.peers import Peers, TrialSettings

States = tuple[Tensor, Tensor]
Key = tuple[str, int | bytes]
"""A student, and a micro-batch of the trial set by its number; along a pipeline by its sentences."""


@dataclass
class Memory:
    """The others' states on the trial set: the same in every trial."""

    holds: bool
    """Whether they fit; equal on all ranks, since at ZeRO-3 all must compute or none."""
    at: int = 0
    """The micro-batch of the trial set that is trained on."""
    hidden: dict[Key, Tensor | None] = field(default_factory=dict)
    """On the CPU; along a pipeline None on all stages but the last."""
    projection: dict[str, Tensor] = field(default_factory=dict)


class Question(NamedTuple):
    """What the head of a member with a micro-batch says."""

    whom: int
    """A bit for each member whose states it wants."""
    rows: int
    """Of its batch: B, S and T."""
    source: int
    target: int
    dropout: int
    seed: int
    """Of that dropout."""


class Exchange:
    """The run's students, by name: those of this rank, empty until they are built."""

    def __init__(
        self, column: Column, streams: Sequence[Stream], dev: Sequence[Batch], pairs: Sequence[str], score: Scorer
    ) -> None:
        self.column = column
        self.students: dict[str, Student] = {}
        self.streams = dict(zip(column.names, streams, strict=True))
        """All students' data."""
        self.dev, self.pairs, self.score = dev, pairs, score
        """Dev batches of all pairs, and the plain cross-entropy."""
        self.memory: Memory | None = None
        """Set while a student is tried."""
        self.measured = 0.0
        """Seconds that trials have spent on dev sets since the last ``measuring``."""
        self._announced: list[tuple[Collection[str], bool]] = []
        self._brought: dict[Key, Tensor | None] = {}
        self._open = False
        self._heard: dict[int, Tensor] = {}
        """Other members' projections of this turn."""
        self._given: set[int] = set()
        """Members that have this rank's."""

    def peers_of(
        self, me: str, partitioned: bool, last_update: int,
        run: Callable[["Exchange", Student, TrialSettings, Sequence[Callable[[], None]]], list[dict[str, float]]],
    ) -> Peers:  # fmt: skip
        """What the method of a student is told of the others; ``run`` carries trials out."""

        def trial(settings: TrialSettings, changes: Sequence[Callable[[], None]]) -> list[dict[str, float]]:
            return run(self, self.students[me], settings, changes)

        def announce(asked: Collection[str], dropout: bool) -> None:
            if student.piped(self.students[me].engine):
                self._announced.append((asked, dropout))

        others = [name for name in self.column.names if name != me]
        return Peers(me, others, self.states, announce, partitioned or self.column.split, trial, last_update)

    def measuring(self) -> float:
        """The seconds that trials have spent on dev sets since it was last asked."""
        found, self.measured = self.measured, 0.0
        return found

    def states(self, names: Sequence[str], batch: Batch, dropout: bool) -> dict[str, States]:
        """Some students' decoder states and projections of a batch, without gradient; in trials without dropout."""
        memory = self.memory
        if any(student.piped(own.engine) for own in self.students.values()):
            known = memory.hidden if memory is not None and memory.holds else self._brought
            engines: dict[str, Any] = {name: self.students[name].engine for name in names}
            return {
                name: (_there(known[key_of(name, batch)]), engine.module.model.projection_VD.detach())
                for name, engine in engines.items()
            }
        if memory is None or not memory.holds:
            return self._made(names, batch, dropout and memory is None)
        missing = [name for name in names if (name, memory.at) not in memory.hidden]
        if missing:
            self.remember(missing, batch)
        return {name: (_there(memory.hidden[name, memory.at]), memory.projection[name]) for name in names}

    def remember(self, names: Sequence[str], batch: Batch) -> None:
        """Keeps what some students say of the present micro-batch of the trial set."""
        assert self.memory is not None
        for name, (hidden_BTE, projection_VE) in self._made(names, batch, False).items():
            self.memory.hidden[name, self.memory.at] = hidden_BTE.to("cpu", copy=True)
            self.memory.projection[name] = projection_VE

    def bring(self, one: Student, group: Sequence[Batch], number: int | str) -> None:
        """Along a pipeline, before an update of ``one``: the states that its micro-batches were announced to need.

        All stages run the same micro-batches of the same peers, in the same order.
        """
        announced, self._announced = self._announced, []
        self._brought, memory = {}, self.memory
        loud = memory is None and any(dropout for _, dropout in announced)
        for name in sorted(set().union(*(asked for asked, _ in announced))):
            wanted = [k for k, (asked, _) in enumerate(announced) if name in asked]
            if memory is not None and memory.holds:
                wanted = [k for k in wanted if key_of(name, group[k]) not in memory.hidden]
            seeds = [pipeline.seed(one, "teach", number, k) for k in wanted] if loud else None
            found = pipeline.states(self.students[name].engine, [group[k] for k in wanted], seeds)
            for k, hidden_BTE in zip(wanted, found, strict=True):
                if memory is not None and memory.holds:
                    memory.hidden[key_of(name, group[k])] = None if hidden_BTE is None else hidden_BTE.cpu()
                else:
                    self._brought[key_of(name, group[k])] = hidden_BTE

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Split students ask in here; those that do not, or no longer, answer at its end until none asks."""
        self._open = self.column.split
        self._heard.clear()
        self._given.clear()
        yield
        self.answer()

    def answer(self) -> None:
        """Answers until no member of the column asks; the turn is over."""
        while self._open:
            heads = self.column.heads(DONE)
            self._open = any(head[0] == ASK for head in heads)
            self._round(heads, None)

    def _made(self, names: Sequence[str], batch: Batch, dropout: bool) -> dict[str, States]:
        seed = torch.initial_seed()  # what this micro-batch's teachers are seeded by
        if not self.column.split:
            return {name: self._own(name, batch, dropout, seed) for name in names}
        if not self._open:
            raise RuntimeError("states of other students were asked for when none answers")
        asked = sum(1 << self.column.names.index(name) for name in names)
        rows, source = batch.source_BS.shape
        question = Question(asked, rows, source, batch.decoder_BT.shape[1], int(dropout), seed)
        return self._round(self.column.heads(ASK, *question), batch)

    def _own(self, name: str, batch: Batch, dropout: bool, seed: int) -> States:
        engine: Any = self.students[name].engine
        if not dropout:
            return student.quiet_states(engine, batch)
        torch.manual_seed(seed)
        return student.loud_states(engine, batch)

    def _round(self, heads: Sequence[Head], batch: Batch | None) -> dict[str, States]:
        """Batches go to those that are asked, states come back; with them, once a turn, the projection."""
        names, me = self.column.names, team()
        questions = {i: Question(*head[1 : 1 + len(Question._fields)]) for i, head in enumerate(heads)}
        asking = [i for i, question in questions.items() if question.whom >> me & 1]
        asked = [i for i in questions if questions[me].whom >> i & 1]
        theirs = {i: _blank(questions[i]) for i in asking}
        mine = [batch.source_BS, batch.decoder_BT] if batch is not None else []
        self.column.transfer(
            [(i, tensor) for i in asked for tensor in mine],
            [(i, tensor) for i in asking for tensor in (theirs[i].source_BS, theirs[i].decoder_BT)],
        )
        answers: list[tuple[int, Tensor]] = []
        for i in asking:
            states = self._own(names[me], theirs[i], bool(questions[i].dropout), questions[i].seed)
            answers += [(i, tensor) for tensor in (states[:1] if i in self._given else states)]
            self._given.add(i)
        hidden = {i: self._room(questions[me].rows, questions[me].target) for i in asked}
        new = {i: self._room(self.students[names[me]].model.vocabulary_size) for i in asked if i not in self._heard}
        self.column.transfer(answers, [(i, room[i]) for i in asked for room in (hidden, new) if i in room])
        self._heard |= new
        return {names[i]: (hidden[i], self._heard[i]) for i in asked}

    def _room(self, *shape: int) -> Tensor:
        """Room for another student's states of a shape, which are as wide and of the same type as this one's."""
        own = self.students[self.column.names[team()]]
        return torch.empty(*shape, own.recipe.model.d_model).to(next(own.engine.module.parameters()))


def _blank(question: Question) -> Batch:
    """Room for the batch that a member asks about."""
    rows, *lengths = question[1:4]
    source_BS, decoder_BT = (torch.empty(rows, length, dtype=torch.int64, device=device()) for length in lengths)
    return Batch(source_BS, decoder_BT, decoder_BT, 0, decoder_BT[:, 0], 0, 1)


def _there(hidden_BTE: Tensor | None) -> Tensor:
    """Kept states on this rank's device."""
    assert hidden_BTE is not None
    return hidden_BTE.to(device())


def key_of(name: str, batch: Batch) -> Key:
    """Under which a student's states of a batch are known along a pipeline."""
    return name, batch.pair.to_bytes(8) + batch.sentence_B.cpu().numpy().tobytes()

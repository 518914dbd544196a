"""What students give one another: decoder states of a batch, and trials of weights with the others as teachers.

The others' states of an update's micro-batches are brought before it. Together they are made by this rank; along a
pipeline by all of its stages, which are the learner's, too, and the last one, where the losses are, keeps them. Split,
the ranks of a column take turns of rounds. In a round each member says all that it asks, answers the others micro-batch
after micro-batch, and goes on to train while answers are under way: it waits for each where its loss is taken. The turn
is over when none will ask again. Nobody's weights move within a turn.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.batch import Batch, to_device
from mnmt_ds.distributed import device, student_team
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.parallel import pipeline_engine
from mnmt_ds.engine.students import student
from mnmt_ds.engine.students.placement import ASK, DONE, LAST, PeerGroup
from mnmt_ds.engine.students.student import Scorer, Student
from mnmt_ds.methods.peers import Peers, TrialSettings

States = tuple[Tensor, Tensor]
Wish = tuple[Sequence[str], Batch]
"""Whom a micro-batch asks, and about what text."""
Said = dict[tuple[str, int], Tensor | None]
"""Students' states of an update's micro-batches; along a pipeline None on all stages but the last."""
QUIET = -1
"""In the place of a seed: no dropout."""


@dataclass
class TrialStateCache:
    """The others' states on the trial set: the same in every trial."""

    holds: bool
    """Whether they fit; equal on all ranks, since at ZeRO-3 all must compute or none."""
    said: dict[int | str, Said] = field(default_factory=dict)
    """By update; on the CPU."""


class PeerRequest(NamedTuple):
    """What a member says of a micro-batch, before its text."""

    whom: int = 0
    """A bit for each member whose states it wants."""
    rows: int = 0
    """Of its batch: B, S and T."""
    source: int = 0
    target: int = 0
    seed: int = QUIET
    """Of the others' dropout."""


class PeerExchange:
    """The run's students, by name: those of this rank, empty until they are built."""

    def __init__(
        self,
        column: PeerGroup,
        streams: Sequence[TrainingData],
        dev: Sequence[Batch],
        pairs: Sequence[str],
        score: Scorer,
    ) -> None:
        self.column = column
        self.students: dict[str, Student] = {}
        self.streams = dict(zip(column.names, streams, strict=True))
        """All students' data."""
        self.dev, self.pairs, self.score = dev, pairs, score
        """Dev batches of all pairs, and the plain cross-entropy."""
        self.memory: TrialStateCache | None = None
        """Set while a student is tried."""
        self.measured = 0.0
        """Seconds that trials have spent on dev sets since the last ``measuring``."""
        self._whom: dict[str, tuple[Callable[[str], Collection[str]], bool]] = {}
        """Of each student here: whom a pair's batches ask, and whether with dropout."""
        self._said: Said = {}
        """Of the update at hand."""
        self._projection: dict[str, Tensor] = {}
        self._under_way: dict[int, list[dist.Work]] = {}
        """By micro-batch: its answers, and those that left with them."""
        self._open = False

    def peers_of(
        self, me: str, last_update: int,
        run: Callable[["PeerExchange", Student, TrialSettings, Sequence[Callable[[], None]]], list[dict[str, float]]],
    ) -> Peers:  # fmt: skip
        """What the method of a student is told of the others; ``run`` carries trials out."""

        def trial(settings: TrialSettings, changes: Sequence[Callable[[], None]]) -> list[dict[str, float]]:
            return run(self, self.students[me], settings, changes)

        def subscribe(whom: Callable[[str], Collection[str]], dropout: bool) -> None:
            self._whom[me] = whom, dropout

        others = [name for name in self.column.names if name != me]
        return Peers(me, others, subscribe, self.states, trial, last_update)

    def measuring(self) -> float:
        """The seconds that trials have spent on dev sets since it was last asked."""
        found, self.measured = self.measured, 0.0
        return found

    def states(self, names: Sequence[str], batch: Batch) -> dict[str, States]:
        """Some students' decoder states and projections of a micro-batch of the update at hand, without gradient."""
        self._arrive(batch.place)
        return {name: (_there(self._said[name, batch.place]), self._projection[name]) for name in names}

    def bring(self, one: Student, group: Sequence[Batch], number: int | str) -> None:
        """What the others say of the micro-batches of an update of ``one``, before it; in trials without dropout.

        All ranks of the student call this, in the same order.
        """
        if one.name not in self._whom:
            return
        memory, loud = self.memory, self._whom[one.name][1] and self.memory is None
        kept = memory is not None and memory.holds
        self._said = memory.said.setdefault(number, {}) if memory is not None and kept else {}
        wishes = [self._wish(one, batch, k) for k, batch in enumerate(group)]
        seeds = [pipeline_engine.seed(one, "teach", number, k) if loud else QUIET for k in range(len(group))]
        if not self.column.split:
            self._make(wishes, seeds)
        elif self._open:
            self._round(LAST if memory is None else ASK, wishes, seeds)
        elif any(names for names, _ in wishes):
            raise RuntimeError("states of other students were asked for when none answers")
        if kept:
            self._arrive()
            self._said |= {key: None if hidden is None else hidden.cpu() for key, hidden in self._said.items()}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Split students that teach ask in here; those that do not, or no longer, answer at its end until none asks."""
        self._open = self.column.split and bool(self._whom)
        yield
        self.answer()

    def answer(self) -> None:
        """Answers until no member of the column will ask again; the turn is over."""
        while self._open:
            self._round(DONE)
        self._arrive()

    def _arrive(self, index: int | None = None) -> None:
        """Waits for what is under way, up to a micro-batch or all."""
        for k in [k for k in self._under_way if index is None or k <= index]:
            for work in self._under_way.pop(k):
                work.wait()

    def _wish(self, one: Student, batch: Batch, index: int) -> Wish:
        """Whom a micro-batch asks, and about what; where all ranks must pass together (ZeRO-3, pipelines), one that
        wants nothing asks about a word."""
        whom, _ = self._whom[one.name]
        pairs = self.pairs[batch.pair : batch.pair + 1] if batch.tokens else []  # none: text of one language
        if student.is_pipeline_engine(one.engine) or one.engine.zero_optimization_stage() == 3:
            if not any(map(whom, pairs)):
                batch = batch._replace(source_BS=batch.source_BS[:1, :1], decoder_BT=batch.decoder_BT[:1, :1])
            pairs = self.pairs
        return sorted({name for pair in pairs for name in whom(pair) if (name, index) not in self._said}), batch

    def _make(self, wishes: Sequence[Wish], seeds: Sequence[int]) -> None:
        """This rank, or its pipeline, has all students."""
        for name in sorted({name for names, _ in wishes for name in names}):
            engine: Any = self.students[name].engine
            own = [k for k, (names, _) in enumerate(wishes) if name in names]
            if student.is_pipeline_engine(engine):
                drawn = [seeds[k] for k in own if seeds[k] != QUIET]
                found = pipeline_engine.states(engine, [wishes[k][1] for k in own], drawn or None)
                self._said |= {(name, k): hidden_BTE for k, hidden_BTE in zip(own, found, strict=True)}
                if found[0] is not None:
                    self._projection[name] = engine.module.model.projection_VD.detach()
                continue
            for k in own:
                self._said[name, k], self._projection[name] = _pass(engine, wishes[k][1], seeds[k])

    def _round(self, kind: int, wishes: Sequence[Wish] = (), seeds: Sequence[int] = ()) -> None:
        """Asks, answers the others, leaves its own answers under way; a member's first ones bring its projection."""
        self._arrive()
        names, me = self.column.names, student_team()
        own = self.students[names[me]]
        kinds, letters = self.column.letters(kind, _written(names, wishes, seeds))
        self._open = ASK in kinds
        asked = [_read(letter) for letter in letters]
        told, heard = set(), set()
        for k in range(max(map(len, asked))):
            out: list[tuple[int, Tensor]] = []
            into: list[tuple[int, Tensor]] = []
            for i, (question, batch) in ((i, theirs[k]) for i, theirs in enumerate(asked) if k < len(theirs)):
                if question.whom >> me & 1:
                    states = _pass(own.engine, batch, question.seed)
                    out += [(i, tensor) for tensor in (states[:1] if i in told else states)]
                    told.add(i)
            for name in wishes[k][0] if wishes else ():
                i = names.index(name)
                self._said[name, k] = hidden_BTE = _room(own, *wishes[k][1].decoder_BT.shape)
                into.append((i, hidden_BTE))
                if i not in heard:
                    self._projection[name] = _room(own, own.model.vocabulary_size)
                    into.append((i, self._projection[name]))
                    heard.add(i)
            self._under_way[k] = self.column.transfer(out, into)


def _pass(engine: Any, batch: Batch, seed: int) -> States:
    """Decoder states and projection of a batch."""
    batch = to_device(batch, device())
    if seed == QUIET:
        return student.eval_states(engine, batch)
    torch.manual_seed(seed)
    return student.train_states(engine, batch)


def _room(own: Student, *shape: int) -> Tensor:
    """Room for another student's states of a shape, which are as wide and of the same type as one's own."""
    return torch.empty(*shape, own.recipe.model.d_model).to(next(own.engine.module.parameters()))


def _written(names: Sequence[str], wishes: Sequence[Wish], seeds: Sequence[int]) -> Tensor:
    """A letter: how many questions, the questions, the text of those that have someone to answer."""
    questions, texts = [], []
    for (asked, batch), seed in zip(wishes, seeds, strict=True):
        (rows, source), target = batch.source_BS.shape, batch.decoder_BT.shape[1]
        whom = sum(1 << names.index(name) for name in asked)
        questions.append(PeerRequest(whom, rows, source, target, seed) if asked else PeerRequest())
        texts += [batch.source_BS.flatten(), batch.decoder_BT.flatten()] if asked else []
    head = [len(questions), *chain(*questions)] if questions else []
    return torch.cat([torch.tensor(head, dtype=torch.int64), *texts])


def _read(letter: Tensor) -> list[tuple[PeerRequest, Batch]]:
    """The questions of a letter, with their batches; an empty letter has none."""
    width, count = len(PeerRequest._fields), int(letter[0]) if len(letter) else 0
    head, body = letter[1 : 1 + count * width], letter[1 + count * width :]
    questions = [PeerRequest(*row) for row in head.view(count, width).tolist()]
    shapes = [(q.rows, length) for q in questions for length in (q.source, q.target)]
    texts = [text.view(shape) for text, shape in zip(body.split([a * b for a, b in shapes]), shapes, strict=True)]
    batches = [
        Batch(source, target, target, 0, target, 0, 1) for source, target in zip(texts[::2], texts[1::2], strict=True)
    ]
    return list(zip(questions, batches, strict=True))


def _there(hidden_BTE: Tensor | None) -> Tensor:
    """Kept states on this rank's device."""
    assert hidden_BTE is not None
    return hidden_BTE.to(device())

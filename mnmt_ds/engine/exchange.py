"""What students give one another: decoder states of a batch, and trials of weights with the others as teachers."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.engine import pipeline, student
from mnmt_ds.engine.student import Scorer, Student
from mnmt_ds.objectives.peers import Peers, TrialSettings

States = tuple[Tensor, Tensor]
Key = tuple[str, int, bytes]
"""A student, and a batch by its pair and sentences."""


@dataclass
class Memory:
    """The others' states on the trial set: computed in the first trial, the same in those after it."""

    holds: bool
    """Whether they fit; equal on all ranks, since at ZeRO-3 all must compute or none."""
    hidden: dict[Key, Tensor | None] = field(default_factory=dict)
    """On the CPU; along a pipeline None on all stages but the last."""
    projection: dict[str, Tensor] = field(default_factory=dict)


class Exchange:
    """The run's students, by name; empty until they are built.

    Along a pipeline a peer's states come from all of its stages, which are the learner's stages, too. So every stage
    runs the peer over an update's micro-batches before the update, and the last one, where the losses are, keeps them.
    """

    def __init__(self, dev: Sequence[Batch], pairs: Sequence[str], score: Scorer) -> None:
        self.students: dict[str, Student] = {}
        self.dev, self.pairs, self.score = dev, pairs, score
        """Dev batches of all pairs, and the plain cross-entropy."""
        self.memory: Memory | None = None
        """Set while a student is tried."""
        self._announced: list[tuple[Collection[str], bool]] = []
        self._brought: dict[Key, Tensor | None] = {}

    def peers_of(
        self, me: str, names: Sequence[str], together: bool, last_update: int,
        run: Callable[["Exchange", Student, TrialSettings, Sequence[Callable[[], None]]], list[dict[str, float]]],
    ) -> Peers:  # fmt: skip
        """What the method of a student is told of the others; ``run`` carries trials out."""

        def trial(settings: TrialSettings, changes: Sequence[Callable[[], None]]) -> list[dict[str, float]]:
            return run(self, self.students[me], settings, changes)

        def announce(asked: Collection[str], dropout: bool) -> None:
            if student.piped(self.students[me].engine):
                self._announced.append((asked, dropout))

        others = [name for name in names if name != me]
        return Peers(me, others, self.states, announce, together, trial, last_update)

    def states(self, name: str, batch: Batch, dropout: bool) -> States:
        """A student's decoder states and projection of a batch, without gradient; in trials without dropout."""
        engine: Any = self.students[name].engine
        memory, key = self.memory, key_of(name, batch)
        if student.piped(engine):
            hidden_BTE = memory.hidden[key] if memory is not None and memory.holds else self._brought[key]
            assert hidden_BTE is not None
            return hidden_BTE.to(batch.source_BS.device), engine.module.model.projection_VD.detach()
        if memory is None:
            return student.loud_states(engine, batch) if dropout else student.quiet_states(engine, batch)
        if not memory.holds:
            return student.quiet_states(engine, batch)
        if key not in memory.hidden:
            hidden_BTE, memory.projection[name] = student.quiet_states(engine, batch)
            memory.hidden[key] = hidden_BTE.to("cpu", copy=True)
        known_BTE = memory.hidden[key]
        assert known_BTE is not None
        return known_BTE.to(batch.source_BS.device), memory.projection[name]

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


def key_of(name: str, batch: Batch) -> Key:
    """Under which a student's states of a batch are known."""
    return name, batch.pair, batch.sentence_B.cpu().numpy().tobytes()

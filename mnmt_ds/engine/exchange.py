"""What students give one another: decoder states of a batch, and trials of weights with the others as teachers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.engine import student
from mnmt_ds.engine.student import Scorer, Student
from mnmt_ds.objectives.peers import Peers, TrialSettings

States = tuple[Tensor, Tensor]


@dataclass
class Memory:
    """The others' states on the trial set: computed in the first trial, the same in those after it."""

    holds: bool
    """Whether they fit; equal on all ranks, since at ZeRO-3 all must compute or none."""
    at: int = 0
    """The micro-batch of the trial set that is trained on."""
    hidden: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    projection: dict[str, Tensor] = field(default_factory=dict)


class Exchange:
    """The run's students, by name; empty until they are built."""

    def __init__(self, dev: Sequence[Batch], pairs: Sequence[str], score: Scorer) -> None:
        self.students: dict[str, Student] = {}
        self.dev, self.pairs, self.score = dev, pairs, score
        """Dev batches of all pairs, and the plain cross-entropy."""
        self.memory: Memory | None = None
        """Set while a student is tried."""

    def peers_of(
        self, me: str, names: Sequence[str], together: bool, last_update: int,
        run: Callable[["Exchange", Student, TrialSettings, Sequence[Callable[[], None]]], list[dict[str, float]]],
    ) -> Peers:  # fmt: skip
        """What the method of a student is told of the others; ``run`` carries trials out."""

        def trial(settings: TrialSettings, changes: Sequence[Callable[[], None]]) -> list[dict[str, float]]:
            return run(self, self.students[me], settings, changes)

        return Peers(me, [name for name in names if name != me], self.states, together, trial, last_update)

    def states(self, name: str, batch: Batch, dropout: bool) -> States:
        """A student's decoder states and projection of a batch, without gradient; in trials without dropout."""
        engine: Any = self.students[name].engine
        memory = self.memory
        if memory is None:
            return student.loud_states(engine, batch) if dropout else student.quiet_states(engine, batch)
        if not memory.holds:
            return student.quiet_states(engine, batch)
        key = (name, memory.at)
        if key not in memory.hidden:
            hidden_BTE, memory.projection[name] = student.quiet_states(engine, batch)
            memory.hidden[key] = hidden_BTE.to("cpu", copy=True)
        return memory.hidden[key].to(batch.source_BS.device), memory.projection[name]

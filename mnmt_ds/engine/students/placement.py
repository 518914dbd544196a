"""Where several students live: together on every rank, or split, each on a team of ranks of its own.

Split, the ranks with one number in their teams form a column. All that students tell one another goes along columns,
and begins with a head from every member: so a team that fails takes the others with it, and its message.
"""

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from mnmt_ds.distributed import device, new_group, rank, split_into_teams, student_team, whole_job, world_size
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.errors import UserError

ASK, LAST, DONE, MEET, FAILED = range(5)
"""What a head says of its sender: it asks, and will again; for the last time in this turn; it has nothing to ask; all
are to meet; it has failed."""
WIDTH = 8
"""Numbers in a head."""
PATIENCE = 30.0
"""Seconds that a failed rank waits for the others of its column to hear of it."""

Head = list[int]


def check(recipe: Recipe) -> None:
    """UserError where the students cannot be split over the job's ranks."""
    if recipe.placement != "split":
        return
    count, ranks = len(recipe.students), world_size()
    if ranks % count:
        raise UserError(
            f"placement: split: {ranks} rank(s) cannot be shared by {count} students;"
            f" start a multiple of {count}, or set placement: together"
        )
    method = recipe.method
    while hasattr(method, "base") and not hasattr(method, "extra_updates"):
        method = method.base
    if getattr(method, "extra_updates", False) and method.searched:
        raise UserError(
            "placement: split: extra_updates beside a searched rule would train in another order than together;"
            " leave extra_updates out (it is the control of a search), or set placement: together"
        )


class PeerGroup:
    """The students' ranks that have one number in their teams; of one member where students are together."""

    def __init__(self, recipe: Recipe) -> None:
        """Splits the job's ranks where the recipe says so; all ranks call this."""
        split_into_teams(1)
        check(recipe)
        self.names = [name for name, _ in students_of(recipe)]
        """All students, in order of their teams."""
        self.split = recipe.placement == "split"
        self.members = [rank()]
        """Ranks in the job, in order of their teams."""
        self._broken = False
        if not self.split:
            return
        split_into_teams(len(self.names))
        self.members = [number * world_size() + rank() for number in range(len(self.names))]
        self._heads = new_group(self.members, "gloo")
        self._states = new_group(self.members)
        dist.all_reduce(torch.zeros(1, device=device()), group=self._states)  # NCCL's first call must be all members'

    @property
    def own(self) -> list[str]:
        """The students of this rank."""
        return [self.names[student_team()]] if self.split else self.names

    def heads(self, kind: int, *facts: int) -> list[Head]:
        """Every member's head; RuntimeError (or UserError) with its message where one has failed."""
        own = torch.tensor([kind, *facts, *[0] * (WIDTH - 1 - len(facts))])
        found = [torch.empty_like(own) for _ in self.members]
        dist.all_gather(found, own, group=self._heads)
        rows: list[Head] = [row.tolist() for row in found]
        self._listen(rows)
        if len({row[0] == MEET for row in rows}) > 1:
            raise RuntimeError(f"students out of step with one another: {rows}")
        return rows

    def merge(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What every student has (picklable), by its name, in order."""
        if self.split:
            self.heads(MEET)
            everyone: list[Any] = [None] * len(self.members)
            dist.all_gather_object(everyone, dict(own), group=self._heads)
            own = {name: value for part in everyone for name, value in part.items()}
        return {name: own[name] for name in self.names}

    def rows(self, own: Sequence[Sequence[float]]) -> list[list[float]]:
        """Every student's row of numbers, in order, each as long as a head allows."""
        if not self.split:
            return [list(row) for row in own]
        bits = torch.tensor(own[0], dtype=torch.float64).view(torch.int64).tolist()
        return [torch.tensor(row[1:]).view(torch.float64).tolist() for row in self.heads(MEET, *bits)]

    def letters(self, kind: int, own: Tensor) -> tuple[list[int], list[Tensor]]:
        """Every member's kind of head, and its letter: int64, of any length, on the CPU."""
        heads = self.heads(kind, len(own))
        longest = max(length for _, length, *_ in heads)
        found = [own.new_empty(longest) for _ in heads]
        if longest:
            dist.all_gather(found, pad(own, (0, longest - len(own))), group=self._heads)
        return [head[0] for head in heads], [row[: head[1]] for row, head in zip(found, heads, strict=True)]

    def transfer(self, out: Sequence[tuple[int, Tensor]], into: Sequence[tuple[int, Tensor]]) -> list[dist.Work]:
        """Begins to send tensors to members and to fill others from members, (member, tensor) each."""
        group = self._states
        sends = [dist.P2POp(dist.isend, tensor.contiguous(), self.members[i], group) for i, tensor in out]
        takes = [dist.P2POp(dist.irecv, tensor, self.members[i], group) for i, tensor in into]
        return list(dist.batch_isend_irecv([*sends, *takes])) if sends or takes else []

    @contextmanager
    def everyone(self) -> Iterator[None]:
        """All ranks of the job as one."""
        if not self.split:
            yield
            return
        self.heads(MEET)
        with whole_job():
            yield

    @contextmanager
    def guard(self) -> Iterator[None]:
        """An error in here is told to the other members before it is raised."""
        try:
            yield
        except Exception as error:
            if self.split and not self._broken:
                self._tell(error)
            raise

    def _tell(self, error: Exception) -> None:
        self._broken = True
        text = f"{int(isinstance(error, UserError))}{error}".encode()
        own = torch.tensor([FAILED, len(text), *[0] * (WIDTH - 2)])
        found = [torch.empty_like(own) for _ in self.members]
        with contextlib.suppress(Exception):  # the others may be gone
            dist.all_gather(found, own, group=self._heads, async_op=True).wait(datetime.timedelta(seconds=PATIENCE))
            self._spread([row.tolist() for row in found], text)

    def _listen(self, rows: Sequence[Head]) -> None:
        messages = self._spread(rows)
        if messages:
            self._broken = True
            name, text = next(iter(messages.items()))
            raise (UserError if text[0] == "1" else RuntimeError)(f"student {name} failed: {text[1:]}")

    def _spread(self, rows: Sequence[Head], own: bytes = b"") -> dict[str, str]:
        """What those that failed have to say, by student."""
        found = {}
        for number, row in enumerate(rows):
            if row[0] == FAILED:
                said = torch.tensor(list(own), dtype=torch.uint8)
                heard = said if number == student_team() else torch.empty(row[1], dtype=torch.uint8)
                dist.broadcast(heard, self.members[number], group=self._heads)
                found[self.names[number]] = bytes(heard.tolist()).decode()
        return found

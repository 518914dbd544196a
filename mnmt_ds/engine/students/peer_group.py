"""The ranks through which students exchange states and headers: one rank of each student, or this rank alone.

Where students are split, each on a team of ranks of its own, the ranks with one index in their teams form a peer group.
All that students send one another goes through peer groups and begins with a header from every member: so a team that
fails takes the others with it, and its message.
"""

import contextlib
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from mnmt_ds.distributed import RankGroup, new_group
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.errors import RunError, UserError
from mnmt_ds.parallel_layout import ParallelLayout


class PeerMessageKind(IntEnum):
    """The kinds of messages that members of a peer group send, as their headers name them."""

    REQUEST = 0
    """It requests states, and will again."""
    LAST_REQUEST = 1
    """It requests states, for the last time before the others may go on."""
    NO_REQUEST = 2
    """It has nothing to request."""
    BARRIER = 3
    """It is at a point that all members reach together, such as a barrier."""
    FAILED = 4
    """It has failed."""


HEADER_WIDTH = 8
"""Numbers in a header."""
FAILURE_TIMEOUT = 30.0
"""Seconds that a failed rank waits for the others of its group to hear of it."""

Header = list[int]


class PeerGroup:
    """Process group of the ranks with one index in the students' teams; one member where students share all ranks."""

    def __init__(self, recipe: Recipe, layout: ParallelLayout) -> None:
        """Forms the groups; all ranks of the job call this together.

        Args:
            recipe: of the run.
            layout: with the students' teams.
        """
        self.layout = layout
        self.student_names = [name for name, _ in students_of(recipe)]
        """All students, in order of their teams."""
        self.is_split = layout.teams > 1
        """Whether each student has ranks of its own."""
        self.members = [team * layout.ranks.size + layout.ranks.rank for team in range(layout.teams)]
        """Job ranks, in order of their teams."""
        self._has_failed = False
        if not self.is_split:
            return
        self._header_group = new_group(self.members, "gloo")
        self._state_group = new_group(self.members)

    @property
    def own_students(self) -> list[str]:
        """The students of this rank."""
        return [self.student_names[self.layout.team]] if self.is_split else self.student_names

    def exchange_headers(self, kind: PeerMessageKind, *values: int) -> list[Header]:
        """Sends a header to every member.

        Args:
            kind: of this rank's header.
            *values: at most ``HEADER_WIDTH`` - 1 numbers after it.

        Returns:
            Every member's header, in order.

        Raises:
            UserError: with its message where a member failed with one.
            RuntimeError: where a member failed otherwise, or the members are out of step.
        """
        sent = torch.tensor([kind, *values, *[0] * (HEADER_WIDTH - 1 - len(values))])
        received = [torch.empty_like(sent) for _ in self.members]
        dist.all_gather(received, sent, group=self._header_group)
        headers: list[Header] = [header.tolist() for header in received]
        self._raise_failures(headers)
        if len({header[0] == PeerMessageKind.BARRIER for header in headers}) > 1:
            raise RuntimeError(f"students out of step with one another: {headers}")
        return headers

    def merge(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Merges what every student has, on all ranks.

        Args:
            values: of this rank's students, by name; picklable.

        Returns:
            All students' values, by name, in order.
        """
        if self.is_split:
            self.exchange_headers(PeerMessageKind.BARRIER)
            gathered: list[Any] = [None] * len(self.members)
            dist.all_gather_object(gathered, dict(values), group=self._header_group)
            values = {name: value for member_values in gathered for name, value in member_values.items()}
        return {name: values[name] for name in self.student_names}

    def gather_numbers(self, rows: Sequence[Sequence[float]]) -> list[list[float]]:
        """Gathers a few numbers of every student.

        Args:
            rows: of this rank's students; at most ``HEADER_WIDTH`` - 1 numbers each.

        Returns:
            All students' rows, in order.
        """
        if not self.is_split:
            return [list(row) for row in rows]
        bits = torch.tensor(rows[0], dtype=torch.float64).view(torch.int64).tolist()
        headers = self.exchange_headers(PeerMessageKind.BARRIER, *bits)
        return [torch.tensor(header[1:]).view(torch.float64).tolist() for header in headers]

    def exchange_requests(self, kind: PeerMessageKind, encoded: Tensor) -> tuple[list[int], list[Tensor]]:
        """Sends requests of any length to every member.

        Args:
            kind: of this rank's header.
            encoded: int64 on the CPU; empty: none.

        Returns:
            The kinds of all members' headers, and their encoded requests, in order.
        """
        headers = self.exchange_headers(kind, len(encoded))
        longest = max(length for _, length, *_ in headers)
        received = [encoded.new_empty(longest) for _ in headers]
        if longest:
            dist.all_gather(received, pad(encoded, (0, longest - len(encoded))), group=self._header_group)
        kinds = [header[0] for header in headers]
        return kinds, [padded[: header[1]] for padded, header in zip(received, headers, strict=True)]

    def start_transfer(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> list[dist.Work]:
        """Starts sending tensors to members and receiving others from members.

        Args:
            sends: (member, tensor) each.
            receives: (member, tensor to be filled) each.

        Returns:
            What is to be waited for.
        """
        group = self._state_group
        sending = [dist.P2POp(dist.isend, tensor.contiguous(), self.members[i], group) for i, tensor in sends]
        receiving = [dist.P2POp(dist.irecv, tensor, self.members[i], group) for i, tensor in receives]
        operations = [*sending, *receiving]
        return list(dist.batch_isend_irecv(operations)) if operations else []

    def barrier(self) -> RankGroup:
        """Waits for the other members (so for all ranks of the job), if there are any.

        Returns:
            All ranks of the job.
        """
        if self.is_split:
            self.exchange_headers(PeerMessageKind.BARRIER)
        return self.layout.job

    @contextmanager
    def failures_shared(self) -> Iterator[None]:
        """Runs a block; sends an error in it to the other members before it is raised.

        Returns:
            Nothing: a context manager.
        """
        try:
            yield
        except Exception as error:
            if self.is_split and not self._has_failed:
                self._send_failure(error)
            raise

    def _send_failure(self, error: Exception) -> None:
        self._has_failed = True
        text = encode_failure(error)
        sent = torch.tensor([PeerMessageKind.FAILED, len(text), *[0] * (HEADER_WIDTH - 2)])
        received = [torch.empty_like(sent) for _ in self.members]
        with contextlib.suppress(Exception):  # the others may be gone
            work = dist.all_gather(received, sent, group=self._header_group, async_op=True)
            work.wait(datetime.timedelta(seconds=FAILURE_TIMEOUT))
            self._exchange_failures([header.tolist() for header in received], text)

    def _raise_failures(self, headers: Sequence[Header]) -> None:
        messages = self._exchange_failures(headers)
        if messages:
            self._has_failed = True
            name, text = next(iter(messages.items()))
            raise decode_failure(text, f"student {name} failed", self.layout.is_main)

    def _exchange_failures(self, headers: Sequence[Header], own_message: bytes = b"") -> dict[str, bytes]:
        """What those that failed sent (``encode_failure``), by student."""
        messages = {}
        for team, header in enumerate(headers):
            if header[0] == PeerMessageKind.FAILED:
                text = torch.empty(header[1], dtype=torch.uint8)
                if team == self.layout.team:
                    text = torch.tensor(list(own_message), dtype=torch.uint8)
                dist.broadcast(text, self.members[team], group=self._header_group)
                messages[self.student_names[team]] = bytes(text.tolist())
        return messages


def encode_failure(error: Exception) -> bytes:
    """Encodes a failed rank's error for the other ranks.

    Args:
        error: any.

    Returns:
        JSON: whether the user can mend it, and its faults, one line each.
    """
    is_user_error = isinstance(error, UserError)
    faults = error.faults if isinstance(error, UserError) else [" ".join(str(error).split())]
    return json.dumps([is_user_error, *faults]).encode()


def decode_failure(text: bytes, where: str, is_shown: bool) -> UserError | RunError:
    """Makes the error that a rank raises when another one failed.

    Args:
        text: of ``encode_failure``.
        where: begins each of its lines.
        is_shown: whether this rank prints what no user can mend.

    Returns:
        A UserError with as many faults as the other's, or a RunError.
    """
    is_user_error, *faults = json.loads(text)
    lines = [f"{where}: {fault}" for fault in faults]
    return UserError(*lines) if is_user_error else RunError(lines[0], is_shown)

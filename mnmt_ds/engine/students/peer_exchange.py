"""What students get of one another: decoder states of a batch, and trials of weights with the others as teachers.

Other students' states of an update's micro-batches are fetched before it. Where students are together, this rank
computes them; along a pipeline all stages do (they are the learner's, too) and the last one, where the losses are,
keeps them. Where students are split, the ranks of a peer group serve one another's requests, round after round. In a
round each member sends all its requests, computes what the others request, micro-batch after micro-batch, and goes on
to train while states are under way: it waits for each where its loss is taken. Rounds end when no member will send
requests again. Nobody's weights move meanwhile.

Shape letters: B sentences, T target positions, E another student's width, V words.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.engine.dataloading.dev_batches import DevBatches
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.parallel.engine import DecoderStates, LossFunction, Update
from mnmt_ds.engine.students.peer_group import PeerGroup, PeerMessageKind
from mnmt_ds.engine.students.peer_requests import EVAL_MODE, WantedStates, decode_requests, encode_requests
from mnmt_ds.engine.students.student import Student
from mnmt_ds.methods.peers import Peers, TrialSettings

PeerStates = dict[tuple[str, int], Tensor | None]
"""Students' decoder states by name and micro-batch of an update; along a pipeline None on all stages but the last."""
Changes = Sequence[Callable[[], None]]
"""Each sets other distillation weights."""
TrialRun = Callable[["PeerExchange", Student, TrialSettings, Changes], list[dict[str, float]]]
"""Tries changes on a student; gives every pair's dev loss for each."""


@dataclass
class TrialStateCache:
    """Cache of other students' states on the trial set, which are the same in every trial."""

    fits: bool
    """Whether they are kept; equal on all ranks, since at ZeRO-3 all must compute or none."""
    states: dict[int | str, PeerStates] = field(default_factory=dict)
    """By the update's key; on the CPU."""


class PeerExchange:
    """The run's students by name (those of this rank; empty until they are built); exchanges their states."""

    def __init__(
        self,
        peer_group: PeerGroup,
        training_data: Sequence[TrainingData],
        dev: DevBatches,
        pairs: Sequence[str],
        compute_loss: LossFunction,
    ) -> None:
        """Starts without students.

        Args:
            peer_group: this rank's.
            training_data: all students', in order.
            dev: this rank's batches of all pairs' dev sets.
            pairs: names of language pairs.
            compute_loss: the plain cross-entropy.
        """
        self.peer_group = peer_group
        self.students: dict[str, Student] = {}
        self.training_data = dict(zip(peer_group.student_names, training_data, strict=True))
        self.dev, self.pairs, self.compute_loss = dev, pairs, compute_loss
        self.trial_cache: TrialStateCache | None = None
        """Set while a student is tried."""
        self.measuring_seconds = 0.0
        """Seconds that trials have spent on dev sets since ``take_measuring_seconds``."""
        self._subscriptions: dict[str, tuple[Callable[[str], Collection[str]], bool]] = {}
        """For each student here: the students whose states a pair's batches need, and whether with dropout."""
        self._states: PeerStates = {}
        """Other students' states of the present update."""
        self._projections: dict[str, Tensor] = {}
        """Other students' projections, by name."""
        self._transfers: dict[int, list[dist.Work]] = {}
        """By micro-batch: its states, and those that left with them."""
        self._is_serving = False
        """Members may send requests still."""

    def peers_of(self, name: str, last_update: int, run: TrialRun) -> Peers:
        """Builds the view of the other students that a student's method is given.

        Args:
            name: of the student.
            last_update: updates at most in the run.
            run: carries trials out.

        Returns:
            What the method may ask.
        """

        def trial(settings: TrialSettings, changes: Changes) -> list[dict[str, float]]:
            return run(self, self.students[name], settings, changes)

        def subscribe(peers_of_pair: Callable[[str], Collection[str]], dropout: bool) -> None:
            self._subscriptions[name] = peers_of_pair, dropout

        others = [other for other in self.peer_group.student_names if other != name]
        return Peers(name, others, subscribe, self.states, trial, last_update)

    def take_measuring_seconds(self) -> float:
        """Returns the seconds that trials have spent on dev sets since the last call.

        Returns:
            Seconds.
        """
        seconds, self.measuring_seconds = self.measuring_seconds, 0.0
        return seconds

    def states(self, names: Sequence[str], batch: Batch) -> dict[str, DecoderStates]:
        """Returns other students' states of a micro-batch, which ``prefetch_peer_states`` fetched before the update.

        Args:
            names: the students.
            batch: on this rank's device.

        Returns:
            Decoder states (B, T, E) and projection (V, E), by name.
        """
        self._wait_for_states(batch.micro_batch)
        states = {}
        for name in names:
            hidden_BTE = self._states[name, batch.micro_batch]
            assert hidden_BTE is not None
            states[name] = hidden_BTE.to(self.peer_group.layout.device), self._projections[name]
        return states

    def prefetch_peer_states(self, student: Student, update: Update) -> None:
        """Fetches the other students' states of an update's micro-batches, before it; in trials without dropout.

        Args:
            student: who learns; all of its ranks call this, in the same order.
            update: of it.

        Raises:
            RuntimeError: where other students' states are needed when none serves requests.
        """
        if student.name not in self._subscriptions:
            return
        cache = self.trial_cache
        has_dropout = self._subscriptions[student.name][1] and cache is None
        is_kept = cache is not None and cache.fits
        self._states = cache.states.setdefault(update.key, {}) if cache is not None and is_kept else {}
        requests = []
        for index, batch in enumerate(update.micro_batches):
            update_index = student.engine.layout.update_index(index)
            seed = update.drawn_seed("teach", update_index) if has_dropout else EVAL_MODE
            requests.append(self._wanted_states(student, batch, index, seed))
        if not self.peer_group.is_split:
            self._compute(requests)
        elif self._is_serving:
            self._serve_round(PeerMessageKind.LAST_REQUEST if cache is None else PeerMessageKind.REQUEST, requests)
        elif any(students for students, _, _ in requests):
            raise RuntimeError("states of other students were asked for when none answers")
        if is_kept:
            self._wait_for_states()
            self._states |= {key: None if hidden is None else hidden.cpu() for key, hidden in self._states.items()}

    @contextmanager
    def requests_served(self) -> Iterator[None]:
        """Runs a block in which split students may request each other's states; all serve the rest at its end.

        Returns:
            Nothing: a context manager.
        """
        self._is_serving = self.peer_group.is_split and bool(self._subscriptions)
        yield
        self.serve_requests()

    def serve_requests(self) -> None:
        """Computes the states that other members request, until none will send requests again."""
        while self._is_serving:
            self._serve_round(PeerMessageKind.NO_REQUEST)
        self._wait_for_states()

    def _wait_for_states(self, index: int | None = None) -> None:
        """Waits for states that are under way, up to a micro-batch's or all."""
        for transferred in [k for k in self._transfers if index is None or k <= index]:
            for work in self._transfers.pop(transferred):
                work.wait()

    def _wanted_states(self, student: Student, batch: Batch, index: int, seed: int) -> WantedStates:
        """Whose states a micro-batch needs; where passes are collective, one that needs nothing asks of a word."""
        peers_of_pair, _ = self._subscriptions[student.name]
        pairs = self.pairs[batch.pair : batch.pair + 1] if batch.tokens else []  # none: text of one language
        if student.engine.passes_are_collective:
            if not any(map(peers_of_pair, pairs)):
                batch = batch._replace(source_BS=batch.source_BS[:1, :1], decoder_BT=batch.decoder_BT[:1, :1])
            pairs = self.pairs
        names = {name for pair in pairs for name in peers_of_pair(pair) if (name, index) not in self._states}
        return WantedStates(sorted(names), batch, seed)

    def _compute(self, requests: Sequence[WantedStates]) -> None:
        """Computes states where this rank, or its pipeline, has all students."""
        for name in sorted({name for states in requests for name in states.students}):
            indices = [index for index, states in enumerate(requests) if name in states.students]
            seeds = [requests[index].seed for index in indices]
            passes = self.students[name].engine.decoder_states(
                [requests[index].batch for index in indices], None if EVAL_MODE in seeds else seeds
            )
            for index, states in zip(indices, passes, strict=True):
                self._states[name, index] = states[0] if states is not None else None
                if states is not None:
                    self._projections[name] = states[1]

    def _serve_round(self, kind: PeerMessageKind, own_requests: Sequence[WantedStates] = ()) -> None:
        """Sends own requests, computes the others', leaves own states under way; a member's first ones come with its
        projection."""
        self._wait_for_states()
        names, team = self.peer_group.student_names, self.peer_group.layout.team
        student = self.students[names[team]]
        kinds, encoded = self.peer_group.exchange_requests(kind, encode_requests(names, own_requests))
        self._is_serving = PeerMessageKind.REQUEST in kinds
        requests = [decode_requests(message) for message in encoded]
        have_own_projection, have_sent_projection = set[int](), set[int]()
        for index in range(max(map(len, requests))):
            sends: list[tuple[int, Tensor]] = []
            receives: list[tuple[int, Tensor]] = []
            for member, member_requests in enumerate(requests):
                if index >= len(member_requests) or not member_requests[index][0].students >> team & 1:
                    continue
                request, batch = member_requests[index]
                (states,) = student.engine.decoder_states(
                    [batch], None if request.seed == EVAL_MODE else [request.seed]
                )
                assert states is not None
                sends += [(member, tensor) for tensor in (states[:1] if member in have_own_projection else states)]
                have_own_projection.add(member)
            for name in own_requests[index].students if own_requests else ():
                member = names.index(name)
                hidden_BTE = _empty_states(student, *own_requests[index].batch.decoder_BT.shape)
                self._states[name, index] = hidden_BTE
                receives.append((member, hidden_BTE))
                if member not in have_sent_projection:
                    self._projections[name] = _empty_states(student, student.engine.model.vocabulary_size)
                    receives.append((member, self._projections[name]))
                    have_sent_projection.add(member)
            self._transfers[index] = self.peer_group.start_transfer(sends, receives)


def _empty_states(student: Student, *shape: int) -> Tensor:
    """Room for another student's states of a shape, which are as wide and of the same type as a student's own."""
    like = next(student.engine.model.parameters())
    return torch.empty(*shape, student.recipe.model.d_model, dtype=like.dtype, device=like.device)

"""Trials of distillation weights (paper 2, Algorithm 2): a student trains on a small set, is measured, and put back."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.engine.dataloading.contents import update_contents
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.dataloading.position import Position
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.monitoring.validation import validate
from mnmt_ds.engine.parallel.engine import Update
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import learning_rate
from mnmt_ds.engine.students.peer_exchange import Changes, PeerExchange, TrialStateCache
from mnmt_ds.engine.students.peer_group import PeerGroup
from mnmt_ds.engine.students.student import Student, check_gradient
from mnmt_ds.methods.peers import TrialSettings


class UpdateRange(NamedTuple):
    """A range of updates of a plan."""

    training_data: TrainingData
    """Training data of which it is a plan."""
    plan: EpochPlan
    """Plan of an epoch or a sample."""
    first: int
    """Number of the first update in the plan."""
    updates: int
    """How many."""


class DataPosition(NamedTuple):
    """A student's position in its data, in a form that can be sent to any rank."""

    position: Position
    """Position of its data iterator."""
    trained: Sequence[int]
    """Sentences of each pair that it was trained on."""
    shares: Sequence[float]
    """The distribution that its next epoch will be drawn from."""


def run_trials(
    exchange: PeerExchange, student: Student, settings: TrialSettings, changes: Changes
) -> list[dict[str, float]]:
    """Tries each change: makes it, trains one epoch on the trial set, measures every pair's dev loss.

    The trials see the same batches under the same dropout, so that only the weights tell them apart. Other students'
    states are computed once for all. Where trials are thrown away the student is put back bit for bit; so split
    students are tried at the same time, once each has the others' states, and else in turn.

    Args:
        exchange: the run's students; all ranks of the job call this together.
        student: who is tried.
        settings: on what, and what becomes of it.
        changes: each sets other weights.

    Returns:
        Of each change the dev loss of every pair, in nats a token.
    """
    ranges = trial_set(exchange, student, settings)
    others = len(exchange.peer_group.student_names) - 1
    element_size = next(student.engine.model.parameters()).element_size()
    layout = student.engine.layout
    size = others * most_state_bytes(ranges, student.recipe, element_size) / layout.data_parallel_size
    cache = TrialStateCache(size <= settings.cache_gib * 2**30)
    exchange.trial_cache = cache
    results: list[dict[str, float]] = []
    try:
        for names in _students_at_once(exchange.peer_group, student, cache.fits, settings.after == "restore"):
            with exchange.requests_served():
                if student.name in names:
                    if exchange.peer_group.is_split and cache.fits:
                        _fill_cache(exchange, student, ranges)
                    results = _try_changes(exchange, student, settings, changes, ranges)
    finally:
        exchange.trial_cache = None
    return results


def _students_at_once(
    peer_group: PeerGroup, student: Student, fits: bool, is_thrown_away: bool
) -> Sequence[Sequence[str]]:
    """Who is tried at the same time, by name, one after another."""
    if not peer_group.is_split:
        return [[student.name]]
    all_fit = all(row[0] for row in peer_group.gather_numbers([[fits]]))
    names = peer_group.student_names
    return [names] if all_fit and is_thrown_away else [[name] for name in names]


def _fill_cache(exchange: PeerExchange, student: Student, ranges: Sequence[UpdateRange]) -> None:
    """Gets the other students' states of the trial set, before any of them is tried."""
    for update in _trial_updates(student, ranges):
        exchange.prefetch_peer_states(student, update)
    exchange.serve_requests()


def _try_changes(
    exchange: PeerExchange, student: Student, settings: TrialSettings, changes: Changes, ranges: Sequence[UpdateRange]
) -> list[dict[str, float]]:
    state = student.engine.capture_state() if settings.after == "restore" else None
    results = []
    for number, change in enumerate(changes, start=1):
        change()
        _train_on_trial_set(student, ranges)
        began = time.monotonic()
        values = validate(student.engine, exchange.dev, exchange.pairs, exchange.compute_loss)
        exchange.measuring_seconds += time.monotonic() - began
        results.append({pair: values[pair]["loss"] for pair in exchange.pairs})
        mean = sum(results[-1].values()) / len(results[-1])
        student.tracker.info(
            f"{student.name}: trial {number} of {len(changes)} after update {student.updates}: dev {mean:.4f}"
        )
        if state is not None:
            student.engine.restore_state(state)
    return results


def _train_on_trial_set(student: Student, ranges: Sequence[UpdateRange]) -> None:
    for updates_done, update in enumerate(_trial_updates(student, ranges)):
        student.forward_backward(update)
        norm = student.engine.step(learning_rate(student.recipe.train, student.updates + updates_done + 1))
        check_gradient(student, update, norm, f"trial after update {student.updates}")


def _trial_updates(student: Student, ranges: Sequence[UpdateRange]) -> Iterator[Update]:
    """The trial set's updates; what is drawn in each is the same in every trial of a search."""
    updates_done = 0
    for training_data, plan, first, updates in ranges:
        batches = training_data.batches(plan)
        for number in range(first, first + updates):
            micro_batches = [batches[number * batches.steps + step] for step in range(batches.steps)]
            yield _trial_update(
                student, training_data.with_divisors(micro_batches), plan, number, f"{student.updates}+{updates_done}"
            )
            updates_done += 1


def _trial_update(student: Student, micro_batches: Sequence[Batch], plan: EpochPlan, number: int, key: str) -> Update:
    contents = update_contents(plan, number, student.engine.layout)
    return Update(
        micro_batches,
        lambda: contents,
        student.method,
        lambda index: student.method.prefetch(contents[index]),
        student.recipe.train.seed,
        number=student.updates,
        key=key,
    )


def trial_set(exchange: PeerExchange, student: Student, settings: TrialSettings) -> list[UpdateRange]:
    """Chooses the updates that trials train on.

    Args:
        exchange: the run's students.
        student: who is tried.
        settings: "sample": the same sample of every pair for all students and the whole run; "coming": the updates that
            come next, of which the first student takes half from the second.

    Returns:
        Ranges of updates, in order.
    """
    first, second, *_ = exchange.peer_group.student_names
    if settings.data == "sample":
        training_data = exchange.training_data[first]
        plan = training_data.plan_sample(settings.rho, "trial")
        return [UpdateRange(training_data, plan, 0, plan.updates)]
    positions = exchange.peer_group.merge({name: _data_position(peer) for name, peer in exchange.students.items()})
    own_ranges = next_updates(exchange.training_data[student.name], positions[student.name], settings.rho)
    if student.name != first:
        return own_ranges
    second_ranges = next_updates(exchange.training_data[second], positions[second], settings.rho)
    count = sum(update_range.updates for update_range in own_ranges)
    return [*_first_updates(own_ranges, count - count // 2), *_first_updates(second_ranges, count // 2)]


def _data_position(student: Student) -> DataPosition:
    data_iterator = student.data_iterator
    return DataPosition(data_iterator.position, tuple(data_iterator.trained), tuple(student.sampler.probabilities))


def next_updates(training_data: TrainingData, data_position: DataPosition, rho: float) -> list[UpdateRange]:
    """Lists the updates that come next: the rest of the epoch under way, then the start of the next one.

    As they come if the sampler changes nothing before: one that measures within an epoch, or decides at its end, may.

    Args:
        training_data: of the student.
        data_position: where it stands.
        rho: how many, as a share of an epoch's updates.

    Returns:
        Ranges of updates, in order.
    """
    data_iterator = DataIterator(training_data)
    data_iterator.start(data_position.position)
    count = max(1, round(rho * data_iterator.epoch_length))
    left = data_iterator.epoch_end - data_iterator.update
    ranges = []
    if left:
        ranges.append(UpdateRange(training_data, data_iterator.plan, data_iterator.update_in_plan, left))
    if left < count:
        segment = training_data.next_epoch(data_position.position.segment, data_position.trained, data_position.shares)
        plan = training_data.plan(data_iterator.epoch + 1, segment)
        ranges.append(UpdateRange(training_data, plan, 0, plan.updates))
    return _first_updates(ranges, count)


def _first_updates(ranges: Sequence[UpdateRange], updates: int) -> list[UpdateRange]:
    """The first so many updates."""
    taken = []
    for update_range in ranges:
        count = min(update_range.updates, updates)
        updates -= count
        taken += [update_range._replace(updates=count)] if count else []
    return taken


def most_state_bytes(ranges: Sequence[UpdateRange], recipe: Recipe, element_size: int) -> int:
    """Bounds the memory of one student's states of the trial set.

    Args:
        ranges: the trial set.
        recipe: of the run.
        element_size: bytes of a state's number.

    Returns:
        Bytes on all ranks together, at most.
    """
    padded = (
        sum(update_range.updates * update_range.plan.batches_per_update for update_range in ranges)
        * recipe.train.max_tokens
    )
    return padded * recipe.model.d_model * element_size

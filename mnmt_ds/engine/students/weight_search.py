"""Trials of distillation weights (paper 2, Algorithm 2): a student trains on a small set, is measured, and put back."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.distributed import data_parallel_rank, data_parallel_size
from mnmt_ds.engine.dataloading.data_iterator import DataIterator, Position
from mnmt_ds.engine.dataloading.training_data import EpochSegment, TrainingData
from mnmt_ds.engine.monitoring.validation import validate
from mnmt_ds.engine.parallel import pipeline_engine, state_snapshot
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import learning_rate
from mnmt_ds.engine.students import student
from mnmt_ds.engine.students.peer_exchange import PeerExchange, TrialStateCache
from mnmt_ds.engine.students.placement import PeerGroup
from mnmt_ds.engine.students.student import Student
from mnmt_ds.engine.teacher_setup import slots_of
from mnmt_ds.methods.peers import TrialSettings

Changes = Sequence[Callable[[], None]]


class UpdateRange(NamedTuple):
    """Some updates of a plan."""

    stream: TrainingData
    plan: EpochPlan
    first: int
    updates: int


def run(exchange: PeerExchange, one: Student, settings: TrialSettings, changes: Changes) -> list[dict[str, float]]:
    """For each change: make it, train on the trial set for one epoch, take every pair's dev loss; all ranks together.

    The trials see the same batches under the same dropout, so that only the weights tell them apart. The others'
    states are computed once for all. Where trials are thrown away the student is put back bit for bit; so split
    students are tried at the same time, once each has the others' states, and else in turn.
    """
    column = exchange.column
    parts = trial_set(exchange, one, settings)
    others, element = len(column.names) - 1, next(one.engine.module.parameters()).element_size()
    most = others * most_bytes(parts, one.recipe, element) / data_parallel_size()
    exchange.memory = memory = TrialStateCache(most <= settings.cache_gib * 2**30)
    results: list[dict[str, float]] = []
    try:
        for names in _turns(column, one, memory.holds, settings.after == "restore"):
            with exchange.turn():
                if one.name in names:
                    if column.split and memory.holds:
                        _remember(exchange, one, parts)
                    results = _tried(exchange, one, settings, changes, parts)
    finally:
        exchange.memory = None
    return results


def _turns(column: PeerGroup, one: Student, holds: bool, thrown_away: bool) -> Sequence[Sequence[str]]:
    """Who is tried at the same time, by name, one after another."""
    if not column.split:
        return [[one.name]]
    held = all(row[0] for row in column.rows([[holds]]))
    return [column.names] if held and thrown_away else [[name] for name in column.names]


def _remember(exchange: PeerExchange, one: Student, parts: Sequence[UpdateRange]) -> None:
    """All that the others say of the trial set, before any of them is tried."""
    for done, (_, _, group) in enumerate(_updates(parts)):
        exchange.bring(one, group, _number(one, done))
    exchange.answer()


def _tried(
    exchange: PeerExchange, one: Student, settings: TrialSettings, changes: Changes, parts: Sequence[UpdateRange]
) -> list[dict[str, float]]:
    kept = state_snapshot.capture_state(one.engine) if settings.after == "restore" else None
    results = []
    for change in changes:
        change()
        _train(one, parts)
        began = time.monotonic()
        found = validate(one.engine, exchange.dev, exchange.pairs, exchange.score)
        exchange.measured += time.monotonic() - began
        results.append({pair: found[pair]["loss"] for pair in exchange.pairs})
        if kept is not None:
            state_snapshot.restore_state(one.engine, kept)
    return results


def trial_set(exchange: PeerExchange, one: Student, settings: TrialSettings) -> list[UpdateRange]:
    """The same sample of every pair for all students and the whole run; or the updates that come next, of which the
    first student takes half from the second."""
    first, second, *_ = exchange.column.names
    if settings.data == "sample":
        stream = exchange.streams[first]
        plan = stream.sample(settings.rho, "trial")
        return [UpdateRange(stream, plan, 0, plan.updates)]
    places = exchange.column.merge({name: _place(own) for name, own in exchange.students.items()})
    mine = coming(exchange.streams[one.name], places[one.name], settings.rho)
    if one.name != first:
        return mine
    theirs = coming(exchange.streams[second], places[second], settings.rho)
    count = sum(part.updates for part in mine)
    return [*_until(mine, count - count // 2), *_until(theirs, count // 2)]


class DataPosition(NamedTuple):
    """Where a student stands in its data, as any rank may be told."""

    position: Position
    trained: Sequence[int]
    """Sentences of each pair that it was trained on."""
    shares: Sequence[float]
    """The distribution that its next epoch will be drawn from."""


def _place(one: Student) -> DataPosition:
    return DataPosition(one.walk.position, tuple(one.walk.trained), tuple(one.walk.stream.sampler.probabilities))


def coming(stream: TrainingData, place: DataPosition, rho: float) -> list[UpdateRange]:
    """The next updates, ``rho`` of an epoch's: what is left of the epoch under way, then the next one's first.

    As they come if the sampler changes nothing before: one that measures within an epoch, or decides at its end, may.
    """
    walk = DataIterator(stream)
    walk.start(place.position)
    count = max(1, round(rho * walk.updates))
    left = walk.ends - place.position.update
    found = [UpdateRange(stream, walk.plan, place.position.inside, left)] if left else []
    if left < count:
        drawn = [a + b for a, b in zip(place.trained, walk.sentences(left), strict=True)]
        after = stream.plan(place.position.epoch + 1, EpochSegment(place.shares, drawn))
        found.append(UpdateRange(stream, after, 0, after.updates))
    return _until(found, count)


def _until(parts: Sequence[UpdateRange], updates: int) -> list[UpdateRange]:
    """The first so many updates."""
    found = []
    for part in parts:
        taken = min(part.updates, updates)
        updates -= taken
        found += [part._replace(updates=taken)] if taken else []
    return found


def most_bytes(parts: Sequence[UpdateRange], recipe: Recipe, element: int) -> int:
    """At most what one student's states of the trial set take on all ranks, at so many bytes an element."""
    padded = sum(part.updates * part.plan.batches_per_update for part in parts) * recipe.train.max_tokens
    return padded * recipe.model.d_model * element


def _updates(parts: Sequence[UpdateRange]) -> Iterator[tuple[EpochPlan, int, list[Batch]]]:
    """Each update's plan, its number there and this rank's micro-batches."""
    for part in parts:
        batches = part.stream.batches(part.plan)
        for number in range(part.first, part.first + part.updates):
            group = [batches[number * batches.steps + step] for step in range(batches.steps)]
            yield part.plan, number, part.stream.counted(group)


def _number(one: Student, done: int) -> str:
    """Of a trial's update: the same in every trial of a search."""
    return f"{one.walk.position.update}+{done}"


def _train(one: Student, parts: Sequence[UpdateRange]) -> None:
    for done, (plan, number, group) in enumerate(_updates(parts)):
        coming, name = slots_of(plan, number, len(group)), _number(one, done)
        rate = learning_rate(one.recipe.train, one.walk.position.update + done + 1)
        if student.is_pipeline_engine(one.engine):
            pipeline_engine.update(one, group, coming, name, rate, take=lambda batch, metrics: None, agree=lambda: None)
            continue
        one.bring(one, group, name)
        for index, batch in enumerate(group):
            if index:
                one.engine.step()
            one.method.prefetch(coming[index])
            student.backward(one, batch, name, index * data_parallel_size() + data_parallel_rank())
        student.step(one, rate)

"""Trials of distillation weights (paper 2, Algorithm 2): a student trains on a small set, is measured, and put back."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import Plan
from mnmt_ds.distributed import data_rank, data_ranks
from mnmt_ds.engine import pipeline, rewind, student
from mnmt_ds.engine.exchange import Exchange, Memory
from mnmt_ds.engine.placement import Column
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import learning_rate
from mnmt_ds.engine.stream import Part, Stream
from mnmt_ds.engine.student import Student
from mnmt_ds.engine.teaching import slots_of
from mnmt_ds.engine.validation import validate
from mnmt_ds.engine.walk import Position, Walk
from mnmt_ds.objectives.peers import TrialSettings

Changes = Sequence[Callable[[], None]]


class Stretch(NamedTuple):
    """Some updates of a plan."""

    stream: Stream
    plan: Plan
    first: int
    updates: int


def run(exchange: Exchange, one: Student, settings: TrialSettings, changes: Changes) -> list[dict[str, float]]:
    """For each change: make it, train on the trial set for one epoch, take every pair's dev loss; all ranks together.

    The trials see the same batches under the same dropout, so that only the weights tell them apart. The others'
    states are computed once for all. Where trials are thrown away the student is put back bit for bit; so split
    students are tried at the same time, once each has the others' states, and else in turn.
    """
    column = exchange.column
    parts = trial_set(exchange, one, settings)
    others, element = len(column.names) - 1, next(one.engine.module.parameters()).element_size()
    most = others * most_bytes(parts, one.recipe, element) / data_ranks()
    exchange.memory = memory = Memory(most <= settings.cache_gib * 2**30)
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


def _turns(column: Column, one: Student, holds: bool, thrown_away: bool) -> Sequence[Sequence[str]]:
    """Who is tried at the same time, by name, one after another."""
    if not column.split:
        return [[one.name]]
    held = all(row[0] for row in column.rows([[holds]]))
    return [column.names] if held and thrown_away else [[name] for name in column.names]


def _remember(exchange: Exchange, one: Student, parts: Sequence[Stretch]) -> None:
    """All that the others say of the trial set, before any of them is tried."""
    for done, (_, _, group) in enumerate(_updates(parts)):
        exchange.bring(one, group, _number(one, done))
    exchange.answer()


def _tried(
    exchange: Exchange, one: Student, settings: TrialSettings, changes: Changes, parts: Sequence[Stretch]
) -> list[dict[str, float]]:
    kept = rewind.keep(one.engine) if settings.after == "restore" else None
    results = []
    for change in changes:
        change()
        _train(one, parts)
        began = time.monotonic()
        found = validate(one.engine, exchange.dev, exchange.pairs, exchange.score)
        exchange.measured += time.monotonic() - began
        results.append({pair: found[pair]["loss"] for pair in exchange.pairs})
        if kept is not None:
            rewind.put_back(one.engine, kept)
    return results


def trial_set(exchange: Exchange, one: Student, settings: TrialSettings) -> list[Stretch]:
    """The same sample of every pair for all students and the whole run; or the updates that come next, of which the
    first student takes half from the second."""
    first, second, *_ = exchange.column.names
    if settings.data == "sample":
        stream = exchange.streams[first]
        plan = stream.sample(settings.rho, "trial")
        return [Stretch(stream, plan, 0, plan.updates)]
    places = exchange.column.merge({name: _place(own) for name, own in exchange.students.items()})
    mine = coming(exchange.streams[one.name], places[one.name], settings.rho)
    if one.name != first:
        return mine
    theirs = coming(exchange.streams[second], places[second], settings.rho)
    count = sum(part.updates for part in mine)
    return [*_until(mine, count - count // 2), *_until(theirs, count // 2)]


class Place(NamedTuple):
    """Where a student stands in its data, as any rank may be told."""

    position: Position
    trained: Sequence[int]
    """Sentences of each pair that it was trained on."""
    shares: Sequence[float]
    """The distribution that its next epoch will be drawn from."""


def _place(one: Student) -> Place:
    return Place(one.walk.position, tuple(one.walk.trained), tuple(one.walk.stream.sampler.probabilities))


def coming(stream: Stream, place: Place, rho: float) -> list[Stretch]:
    """The next updates, ``rho`` of an epoch's: what is left of the epoch under way, then the next one's first.

    As they come if the sampler changes nothing before: one that measures within an epoch, or decides at its end, may.
    """
    walk = Walk(stream)
    walk.start(place.position)
    count = max(1, round(rho * walk.updates))
    left = walk.ends - place.position.update
    found = [Stretch(stream, walk.plan, place.position.inside, left)] if left else []
    if left < count:
        drawn = [a + b for a, b in zip(place.trained, walk.sentences(left), strict=True)]
        after = stream.plan(place.position.epoch + 1, Part(place.shares, drawn))
        found.append(Stretch(stream, after, 0, after.updates))
    return _until(found, count)


def _until(parts: Sequence[Stretch], updates: int) -> list[Stretch]:
    """The first so many updates."""
    found = []
    for part in parts:
        taken = min(part.updates, updates)
        updates -= taken
        found += [part._replace(updates=taken)] if taken else []
    return found


def most_bytes(parts: Sequence[Stretch], recipe: Recipe, element: int) -> int:
    """At most what one student's states of the trial set take on all ranks, at so many bytes an element."""
    padded = sum(part.updates * part.plan.batches_per_update for part in parts) * recipe.train.max_tokens
    return padded * recipe.model.d_model * element


def _updates(parts: Sequence[Stretch]) -> Iterator[tuple[Plan, int, list[Batch]]]:
    """Each update's plan, its number there and this rank's micro-batches."""
    for part in parts:
        batches = part.stream.batches(part.plan)
        for number in range(part.first, part.first + part.updates):
            group = [batches[number * batches.steps + step] for step in range(batches.steps)]
            yield part.plan, number, part.stream.counted(group)


def _number(one: Student, done: int) -> str:
    """Of a trial's update: the same in every trial of a search."""
    return f"{one.walk.position.update}+{done}"


def _train(one: Student, parts: Sequence[Stretch]) -> None:
    for done, (plan, number, group) in enumerate(_updates(parts)):
        coming, name = slots_of(plan, number, len(group)), _number(one, done)
        rate = learning_rate(one.recipe.train, one.walk.position.update + done + 1)
        if student.piped(one.engine):
            pipeline.update(one, group, coming, name, rate, take=lambda batch, metrics: None, agree=lambda: None)
            continue
        one.bring(one, group, name)
        for index, batch in enumerate(group):
            if index:
                one.engine.step()
            one.method.upcoming(coming[index])
            student.backward(one, batch, name, index * data_ranks() + data_rank())
        student.step(one, rate)

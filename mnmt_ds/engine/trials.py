"""Trials of distillation weights (paper 2, Algorithm 2): a student trains on a small set, is measured, and put back."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import Plan
from mnmt_ds.distributed import data_rank, data_ranks
from mnmt_ds.engine import pipeline, rewind, student
from mnmt_ds.engine.exchange import Exchange, Memory
from mnmt_ds.engine.settings import learning_rate
from mnmt_ds.engine.stream import Stream
from mnmt_ds.engine.student import Student
from mnmt_ds.engine.teaching import slots_of
from mnmt_ds.engine.validation import validate
from mnmt_ds.objectives.peers import TrialSettings


class Part(NamedTuple):
    """The first updates of a plan."""

    stream: Stream
    plan: Plan
    updates: int


def run(
    exchange: Exchange, one: Student, settings: TrialSettings, changes: Sequence[Callable[[], None]]
) -> list[dict[str, float]]:
    """For each change: make it, train on the trial set for one epoch, take every pair's dev loss; all ranks together.

    The trials see the same batches under the same dropout, so that only the weights tell them apart. The others'
    states are computed in the first trial alone. Where trials are thrown away the student is put back bit for bit.
    """
    parts = trial_set(exchange, one, settings)
    others = len(exchange.students) - 1
    exchange.memory = Memory(others * _bytes(parts, one) <= settings.cache_gib * 2**30)
    kept = rewind.keep(one.engine) if settings.after == "restore" else None
    results = []
    try:
        for change in changes:
            change()
            _train(one, parts)
            found = validate(one.engine, exchange.dev, exchange.pairs, exchange.score)
            results.append({pair: found[pair]["loss"] for pair in exchange.pairs})
            if kept is not None:
                rewind.put_back(one.engine, kept)
    finally:
        exchange.memory = None
    return results


def trial_set(exchange: Exchange, one: Student, settings: TrialSettings) -> list[Part]:
    """The same sample of every pair for all students and the whole run, or the beginning of the coming epoch."""
    first, *others = exchange.students.values()
    if settings.data == "sample":
        stream = first.walk.stream
        plan = stream.sample(settings.rho, "trial")
        return [Part(stream, plan, plan.updates)]
    mine = _coming(one, settings.rho)
    if one is not first:
        return [mine]
    theirs = _coming(others[0], settings.rho)
    return [mine._replace(updates=mine.updates - mine.updates // 2), theirs._replace(updates=mine.updates // 2)]


def _coming(one: Student, rho: float) -> Part:
    plan = one.walk.stream.plan(one.walk.position.epoch + 1)
    return Part(one.walk.stream, plan, max(1, round(rho * plan.updates)))


def _bytes(parts: Sequence[Part], one: Student) -> float:
    """At most what one other student's states of the trial set take on a rank."""
    padded = sum(part.updates * part.plan.batches_per_update for part in parts) * one.recipe.train.max_tokens
    width = one.recipe.model.d_model * next(one.engine.module.parameters()).element_size()
    return padded * width / data_ranks()


def _updates(part: Part) -> Iterator[tuple[int, list[Batch]]]:
    batches = part.stream.batches(part.plan)
    for number in range(part.updates):
        group = [batches[number * batches.steps + step] for step in range(batches.steps)]
        yield number, part.stream.counted(group)


def _train(one: Student, parts: Sequence[Part]) -> None:
    done, now = 0, one.walk.position.update
    for part in parts:
        for number, group in _updates(part):
            coming, name = slots_of(part.plan, number, len(group)), f"{now}+{done}"
            done += 1
            rate = learning_rate(one.recipe.train, now + done)
            if student.piped(one.engine):
                pipeline.update(one, group, coming, name, rate, take=lambda batch, metrics: None, agree=lambda: None)
                continue
            for index, batch in enumerate(group):
                if index:
                    one.engine.step()
                one.method.upcoming(coming[index])
                student.backward(one, batch, name, index * data_ranks() + data_rank())
            student.step(one, rate)

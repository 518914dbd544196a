"""The training loop: reads as Algorithm 1 of papers 1 and 2 does, for any method, any students, any number of ranks."""

import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds import metric_keys
from mnmt_ds.batch import Batch
from mnmt_ds.distributed import (
    data_parallel_rank,
    data_parallel_size,
    device,
    pipeline_parallel_size,
    sum_over_ranks,
    vocab_parallel_rank,
    vocab_parallel_size,
)
from mnmt_ds.engine.monitoring.meter import Meter, memory
from mnmt_ds.engine.monitoring.mfu import peak_flops, training_flops
from mnmt_ds.engine.parallel import pipeline_engine
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import learning_rate
from mnmt_ds.engine.students import student
from mnmt_ds.engine.students.student import Student
from mnmt_ds.engine.teacher_setup import TeacherPrefetcher, slots_of
from mnmt_ds.engine.training import Training
from mnmt_ds.samplers.sampler import Losses
from mnmt_ds.tracking import progress_line


def train(recipe: Recipe, resume: bool = False) -> Path:
    """Trains as the recipe says and returns the run's directory. Runs inside ``distributed.job()``, on all ranks."""
    work = Training(recipe, resume)
    with stopping() as stop, work.column.guard():
        try:
            _epochs(work, stop)
        finally:
            work.close()
    return work.directory


def _epochs(work: Training, stop: "StopRequest") -> None:
    """Paper 2, Algorithm 1; paper 1's where there is one student. T is an epoch, or ``validation.every`` updates."""
    settings, every = work.recipe.train, work.recipe.validation.every
    meters = {one.name: Meter(peak_flops(settings.precision)) for one in work.students}
    ahead = {one.name: TeacherPrefetcher(one.method, one.walk, partial(work.next_change, one)) for one in work.students}
    work.log_samplers()
    while not work.finished():
        while work.update < work.clock.ends:
            norms, stopped = advance(work, ahead, meters, stop.asked)
            work.log_samplers()
            if work.update % work.recipe.tracking.log_every == 0:
                for one in work.students:
                    _report(work, one, meters[one.name], norms[one.name])
                work.tell()
            if every and work.update % every == 0:
                work.validate()
            if stopped or (settings.save_every and work.update % settings.save_every == 0 and not work.finished()):
                work.save()
            if stopped:
                work.tracker.info(f"stopped on request at update {work.update}; resume with --resume")
                return
            if work.finished():
                break
        if not every:
            work.validate()
            for meter in meters.values():
                meter.reset()
        for one in work.students:
            if one.walk.ended:
                one.walk.turn()
        work.agree()
        work.log_samplers()
        if work.finished():
            work.keep_last()
        work.save()


def advance(
    work: Training, ahead: Mapping[str, TeacherPrefetcher], meters: Mapping[str, Meter], stop: bool
) -> tuple[dict[str, float | None], bool]:
    """Lines 3 to 7, a pair, a batch of it and a step, for every student; their gradients' norms, and whether any rank
    was asked to stop."""
    norms = {}
    for names in work.turns:
        turn = [one for one in work.students if one.name in names]
        with work.exchange.turn():
            steps = [forward_backward(one, one.walk.next(), ahead[one.name], meters[one.name]) for one in turn]
        for one, step in zip(turn, steps, strict=True):
            done = step(stop)
            one.walk.count(done.losses)
            norms[one.name], stop = done.norm, stop or done.stop
    work.measure()
    return norms, work.agree(stop)


class UpdateResult(NamedTuple):
    """An update, equal on every rank."""

    norm: float | None
    """The gradient's, where DeepSpeed computes it."""
    stop: bool
    """Whether any rank was asked to stop."""
    losses: Losses
    """Each pair's part of it."""


def update(one: Student, group: list[Batch], ahead: TeacherPrefetcher, meter: Meter, stop: bool) -> UpdateResult:
    """One optimizer step over this rank's micro-batches; all ranks learn of losses and of a stop together."""
    return forward_backward(one, group, ahead, meter)(stop)


def forward_backward(
    one: Student, group: list[Batch], ahead: TeacherPrefetcher, meter: Meter
) -> Callable[[bool], UpdateResult]:
    """Forward and backward of an update; the step is what is returned, so that several students may take it at once."""
    number, settings = one.walk.position.update + 1, one.recipe.train
    pairs, rate = len(one.walk.stream.pairs), learning_rate(settings, number)
    told = torch.zeros(pairs + 1, 2, dtype=torch.float64, device=device())

    def take(batch: Batch, metrics: dict[str, Tensor]) -> None:
        if vocab_parallel_rank() > 0:
            return  # the first one has the same
        told[pairs, 1] += ~torch.isfinite(metrics["loss"][0])
        if batch.pair < pairs:  # others are text of one language
            told[batch.pair] += metrics["ce"]
        meter.add(metrics)

    def agree() -> None:
        if sum_over_ranks(told)[pairs, 1]:
            names = ", ".join(one.walk.stream.names[batch.pair] for batch in group)
            raise RuntimeError(
                f"update {number}: the loss is not finite (this rank's batches: {names}); nothing was updated;"
                " lower train.lr or resume from the last checkpoint"
            )

    def step(stop: bool) -> UpdateResult:
        told[pairs, 0] = stop
        if student.is_pipeline_engine(one.engine):
            coming = slots_of(one.walk.plan, one.walk.position.inside, len(group))
            norm = pipeline_engine.update(one, group, coming, number, rate, take, agree)
        else:
            agree()
            norm = student.step(one, rate)
        if norm is not None and not math.isfinite(norm) and settings.precision != "fp16":
            raise RuntimeError(f"update {number}: the gradient is not finite; resume from the last checkpoint")
        meter.tokens += group[0].divisor
        *losses, (stops, _) = told.tolist()
        return UpdateResult(norm, bool(stops), [(loss, tokens) for loss, tokens in losses])

    if meter.peak is not None:
        flops = sum(training_flops(one.recipe.model, one.model.vocabulary_size, batch) for batch in group)
        meter.flops += flops / (pipeline_parallel_size() * vocab_parallel_size())
    if not student.is_pipeline_engine(one.engine):
        one.bring(one, group, number)
        for index, batch in enumerate(group):
            if index:
                one.engine.step()  # within an update this only counts the micro-batch
            ahead.before(index)
            take(batch, student.backward(one, batch, number, index * data_parallel_size() + data_parallel_rank()))
    return step


def _report(work: Training, one: Student, meter: Meter, norm: float | None) -> None:
    values: dict[str, Any] = {**meter.report(), **memory()}
    values[metric_keys.TRAIN_LR] = learning_rate(work.recipe.train, work.update)
    if norm is not None:
        values[metric_keys.TRAIN_GNORM] = norm
    used = values.get(metric_keys.MEMORY_GPU) or values[metric_keys.MEMORY_CPU]
    last = work.recipe.train.max_steps or work.clock.length * work.recipe.train.max_epochs
    line = progress_line(work.update, last, work.clock.epochs, values, used / 1e9)
    work.log(one, "train", values, line)


class StopRequest:
    """Set by SIGTERM or SIGINT; the loop sees it at the next update and saves before it leaves."""

    asked = False


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a request to stop, for as long as the block runs."""
    stop = StopRequest()

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        print(f"signal {number}: stopping after this update", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

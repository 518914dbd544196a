"""The training loop: reads as Algorithm 1 of papers 1 and 2 does, for any method, any students, any number of ranks.

Shape letters: P language pairs.
"""

import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds import metric_keys
from mnmt_ds.batch import Batch
from mnmt_ds.engine.monitoring.meter import Meter, memory
from mnmt_ds.engine.monitoring.mfu import peak_flops, training_flops
from mnmt_ds.engine.parallel.engine import Update
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import learning_rate
from mnmt_ds.engine.students.student import Student, check_gradient, stopped, training_update
from mnmt_ds.engine.students.teacher_prefetcher import TeacherPrefetcher
from mnmt_ds.engine.training import Training
from mnmt_ds.engine.validation_round import validate_students
from mnmt_ds.host_copy import HostCopy
from mnmt_ds.samplers.sampler import Losses
from mnmt_ds.tracking import clock, progress_line
from mnmt_ds.training_position import update_under_way

LOG = logging.getLogger(__name__)


def train(recipe: Recipe, resume: bool = False) -> Path:
    """Trains as a recipe says. Runs inside ``distributed.job()``, on all ranks.

    Args:
        recipe: of the run.
        resume: goes on from the newest checkpoint, if there is one.

    Returns:
        The run's directory.

    Raises:
        UserError: where the recipe asks for what cannot be done, or the directory cannot be used.
    """
    training = Training(recipe, resume)
    with stopping() as stop, training.peer_group.failures_shared():
        try:
            train_epochs(training, stop)
        finally:
            training.close()
    return training.directory


@dataclass
class StudentLoop:
    """What the training loop keeps of a student from update to update."""

    student: Student
    """Who is trained."""
    prefetcher: TeacherPrefetcher
    """Prefetches its teachers."""
    meter: Meter
    """Sums since the last report."""
    under_way: "UpdateUnderWay | None" = None
    """An update whose step is launched and whose numbers are not read yet."""
    norm: float = 0.0
    """Gradient norm of the last update whose numbers were read."""


def student_loops(
    training: Training, next_evaluation: Callable[[Student], int] | None = None
) -> dict[str, StudentLoop]:
    """Makes the loop's state of each of this rank's students, by name.

    Args:
        training: the run.
        next_evaluation: the updates that will be done when the next validation or change comes; None: as the run says.

    Returns:
        One entry a student.
    """
    peak, next_evaluation = peak_flops(training.recipe.train.precision), next_evaluation or training.next_evaluation
    return {
        student.name: StudentLoop(
            student,
            TeacherPrefetcher(student.method, student.data_iterator, partial(next_evaluation, student)),
            Meter(training.layout, peak),
        )
        for student in training.students
    }


def train_epochs(training: Training, stop: "StopRequest") -> None:
    """Trains to the run's end: updates, and a validation after every T (paper 2, Algorithm 1; one student: paper 1's).

    T is an epoch, or ``validation.every`` updates.

    Args:
        training: the run.
        stop: whether this rank was asked to stop.
    """
    loops = student_loops(training)
    training.log_samplers()
    finish_update(training, loops)
    while not training.finished():
        with update_under_way(training.update + 1):
            stopped = advance(training, loops, stop.is_requested)
        training.log_samplers()
        if is_report_due(training):
            for loop in loops.values():
                _report(training, loop)
            training.flush_log()
        if stopped or training.is_save_due():
            training.save()
        if stopped:
            training.tracker.info(f"stopped on request at update {training.update}; resume with --resume")
            return
        finish_update(training, loops)


def finish_update(training: Training, loops: Mapping[str, StudentLoop]) -> None:
    """Validates, starts the next epoch or ends the run, where that is due after an update.

    The checkpoint before it is written already, so that a crash here loses nothing: a resumed run comes here first.

    Args:
        training: the run; all ranks of the job call this together.
        loops: of this rank's students.
    """
    is_validation_due = training.is_validation_due()
    if is_validation_due:
        validate_students(training)
        training.validated = training.update
        for loop in loops.values() if not training.recipe.validation.every else ():
            loop.meter.reset()
    training.end_epoch()
    if training.finished() and not training.has_ended():
        end(training)
    elif is_validation_due:
        training.replace_state(training.state())
    elif training.finished():
        training.keep_averages_since_ended()


def end(training: Training) -> None:
    """Ends a run: validates its last updates and keeps its last weights.

    Where only the end calls for that validation, the checkpoint keeps the state before it: a run that later goes on
    longer does so bit for bit as if it had been that long from the beginning.

    Args:
        training: the run; all ranks of the job call this together.
    """
    state = training.state()
    if training.validated != training.update:
        validate_students(training)
        training.validated_at_end = training.update
    training.keep_last()
    training.replace_state(training.state_at_end(state))
    for student in training.students:
        directory = student.directory / "best" if student.best.overall.is_set else student.directory / "last"
        student.tracker.info(
            f"ended after {clock(training.time_spent.total())}: {directory} ({student.best.selected()})"
        )


def advance(training: Training, loops: Mapping[str, StudentLoop], stop: bool) -> bool:
    """Makes one update of every student: draws batches, forward, backward, step (Algorithm 1, lines 3 to 7).

    The host may be an update ahead of what it has read (``step``), but never where anything follows from it: a report,
    a sampler's measurement, an epoch's end, a checkpoint, a validation.

    Args:
        training: the run; all ranks of the job call this together.
        loops: of this rank's students.
        stop: this rank was asked to stop.

    Returns:
        Whether any rank was asked to stop.
    """
    for names in training.students_at_once:
        at_once = [loop for name, loop in loops.items() if name in names]
        with training.peer_exchange.requests_served():
            gradients = [forward_backward(loop, loop.student.data_iterator.next_update()) for loop in at_once]
        for loop, gradient in zip(at_once, gradients, strict=True):
            results = step(loop, gradient, stop)
            loop.student.data_iterator.update_done()
            stop = _note(loop, results) or stop
    if stop or reads_losses(training):
        for loop in loops.values():
            stop = _note(loop, finish_reading(loop)) or stop
    training.measure()
    return training.sync_progress(stop)


def is_report_due(training: Training) -> bool:
    """Returns whether the log gets a line of the last update.

    Args:
        training: the run.

    Returns:
        True every ``tracking.log_every`` updates.
    """
    return training.update % training.recipe.tracking.log_every == 0


def reads_losses(training: Training) -> bool:
    """Returns whether anything that follows the last update needs its losses, or that it was finite.

    Args:
        training: the run.

    Returns:
        True before reports, samplers' measurements, ends of epochs, checkpoints and validations.
    """
    return (
        is_report_due(training)
        or training.is_save_due()
        or training.sampler_updates.is_measure_due(training.update)
        or any(student.data_iterator.epoch_ended for student in training.students)
    )


def _note(loop: StudentLoop, results: list["UpdateResult"]) -> bool:
    """Hands the losses of updates to the student's data; whether any rank was asked to stop in them."""
    for result in results:
        loop.student.data_iterator.add_losses(result.losses)
        loop.norm = result.norm
    return any(result.stop for result in results)


class ReadyGradient(NamedTuple):
    """An update whose forward and backward are done."""

    update: Update
    """With its micro-batches."""
    losses_P2: Tensor
    """float64: each pair's sum of the cross-entropy on this rank, and its target tokens."""
    broken_M: Tensor
    """float64: 1 for each of this rank's micro-batches whose loss is not finite, else 0."""


class UpdateResult(NamedTuple):
    """A finished update, equal on every rank of the student."""

    norm: float
    """The gradient's, before clipping."""
    stop: bool
    """Whether any rank was asked to stop."""
    losses: Losses
    """Each pair's part of it."""


def forward_backward(loop: StudentLoop, micro_batches: list[Batch]) -> ReadyGradient:
    """Runs forward and backward of an update; several students may do theirs before any takes its step.

    Args:
        loop: of the student; all of its ranks call this together.
        micro_batches: this rank's, of ``DataIterator.next_update``.

    Returns:
        What ``step`` needs.
    """
    student, meter = loop.student, loop.meter
    layout, pairs = student.engine.layout, len(student.training_data.pairs)
    update = training_update(student, micro_batches, loop.prefetcher.before)
    if meter.peak is not None:
        model, vocabulary_size = student.recipe.model, student.engine.model.vocabulary_size
        flops = sum(training_flops(model, vocabulary_size, batch) for batch in micro_batches)
        meter.flops += flops / (layout.pipeline_parallel_size * layout.vocab_parallel_size)
    losses_P2 = torch.zeros(pairs, 2, dtype=torch.float64, device=layout.device)
    broken_M = torch.zeros(len(micro_batches), dtype=torch.float64, device=layout.device)
    for index, (batch, metrics) in enumerate(zip(micro_batches, student.forward_backward(update), strict=False)):
        broken_M[index] = ~torch.isfinite(metrics["loss"][0])
        if batch.pair < pairs:  # others are text of one language
            losses_P2[batch.pair] += metrics["ce"]
        meter.add(metrics)
    return ReadyGradient(update, losses_P2, broken_M)


class UpdateUnderWay(NamedTuple):
    """An update whose step is launched, and whose numbers the device has not made yet."""

    gradient: ReadyGradient
    """Its losses."""
    numbers: HostCopy
    """(P + 2, 2): each pair's loss and tokens, requests to stop and micro-batches that are not finite, the norm."""


def step(loop: StudentLoop, gradient: ReadyGradient, stop: bool) -> list[UpdateResult]:
    """Takes the optimizer's step; all ranks get the losses and any request to stop together.

    Where the engine's step asks the device nothing, neither does this one: an update by numbers that are not finite is
    left out on the device, and those after it, too; its numbers are read when the next update is launched.

    Args:
        loop: of the student; all of its ranks call this together.
        gradient: of ``forward_backward``.
        stop: this rank was asked to stop.

    Returns:
        The update's norm and losses; where the host runs ahead those of the one before it, if there is one under way.

    Raises:
        RunError: where a loss or the gradient is not finite; nothing was updated by it or since.
    """
    student, train = loop.student, loop.student.recipe.train
    update, number = gradient.update, gradient.update.number
    broken = gradient.broken_M.sum()
    flags = torch.stack([torch.full_like(broken, float(stop)), broken])
    sums = student.engine.layout.sum_over_ranks(torch.cat([gradient.losses_P2, flags.unsqueeze(0)]))
    loop.meter.tokens += update.micro_batches[0].divisor
    if student.engine.step_unread is not None:
        norm = student.engine.step_unread(learning_rate(train, number), sums[-1, 1])
        before = loop.under_way
        loop.under_way = UpdateUnderWay(gradient, HostCopy(torch.cat([sums, norm.to(sums.dtype).expand(1, 2)])))
        return [] if before is None else [_read(student, before)]
    *losses, (stops, all_broken) = sums.tolist()
    _check_losses(student, gradient, all_broken)
    value = student.engine.step(learning_rate(train, number))
    check_gradient(student, update, value, f"update {number}")
    return [UpdateResult(value, bool(stops), [(loss, tokens) for loss, tokens in losses])]


def finish_reading(loop: StudentLoop) -> list[UpdateResult]:
    """Reads the numbers of the update that is under way, if there is one.

    Args:
        loop: of the student; all of its ranks call this together.

    Returns:
        Its norm and losses.

    Raises:
        RunError: where they are not finite; nothing was updated by it.
    """
    under_way, loop.under_way = loop.under_way, None
    return [] if under_way is None else [_read(loop.student, under_way)]


def _read(student: Student, under_way: UpdateUnderWay) -> UpdateResult:
    """Waits for an update and checks its numbers."""
    *losses, (stops, all_broken), (norm, _) = under_way.numbers.read()
    _check_losses(student, under_way.gradient, all_broken)
    update = under_way.gradient.update
    check_gradient(student, update, norm, f"update {update.number}")
    return UpdateResult(norm, bool(stops), [(loss, tokens) for loss, tokens in losses])


def _check_losses(student: Student, gradient: ReadyGradient, broken: float) -> None:
    """Raises a RunError where a loss of any rank is not finite; all of the student's ranks call this together."""
    if broken:
        names = ", ".join(_broken_pairs(student, gradient))
        raise stopped(student, f"update {gradient.update.number}: the loss is not finite (pairs: {names})")


def _broken_pairs(student: Student, gradient: ReadyGradient) -> list[str]:
    """Names of the pairs whose loss is not finite, on any rank of the student; all of them call this together."""
    micro_batches, flags = gradient.update.micro_batches, gradient.broken_M.tolist()
    own = [student.training_data.names[batch.pair] for batch, flag in zip(micro_batches, flags, strict=True) if flag]
    return list(dict.fromkeys(name for names in student.engine.layout.ranks.gather(own) for name in names))


def train_update(loop: StudentLoop, micro_batches: list[Batch]) -> UpdateResult:
    """Makes one whole update of a student that is trained alone, and reads its numbers; for benchmarks and tests.

    Args:
        loop: of the student; all of its ranks call this together.
        micro_batches: this rank's, of ``DataIterator.next_update``.

    Returns:
        The update's norm and losses.
    """
    results = step(loop, forward_backward(loop, micro_batches), stop=False) + finish_reading(loop)
    return results[-1]


def _report(training: Training, loop: StudentLoop) -> None:
    values: dict[str, Any] = {**loop.meter.report(), **memory(training.layout)}
    values[metric_keys.TRAIN_LR] = learning_rate(training.recipe.train, training.update)
    values[metric_keys.TRAIN_GNORM] = loop.norm
    used = values.get(metric_keys.MEMORY_GPU) or values[metric_keys.MEMORY_CPU]
    train, progress = training.recipe.train, training.progress
    last = train.max_steps or progress.epoch_length * train.max_epochs
    if last < progress.epoch_end and not train.max_steps:  # a resumed run of larger updates
        last = progress.epoch_end + (train.max_epochs - 1 - progress.epoch) * progress.epoch_length
    line = progress_line(
        training.update, last, progress.epochs, values, used / 1e9, training.time_spent.total()
    )  # fmt: skip
    training.run_log.log(loop.student, "train", training.update, progress, values, line)


class StopRequest:
    """Flag that SIGTERM and SIGINT set; the loop reads it at the next update, saves and leaves."""

    is_requested = False


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Handles SIGTERM and SIGINT as a request to stop, for as long as the block runs.

    Returns:
        Nothing: a context manager that gives the request.
    """
    stop = StopRequest()

    def ask(number: int, frame: object) -> None:
        stop.is_requested = True
        LOG.warning("signal %d: stopping after this update", number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

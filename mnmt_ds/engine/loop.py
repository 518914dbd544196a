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
            norms, stopped = advance(training, loops, stop.is_requested)
        training.log_samplers()
        if training.update % training.recipe.tracking.log_every == 0:
            for name, loop in loops.items():
                _report(training, loop, norms[name])
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


def advance(training: Training, loops: Mapping[str, StudentLoop], stop: bool) -> tuple[dict[str, float], bool]:
    """Makes one update of every student: draws batches, forward, backward, step (Algorithm 1, lines 3 to 7).

    Args:
        training: the run; all ranks of the job call this together.
        loops: of this rank's students.
        stop: this rank was asked to stop.

    Returns:
        Each student's gradient norm, and whether any rank was asked to stop.
    """
    norms = {}
    for names in training.students_at_once:
        at_once = [loop for name, loop in loops.items() if name in names]
        with training.peer_exchange.requests_served():
            gradients = [forward_backward(loop, loop.student.data_iterator.next_update()) for loop in at_once]
        for loop, gradient in zip(at_once, gradients, strict=True):
            result = step(loop, gradient, stop)
            loop.student.data_iterator.update_done(result.losses)
            norms[loop.student.name], stop = result.norm, stop or result.stop
    training.measure()
    return norms, training.sync_progress(stop)


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


def step(loop: StudentLoop, gradient: ReadyGradient, stop: bool) -> UpdateResult:
    """Takes the optimizer's step; all ranks get the losses and any request to stop together.

    Args:
        loop: of the student; all of its ranks call this together.
        gradient: of ``forward_backward``.
        stop: this rank was asked to stop.

    Returns:
        The update's norm and losses.

    Raises:
        RunError: where a loss or the gradient is not finite; nothing was updated.
    """
    student, train = loop.student, loop.student.recipe.train
    update, number = gradient.update, gradient.update.number
    broken = gradient.broken_M.sum()
    flags = torch.stack([torch.full_like(broken, float(stop)), broken])
    sums = student.engine.layout.sum_over_ranks(torch.cat([gradient.losses_P2, flags.unsqueeze(0)]))
    *losses, (stops, all_broken) = sums.tolist()
    if all_broken:
        names = ", ".join(_broken_pairs(student, gradient))
        raise stopped(student, f"update {number}: the loss is not finite (pairs: {names})")
    norm = student.engine.step(learning_rate(train, number))
    check_gradient(student, update, norm, f"update {number}")
    loop.meter.tokens += update.micro_batches[0].divisor
    return UpdateResult(norm, bool(stops), [(loss, tokens) for loss, tokens in losses])


def _broken_pairs(student: Student, gradient: ReadyGradient) -> list[str]:
    """Names of the pairs whose loss is not finite, on any rank of the student; all of them call this together."""
    micro_batches, flags = gradient.update.micro_batches, gradient.broken_M.tolist()
    own = [student.training_data.names[batch.pair] for batch, flag in zip(micro_batches, flags, strict=True) if flag]
    return list(dict.fromkeys(name for names in student.engine.layout.ranks.gather(own) for name in names))


def train_update(loop: StudentLoop, micro_batches: list[Batch]) -> UpdateResult:
    """Makes one whole update of a student that is trained alone; for benchmarks and tests.

    Args:
        loop: of the student; all of its ranks call this together.
        micro_batches: this rank's, of ``DataIterator.next_update``.

    Returns:
        The update's norm and losses.
    """
    return step(loop, forward_backward(loop, micro_batches), stop=False)


def _report(training: Training, loop: StudentLoop, norm: float) -> None:
    values: dict[str, Any] = {**loop.meter.report(), **memory(training.layout)}
    values[metric_keys.TRAIN_LR] = learning_rate(training.recipe.train, training.update)
    values[metric_keys.TRAIN_GNORM] = norm
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

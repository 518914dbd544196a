"""A student: a model on an engine, with its method, its data and its best checkpoints; and an update of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mnmt_ds.batch import Batch
from mnmt_ds.engine.checkpointing.best_checkpoints import BestCheckpoints
from mnmt_ds.engine.dataloading.contents import update_contents
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.parallel.engine import Engine, MethodEvalStates, Metrics, Update
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import RunError
from mnmt_ds.methods.method import Method
from mnmt_ds.samplers.sampler import Sampler
from mnmt_ds.tracking import Tracker


@dataclass
class Student:
    """One model in training: its engine, its data, its method and its best checkpoints."""

    name: str
    """Its name among the run's students; "student" where it is alone."""
    engine: Engine
    """Its model, optimizer and ranks."""
    method: Method
    """Its training method."""
    best: BestCheckpoints
    """Its best dev losses."""
    recipe: Recipe
    """The recipe with this student's own sampler, seed and directory."""
    data_iterator: DataIterator
    """Iterator over the updates of its training data."""
    tracker: Tracker
    """Its own log; the run's where it is alone."""
    eval_states: MethodEvalStates
    """Its own states without dropout, for its method."""
    prefetch_peer_states: Callable[["Student", Update], None] = lambda student, update: None
    """Gets other students' states of an update's micro-batches, before it."""
    frozen: str = ""
    """SHA-256 of the file with the weights that are not trained; empty: all are."""
    last: int | None = None
    """The update whose weights are kept as ``last``."""

    @property
    def directory(self) -> Path:
        """Directory of its weights and records: the run's own where it is alone."""
        return self.recipe.directory

    @property
    def training_data(self) -> TrainingData:
        """The training data that its iterator goes through."""
        return self.data_iterator.training_data

    @property
    def sampler(self) -> Sampler:
        """Its sampler of language pairs."""
        return self.data_iterator.training_data.sampler

    @property
    def updates(self) -> int:
        """Number of updates done."""
        return self.data_iterator.update

    def forward_backward(self, update: Update) -> list[Metrics]:
        """Runs forward and backward of an update, after other students' states that it needs are fetched.

        Args:
            update: of its training or of a trial; all of the student's ranks call this together.

        Returns:
            Each micro-batch's metric sums where they are reported; an empty list on other ranks.
        """
        self.prefetch_peer_states(self, update)
        self.eval_states.prefetch(update.micro_batches)
        return self.engine.forward_backward(update)


def training_update(student: Student, micro_batches: Sequence[Batch], prefetch: Callable[[int], None]) -> Update:
    """Builds the next update of a student's training.

    Args:
        student: whose iterator gave the micro-batches.
        micro_batches: of ``DataIterator.next_update``.
        prefetch: called before each micro-batch with its index.

    Returns:
        What ``Student.forward_backward`` takes.
    """
    number, data = student.updates + 1, student.data_iterator
    return Update(
        micro_batches,
        partial(update_contents, data.plan, data.update_in_plan, data.training_data.layout),
        student.method,
        prefetch,
        student.recipe.train.seed,
        number=number,
        key=number,
    )


def check_gradient(student: Student, update: Update, norm: float, description: str) -> None:
    """Raises a RunError where an update's gradient is not finite, by which no engine has updated anything.

    In fp16 such gradients are a matter of the loss scale, which DeepSpeed lowers.

    Args:
        student: whose update it is; all of its ranks call this together.
        update: whose gradient it is.
        norm: of ``Engine.step``.
        description: the update in words.

    Raises:
        RunError: where the norm is not finite.
    """
    if math.isfinite(norm) or student.recipe.train.precision == "fp16":
        return
    contents = [content for contents in update.contents() for content in contents if content is not None]
    names = dict.fromkeys(student.training_data.names[content.pair] for content in contents)
    raise stopped(student, f"{description}: the gradient is not finite (pairs: {', '.join(names)})")


def stopped(student: Student, reason: str) -> RunError:
    """Builds the error that ends a run whose loss, gradient or weights are no longer finite.

    Args:
        student: whose numbers they are.
        reason: what was seen.

    Returns:
        The exception, which the student's first rank shows.
    """
    who = f"student {student.name}, " if len(student.recipe.students) > 1 else ""
    remedy = "nothing was updated; lower train.lr, or resume from the last checkpoint"
    return RunError(f"{who}{reason}; {remedy}", student.engine.layout.is_main)

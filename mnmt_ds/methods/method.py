"""The one abstraction of training: a method is a few functions over batches.

A micro-batch goes through ``prepare`` (repeats of rows, masks), the model, ``teach`` (teachers' states are added,
without gradient) and ``compute_loss`` (states become a loss SUM), so that a pipeline's last stage can call the last
two.
``on_validation`` gets the dev losses (teachers are replaced there, weights move); ``state`` is what a checkpoint holds.
Shape letters: B sentences, T target positions, S source positions, D model width, V vocabulary.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from torch import distributed as dist

from mnmt_ds.batch import Batch, MicroBatchContent
from mnmt_ds.best_values import DevMetric
from mnmt_ds.distributed import ALONE, RankGroup
from mnmt_ds.methods.peers import Peers
from mnmt_ds.teachers.overall_best import mean_loss
from mnmt_ds.teachers.teacher_pool import TeacherPool


class ModelStates(Protocol):
    """States of the model's forward pass of a batch, which a method scores."""

    @property
    def decoder_BTD(self) -> Tensor:
        """Decoder states, (B, T, D)."""
        ...

    @property
    def encoder_BSD(self) -> Tensor:
        """Encoder states, (B, S, D)."""
        ...

    @property
    def encoder_projection_VD(self) -> Tensor | None:
        """The encoder's own output projection, (V, D); None where it shares the decoder's."""
        ...


class LossAndMetrics(NamedTuple):
    """The loss of a micro-batch, and the figures that are logged of it."""

    loss: Tensor
    """() sum over the batch's tokens, differentiable; the caller divides by the update's token count."""
    metrics: dict[str, Tensor]
    """Detached (2,) each: a sum and what it is to be divided by; both are kept; the report takes the mean once."""


class ValidationReport(NamedTuple):
    """The results of a validation, equal on every rank."""

    update: int
    """Updates done."""
    epoch: float
    """Epochs done, with the fraction of the one under way."""
    dev: dict[str, float]
    """Label-smoothed cross-entropy on each pair's dev set, nats a token."""
    others: Mapping[str, Mapping[str, float]] = {}
    """The dev losses of the run's other students, by name."""
    bleu: Mapping[str, float] = {}
    """Dev BLEU of each pair; empty at validations that do not take it."""


class Stateful(Protocol):
    """Interface of state that checkpoints carry: JSON values, and the updates whose snapshots it refers to."""

    def state(self) -> dict[str, Any]:
        """Collects what a checkpoint holds.

        Returns:
            JSON values.
        """
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a state; all ranks call this together.

        Args:
            state: what ``state`` returned, as JSON gives it back.
        """
        ...

    def snapshots(self) -> set[int]:
        """Lists the weights that must not be deleted.

        Returns:
            The updates at which they were kept.
        """
        ...

    def report(self, update: int) -> dict[str, float]:
        """Collects metric values for a validation's record.

        Args:
            update: updates done.

        Returns:
            Values by metric key.
        """
        ...


@runtime_checkable
class DevMetricState(Protocol):
    """Interface of ``Stateful`` that compares dev metrics, and restarts where they are measured in another way."""

    @property
    def dev_metrics(self) -> Collection[DevMetric]:
        """Dev metrics that are compared."""
        ...

    def begin_anew(self) -> None:
        """Drops the values so far; what follows from them stays until the next validation."""
        ...


def identity(batch: Batch) -> Batch:
    """Returns a batch as it is: the ``prepare`` or ``teach`` of a method that needs none.

    Args:
        batch: a micro-batch.

    Returns:
        The same batch.
    """
    return batch


def ignore_report(report: ValidationReport) -> None:
    """Does nothing: the ``on_validation`` or ``after_validation`` of a method that learns nothing from dev losses.

    Args:
        report: the validation.
    """


def ignore_contents(contents: Sequence[MicroBatchContent | None]) -> None:
    """Does nothing: the ``prefetch`` of a method without frozen teachers.

    Args:
        contents: what each rank's next micro-batch will hold.
    """


class Method(NamedTuple):
    """A training method: functions that the loop calls, and the state that they keep over the run."""

    compute_loss: Callable[[ModelStates, Tensor, Batch], LossAndMetrics]
    """(states of the model, output projection (V, D), batch) -> the loss as a sum over the batch's tokens."""
    prepare: Callable[[Batch], Batch] = identity
    """Shapes a batch before the model sees it, such as repeating its rows."""
    teach: Callable[[Batch], Batch] = identity
    """Adds the teachers' states to a prepared batch, and may change the weight of gold; without gradient."""
    prefetch: Callable[[Sequence[MicroBatchContent | None]], None] = ignore_contents
    """Called on all ranks alike, one micro-batch ahead and never beyond a validation, with what each rank will hold
    (None: nothing), so that teachers' weights and states are fetched while the present micro-batch is trained on."""
    on_validation: Callable[[ValidationReport], None] = ignore_report
    """Called with the dev losses, before the best weights are kept: teachers are replaced, switches set."""
    after_validation: Callable[[ValidationReport], None] = ignore_report
    """Called when the best weights are kept; moves weights between losses, and may train the student."""
    state: Mapping[str, Stateful] = MappingProxyType({})
    """What a checkpoint must carry, by name."""


@dataclass(frozen=True)
class MethodContext:
    """Objects of a run that its method may use."""

    pairs: Sequence[str]
    """Names of the run's language pairs, such as fr-en; a batch's ``pair`` is an index into it."""
    smoothing: float
    """Label smoothing of the cross-entropy with gold."""
    implementation: str
    """Name of the fused loss's implementation: auto, reference, chunked, cpu, cuda or triton."""
    build_teacher_pool: Callable[..., TeacherPool]
    """From ``TeacherSettings`` to room for former states of the student, sharded over the ranks, or, with True behind
    them, for other runs' models of its shape; called by all ranks together."""
    eval_states: Callable[[Batch], tuple[Tensor, Tensor]]
    """The student's decoder states (B, T, D) of a batch without dropout or gradient, and its projection (V, D)."""
    target_vocabulary: Callable[[str], Tensor]
    """From a target language to a boolean (V,): the tokens that occur in its own training text."""
    request_eval_states: Callable[[Callable[[str], bool]], None] = lambda needs_states: None
    """Called once, when the method is built, with a function that says whether a batch of a pair (its name) will ask
    for ``eval_states``, as things are at the time. Along pipeline stages they are made before the update."""
    partitioned: bool = False
    """ZeRO-3: the student's passes gather its weights, so that all ranks must make them together."""
    overall_loss: Callable[[Mapping[str, float]], float] = mean_loss
    """From the pairs' dev losses to the one that the overall best checkpoint is selected by, nats a token."""
    max_best_versions: int = 0
    """Distinct models at most that pairs' bests, and teachers made of them, may be; 0: any number."""
    total_updates: Callable[[], int] = lambda: 0
    """Updates that the run's budget allows; schedules are fractions of it."""
    group: dist.ProcessGroup | None = None
    """Ranks over which projections are split by words; None: each is whole."""
    peers: Peers | None = None
    """The run's other students; None for one that is alone."""
    ranks: RankGroup = ALONE
    """The student's ranks, with the collectives over them."""
    dev_bleu: Callable[[Mapping[str, Path]], dict[str, float]] = lambda models: {}
    """BLEU of model directories on their pairs' dev sets, decoded as the student's; called by all ranks together."""

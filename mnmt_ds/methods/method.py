"""The one abstraction of training: a method is a few functions over batches.

``prepare`` shapes the batch (repeats, masks), ``teach`` adds what teachers say, without gradient, where scoring
happens; ``score`` turns states into a loss SUM, so that a pipeline's last stage can call it; ``on_validated`` hears
the dev losses (teachers are replaced there, weights move); ``state`` is what a checkpoint must carry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch import distributed as dist

from mnmt_ds.batch import Batch, Slot
from mnmt_ds.methods.peers import Peers
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.teacher_pool import TeacherPool


class ModelStates(Protocol):
    """Decoder states (B, T, D) and encoder states (B, S, D) of a batch; the encoder's projection where it has one."""

    @property
    def decoder_BTD(self) -> Tensor: ...
    @property
    def encoder_BSD(self) -> Tensor: ...
    @property
    def encoder_projection_VD(self) -> Tensor | None: ...


class LossAndMetrics(NamedTuple):
    """What a batch costs."""

    loss: Tensor
    """() sum over the batch's tokens, differentiable; the caller divides by the update's token count."""
    metrics: dict[str, Tensor]
    """Detached (2,) each: a sum and what it is to be divided by; both travel, the mean is taken once, at the report."""


class ValidationReport(NamedTuple):
    """A validation, equal on every rank."""

    update: int
    epoch: float
    dev: dict[str, float]
    """Label-smoothed cross-entropy a token on each pair's dev set."""
    others: Mapping[str, Mapping[str, float]] = {}
    """The same of the run's other students, by name."""
    bleu: Mapping[str, float] = {}
    """Dev BLEU of each pair; empty at validations that do not take it."""


class Stateful(Protocol):
    """Something that a checkpoint must carry: JSON, plus the updates whose snapshots it refers to."""

    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...
    def snapshots(self) -> set[int]: ...
    def report(self, update: int) -> dict[str, float]: ...


def identity(batch: Batch) -> Batch:
    """The ``prepare`` or ``teach`` of a method that needs none."""
    return batch


def ignore_report(report: ValidationReport) -> None:
    """The ``on_validated`` or ``adjust`` of a method that learns nothing from dev losses."""


class Method(NamedTuple):
    """A way to train."""

    prepare: Callable[[Batch], Batch]
    teach: Callable[[Batch], Batch]
    score: Callable[[ModelStates, Tensor, Batch], LossAndMetrics]
    on_validated: Callable[[ValidationReport], None]
    state: Mapping[str, Stateful]
    upcoming: Callable[[Sequence[Slot | None]], None] = lambda slots: None
    """Told on all ranks alike, one micro-batch ahead, what each rank will hold (None: nothing), never beyond a
    validation: teachers are fetched and asked while the present micro-batch is trained on."""
    adjust: Callable[[ValidationReport], None] = ignore_report
    """Moves weights between losses; called after ``on_validated``, when the best weights are kept: it may train."""


@dataclass(frozen=True)
class MethodContext:
    """What a method may need of the run it is part of."""

    pairs: Sequence[str]
    device: torch.device
    smoothing: float
    """Label smoothing of the cross-entropy with gold."""
    implementation: str
    """Of the fused loss: auto, reference, chunked, cpu or cuda."""
    build_teacher_pool: Callable[[TeacherSettings], TeacherPool]
    """Room for frozen copies of the student, sharded over the ranks; called by all ranks together."""
    quiet_states: Callable[[Batch], tuple[Tensor, Tensor]]
    """The student's decoder states without dropout or gradient, and its projection."""
    target_vocabulary: Callable[[str], Tensor]
    """Of a target language, a boolean (V,) of the tokens in its own training text."""
    foresee: Callable[[Callable[[str], bool]], None] = lambda wanted: None
    """Told once: whether a batch of a pair (its name) will ask for ``quiet_states``, as things then are. Along pipeline
    stages they are made before the update."""
    partitioned: bool = False
    """ZeRO-3: the student's passes gather its weights, so that all ranks must make them together."""
    total_updates: Callable[[], int] = lambda: 0
    """Updates that the run's budget allows: what schedules are fractions of."""
    group: dist.ProcessGroup | None = None
    """Ranks over which projections are split by words; None: each is whole."""
    peers: Peers | None = None
    """The run's other students; None for one that is alone."""
    dev_bleu: Callable[[Mapping[str, Path]], dict[str, float]] = lambda models: {}
    """BLEU of model directories on their pairs' dev sets, decoded as the student's; called by all ranks together."""

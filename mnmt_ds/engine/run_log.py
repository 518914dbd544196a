"""The logs of a run and of its students: a student's record stands in its own log, and under its name in the run's."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.checkpointing.checkpoint import JobLayout
from mnmt_ds.engine.monitoring.progress import EpochProgress
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.students.peer_group import PeerGroup
from mnmt_ds.engine.students.student import Student
from mnmt_ds.errors import UserError
from mnmt_ds.models.frozen import freeze
from mnmt_ds.models.transformer import Transformer, parameter_count
from mnmt_ds.package_versions import package_versions
from mnmt_ds.tracking import Tracker


class LogEntry(NamedTuple):
    """A student's record on its way into the run's log."""

    kind: str
    """train, valid or sampler."""
    update: int
    """Updates done."""
    epochs: float
    """Epochs done."""
    values: dict[str, Any]
    """By metric key, with the student's name before it."""
    line: str
    """The same in one line."""


class RunLog:
    """Writes students' records."""

    def __init__(self, tracker: Tracker, peer_group: PeerGroup) -> None:
        """Starts without records.

        Args:
            tracker: the run's.
            peer_group: through which split students' records come together.
        """
        self.tracker, self._peer_group = tracker, peer_group
        self._pending: list[LogEntry] = []

    def log(
        self, student: Student, kind: str, update: int, progress: EpochProgress, values: dict[str, Any], line: str
    ) -> None:
        """Writes a student's record into its own log, and under its name into the run's where it is not alone.

        Args:
            student: whose record.
            kind: train, valid or sampler.
            update: updates done.
            progress: of the run.
            values: by metric key.
            line: the same in one line.
        """
        student.tracker.log(kind, update, progress.epochs, values)
        if student.tracker is self.tracker:
            self.tracker.report(line)
            return
        named = {f"{student.name}/{key}": value for key, value in values.items()}
        self._pending.append(LogEntry(kind, update, progress.epochs, named, f"{student.name} | {line}"))
        if not self._peer_group.is_split:
            self.flush()

    def flush(self) -> None:
        """Writes students' waiting records into the run's log; called by all ranks of the job together."""
        entries = self._pending
        if self._peer_group.is_split:
            gathered = self._peer_group.merge({self._peer_group.own_students[0]: [tuple(entry) for entry in entries]})
            entries = [LogEntry(*values) for rows in gathered.values() for values in rows]
        for entry in entries:
            self.tracker.log(entry.kind, entry.update, entry.epochs, entry.values)
            self.tracker.report(entry.line)
        self._pending = []

    def raise_faults(self, trackers: Sequence[Tracker]) -> None:
        """Raises on all ranks where a log could not be written; called by all ranks of the job together.

        Args:
            trackers: of the run and of this rank's students.

        Raises:
            UserError: names each such log and why.
        """
        own = [fault for tracker in trackers if tracker.fault is not None for fault in tracker.fault.faults]
        faults = [fault for rank_faults in self._peer_group.barrier().gather(own) for fault in rank_faults]
        if faults:
            raise UserError(*dict.fromkeys(faults))


def dashboard_config(recipe: Recipe, corpus: Corpus, student: Student) -> dict[str, Any]:
    """Collects what dashboards show as a run's configuration.

    Args:
        recipe: of the run, or of one of its students.
        corpus: that it is trained on.
        student: one of this rank's.

    Returns:
        The recipe's values; versions, parameters, ranks and sizes of the corpus under "run".
    """
    parameters, trained = _parameters(recipe, corpus)
    data = student.training_data
    run = {
        "versions": package_versions(),
        "parameters": parameters,
        "trained_parameters": trained,
        "vocabulary_size": corpus.tokenizer.size,
        "world_size": student.engine.layout.job.size,
        "corpus": corpus.hash,
        "train_sentences": dict(zip(data.pairs, map(int, data.sizes), strict=True)),
    }
    return {**recipe.model_dump(mode="json"), "run": run}


def _parameters(recipe: Recipe, corpus: Corpus) -> tuple[int, int]:
    """Parameters of the model, and of them those that are trained."""
    with torch.device("meta"):
        model = Transformer(recipe.model, corpus.tokenizer.size)
    freeze(model, recipe.model)
    return parameter_count(model), sum(p.numel() for p in model.parameters() if p.requires_grad)


def introduction(
    recipe: Recipe, corpus: Corpus, peer_group: PeerGroup, student: Student, job_layout: JobLayout, implementation: str
) -> str:
    """Describes a run in one line, as its log begins.

    Args:
        recipe: of the run.
        corpus: that it is trained on.
        peer_group: with the names of its students.
        student: one of this rank's.
        job_layout: how its training state is spread.
        implementation: of the loss.

    Returns:
        The line.
    """
    layout, training_data = student.engine.layout, student.training_data
    parameters, trained = _parameters(recipe, corpus)
    share = "" if trained == parameters else f" ({trained / 1e6:.3f}M trained)"
    students = f"{len(peer_group.student_names)} students, " if recipe.students else ""
    bounds = job_layout.bounds
    stages = "+".join(str(end - start) for start, end in pairwise(bounds))
    spread = f" in {len(bounds) - 1} stage(s) of {stages} layers" if bounds else ""
    if layout.vocab_parallel_size > 1:
        spread += f", vocabulary over {layout.vocab_parallel_size}"
    if peer_group.is_split:
        wait = "" if recipe.simultaneous else " (in turn; with simultaneous: true none waits)"
        spread += f", each student on {layout.ranks.size}{wait}"
    return (
        f"{recipe.name}: {recipe.method.name}, {students}{len(training_data.pairs)} pairs,"
        f" {sum(training_data.sizes)} sentences ({training_data.left_out} too long),"
        f" {parameters / 1e6:.1f}M parameters{share},"
        f" {layout.job.size} rank(s){spread}, ZeRO-{job_layout.zero_stage}, {recipe.train.precision},"
        f" loss: {implementation}"
    )

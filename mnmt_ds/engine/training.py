"""A run in progress: its students and what they share; how it resumes, saves and ends."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from mnmt_ds import private_apis
from mnmt_ds.distributed import RankGroup
from mnmt_ds.engine.build import first_weights, make_students, open_corpus, open_training_data, run_facts
from mnmt_ds.engine.checkpointing import checkpoint, resume_changes, run_directory
from mnmt_ds.engine.checkpointing.checkpoint import JobLayout, State
from mnmt_ds.engine.checkpointing.resume_changes import CheckpointOrigin, ResumeChange
from mnmt_ds.engine.checkpointing.retention import CheckpointRetention
from mnmt_ds.engine.dataloading.dev_batches import dev_batches, dev_tokens, mixes_pairs
from mnmt_ds.engine.monitoring.progress import EpochProgress, TimeSpent
from mnmt_ds.engine.parallel import ds_config, linear_products
from mnmt_ds.engine.parallel.random_state import use_deterministic_algorithms
from mnmt_ds.engine.parallel.run_layout import check_run_layout, form_parallel_layout
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.run_log import RunLog, dashboard_config, introduction
from mnmt_ds.engine.start_faults import all_faults_listed
from mnmt_ds.engine.students import records
from mnmt_ds.engine.students.peer_exchange import PeerExchange
from mnmt_ds.engine.students.peer_group import PeerGroup
from mnmt_ds.engine.students.sampler_updates import SamplerUpdates
from mnmt_ds.engine.students.student import Student
from mnmt_ds.engine.unused_settings import start_warnings
from mnmt_ds.errors import RunError, UserError
from mnmt_ds.kernels.implementations import resolve_implementation
from mnmt_ds.methods import registry
from mnmt_ds.methods.translation import translation_loss
from mnmt_ds.models.transformer import Transformer, parameter_count
from mnmt_ds.tracking import Tracker, run_and_student_settings


class StartPoint(NamedTuple):
    """The checkpoint or the weights that a run starts from."""

    checkpoint: Path
    """Its directory."""
    state: State
    """Its ``state.json``."""
    written: CheckpointOrigin
    """The run that wrote it."""
    changes: list[ResumeChange]
    """What this run has otherwise; nothing that is refused."""


class Training:
    """State of a run: its students, its data and its logs.

    The first student's epochs are the run's; all students take equally many updates.
    """

    def __init__(self, recipe: Recipe, resume: bool) -> None:
        """Builds everything; all ranks of the job call this together.

        Args:
            recipe: of the run.
            resume: goes on from the newest checkpoint, if there is one.

        Raises:
            UserError: where the recipe asks for what cannot be done, or the directory cannot be used.
        """
        self.recipe, self.directory = recipe, recipe.directory
        if recipe.train.deterministic:
            use_deterministic_algorithms()
        with all_faults_listed(recipe):
            config = ds_config.read(recipe.deepspeed)
            check_run_layout(recipe, config)
        self.layout = form_parallel_layout(recipe)
        self.peer_group = PeerGroup(recipe, self.layout)
        with ExitStack() as at_end, self.peer_group.failures_shared():
            if self.peer_group.is_split:
                at_end.enter_context(private_apis.module_orders_compared_by(_comparison_over(self.layout.ranks)))
            self._build(config, resume)
            self._at_end = at_end.pop_all()

    def _build(self, config: ds_config.Json, resume: bool) -> None:
        recipe, layout = self.recipe, self.layout
        with all_faults_listed(recipe):
            config = ds_config.resolve(config, recipe.train, layout.data_parallel_size, str(recipe.deepspeed))
            ds_config.check_by_deepspeed(config, str(recipe.deepspeed))
            ds_config.check_device(config)
            self.peer_group.barrier()
            self.corpus, self.pairs = open_corpus(recipe)
            source, first_weights_line = first_weights(recipe, self.corpus)
            training_data = open_training_data(recipe, self.corpus, layout, resume)
            longest, watch = recipe.model.max_positions, recipe.validation.watch
            tokens = dev_tokens(self.corpus, [*self.pairs, *watch], recipe.framing, longest)
            dev = partial(
                dev_batches, self.corpus, framing=recipe.framing, max_tokens=recipe.validation.max_tokens,
                longest=longest, layout=layout,
            )  # fmt: skip
            self.dev = dev({pair: tokens[pair] for pair in self.pairs})
            self.watched_dev = dev({pair: tokens[pair] for pair in watch}) if watch else None
            registry.check(recipe.method, run_facts(recipe, training_data))
        implementation = resolve_implementation(recipe.train.loss_implementation, layout.device)
        implementation = "sharded" if layout.vocab_parallel_size > 1 else implementation
        self.tracker = self._open_directory(resume)
        self.description = resume_changes.description(recipe, config, self.corpus, layout.data_parallel_size)
        start = self._find_start(config) if resume else None
        state = start.state if start else None
        self.linear_products, linear_line = linear_products.settle(recipe.train, layout.device, state, layout.job)
        self.run_log = RunLog(self.tracker, self.peer_group)
        self.retention = CheckpointRetention(self.directory, recipe.train.keep_checkpoints, self.tracker.warning)
        self.plain_loss_function = translation_loss(
            recipe.train.label_smoothing, recipe.train.loss_implementation, layout.vocab_group,
            sentence_sums=mixes_pairs(max(len(self.pairs), len(watch))),
        )  # fmt: skip
        self.peer_exchange = PeerExchange(
            self.peer_group, training_data, self.dev, self.pairs, self.plain_loss_function
        )
        self.students = make_students(
            recipe, config, self.corpus, self.peer_exchange, tokens, self.tracker, source, self._frozen(start)
        )
        self.job_layout = checkpoint.job_layout(self.first.engine)
        self.sampler_updates = SamplerUpdates(self.students, self.plain_loss_function)
        self.time_spent = TimeSpent()
        self.validated = 0
        """The update of the last validation that the training's course follows from."""
        self.validated_at_end = 0
        """The update of a validation at the end of the run that no longer run would have made."""
        self.sync_progress()
        if resume:
            self._resume(start)
        for student in self.students:
            self._describe(student.recipe, config, layout.ranks)
        if recipe.students:
            self._describe(recipe, config, self.peer_group.barrier())
        line = introduction(recipe, self.corpus, self.peer_group, self.first, self.job_layout, implementation)
        for said in (line, linear_line, "" if self.update else first_weights_line):
            if said:
                self.tracker.info(said)
        for warning in start_warnings(recipe, self.corpus):
            self.tracker.warning(warning)
        facts: dict[str, Any] = {"loss_implementation": implementation, "world_size": layout.job.size}
        if start is not None and start.changes:
            facts["changed"] = {change.name: [change.before, change.now] for change in start.changes}
        own = [(each.tracker, each.recipe) for each in self.students if each.tracker is not self.tracker]
        for tracker, its_recipe in [(self.tracker, recipe), *own]:
            tracker.start_dashboards(dashboard_config(its_recipe, self.corpus, self.first), self.update)
        for tracker in self._trackers():
            tracker.log("run", self.update, self.progress.epoch, facts)
        self.flush_log()

    def _frozen(self, start: StartPoint | None) -> dict[str, str]:
        """Of a run that goes on, by student, the SHA-256 of the weights that it does not train."""
        names = self.peer_group.student_names if start is not None else []
        states = {name: checkpoint.student_state(start.state, name) for name in names if start is not None}
        return {name: str(state["frozen"]) for name, state in states.items() if "frozen" in state}

    def _trackers(self) -> list[Tracker]:
        """The run's, and each student's where it is not alone."""
        return [self.tracker, *(student.tracker for student in self.students if student.tracker is not self.tracker)]

    def _open_directory(self, resume: bool) -> Tracker:
        """Locks the run's directory, refuses another run's, opens the log."""
        job = self.peer_group.barrier()
        self.lock = _claim_on_main(self.recipe, job)
        if not resume:
            job.on_main_first(run_directory.refuse_used, self.directory)
        recipe = self.recipe
        tracking, _ = run_and_student_settings(recipe.tracking, recipe.name, bool(recipe.students))
        return Tracker(self.directory, tracking, job.is_main, recipe.name)

    def _describe(self, recipe: Recipe, config: ds_config.Json, ranks: RankGroup) -> None:
        """Writes what a run or a student is beside its results."""
        ranks.on_main_first(run_directory.describe, recipe.directory, recipe, config)
        tokenizer = recipe.directory / "tokenizer"  # a run outlives its data
        ranks.on_main_first(self.corpus.tokenizer.save_to, tokenizer)

    @property
    def first(self) -> Student:
        """The first of this rank's students; where all are on every rank, the one whose epochs are the run's."""
        return self.students[0]

    @property
    def update(self) -> int:
        """Updates that every student has taken."""
        return self.first.updates

    @property
    def students_at_once(self) -> list[list[str]]:
        """Students that take a step at once, by name, one such list after another."""
        names = self.peer_group.student_names
        return [names] if self.recipe.simultaneous else [[name] for name in names]

    def sync_progress(self, stop: bool = False) -> bool:
        """Sets the run's progress on all ranks; they call this together.

        Args:
            stop: this rank was asked to stop.

        Returns:
            Whether any rank was asked to stop.
        """
        rows = self.peer_group.gather_numbers(
            [[*EpochProgress.of(student.data_iterator, student.best.since_better), stop] for student in self.students]
        )
        epoch, epochs, end, length, *_ = rows[0]
        since_better = int(min(row[4] for row in rows))
        self.progress = EpochProgress(int(epoch), epochs, int(end), int(length), since_better)
        return any(row[5] for row in rows)

    def _find_start(self, config: ds_config.Json) -> StartPoint | None:
        """The newest checkpoint, which is refused before anything is built where the run cannot go on from it."""
        newest = checkpoint.newest(self.directory, self.tracker.warning, self.peer_group.barrier())
        if newest is None:
            return None
        path, state = newest
        written = resume_changes.written_by(state["fingerprint"], self.recipe, config)
        listed = resume_changes.changes(written, self.recipe, config, self.corpus)
        resume_changes.refuse(path, listed, checkpoint.move_refusal(*self._layouts(state["layout"], config)))
        return StartPoint(path, state, written, listed)

    def _layouts(self, written: list[Any], config: ds_config.Json) -> tuple[JobLayout, JobLayout]:
        """A checkpoint's layout, and this job's as far as it is known before its stages are cut."""
        before, layout = JobLayout(*written), self.layout
        stages = layout.pipeline_parallel_size if self.recipe.pipeline is not None else 0
        bounds = before.bounds if len(before.bounds) == stages + bool(stages) else tuple(range(stages + bool(stages)))
        return before, JobLayout(layout.ranks.size, ds_config.zero_stage(config), bounds, layout.vocab_parallel_size)

    def _resume(self, start: StartPoint | None) -> None:
        if start is None:
            self.tracker.info(f"{self.directory}: no checkpoint yet; starting from the beginning")
            for tracker in self._trackers():
                tracker.rewind(-1)
            for student in self.students:
                student.sampler.start()
            return
        path, state = start.checkpoint, start.state
        checkpoint.load(path, self._engines(), JobLayout(*state["layout"]), self.job_layout, self.peer_group.barrier)
        if not self._all_finite(whole_state=True):
            raise UserError(
                f"{path}: NaN or Inf in its weights or in its optimizer's state; remove it: the run goes on from"
                f" the one before, or begin anew from its best weights with {checkpoint.init_setting(self.directory)}"
            )
        for student in self.students:
            own_state = checkpoint.student_state(state, student.name)
            records.restore_state(student, own_state, start.written, resume_changes.measured_anew(start.changes))
        self.sampler_updates.resumed()
        self.time_spent = TimeSpent(*state.get("seconds", ()))
        self.sync_progress()
        self._restore_validations(state)
        if not self.has_ended():
            self._truncate_logs_after(state)
        if self.layout.job.is_main:
            self.retention.note_good(path)
        self.tracker.info(f"{path}: resumed at update {self.update}")
        for change in start.changes:
            self.tracker.info(change.line())
        for student in self.students:
            if line := student.data_iterator.describe_cut():
                self.tracker.info(f"{student.name}: {line}" if self.recipe.students else line)

    def _restore_validations(self, state: checkpoint.State) -> None:
        """Which validations are done; older checkpoints, which do not say it, were written after them."""
        is_before_one = not self.recipe.validation.every and self.update == self.progress.epoch_end
        self.validated = state.get("validated", 0 if is_before_one else self.update)
        self.validated_at_end = state.get("validated_at_end", 0)

    def _truncate_logs_after(self, state: checkpoint.State) -> None:
        """Logs and links as they were when the checkpoint was written, or before a last validation of a shorter run."""
        if self.validated_at_end:
            self.tracker.warning(resume_changes.undone_validation(self.validated_at_end))
        self.validated_at_end = 0
        for tracker in self._trackers():
            tracker.rewind(self.update, state.get("records") if tracker is self.tracker else None)
        for student in self.students:
            if student.tracker is not self.tracker:
                student.tracker.rewind(self.update, checkpoint.student_state(state, student.name).get("records"))
            records.restore_links(student)

    def flush_log(self) -> None:
        """Writes what several students have noted; ends the run on all ranks where a log cannot be written."""
        self.run_log.flush()
        self.run_log.raise_faults(self._trackers())

    def save(self) -> None:
        """Writes a checkpoint of the present position; then whatever nothing refers to any more is removed.

        Raises:
            RunError: where weights are not finite; nothing is written.
        """
        self._check_weights()
        self.flush_log()
        with torch.device("meta"):
            parameters = parameter_count(Transformer(self.recipe.model, self.corpus.tokenizer.size))
        bytes_each = 20 if self.recipe.train.ema_decay else 16  # weights, fp32 masters and moments, their average
        needed = bytes_each * parameters * len(self.peer_group.student_names)
        path = checkpoint.save(self.directory, self._engines(), self.state(), needed, self.peer_group.barrier)
        self._remove_unused(path)

    def state(self) -> checkpoint.State:
        """Collects what a checkpoint of the present position holds besides DeepSpeed's files.

        Returns:
            JSON values; of all students, on every rank.
        """
        states = self.peer_group.merge({student.name: records.state_of(student) for student in self.students})
        by_student = states["student"] if list(states) == ["student"] else {"students": states}
        state = {
            "update": self.update, **by_student, "records": self.tracker.records, "validated": self.validated,
            "validated_at_end": self.validated_at_end, "fingerprint": self.description, "layout": list(self.job_layout),
            linear_products.STATE: self.linear_products,
        }  # fmt: skip
        return state | ({"seconds": self.time_spent.state()} if self.recipe.students else {})

    def state_at_end(self, state: checkpoint.State) -> checkpoint.State:
        """Adds to a state that the run has ended: the weights kept as ``last``, and the last validation.

        Args:
            state: of ``state``, at the same update.

        Returns:
            The new state.
        """
        state = {**state, "validated_at_end": self.validated_at_end}
        if "students" not in state:
            return {**state, "last": self.update}
        return {
            **state,
            "students": {
                name: {**student_state, "last": self.update} for name, student_state in state["students"].items()
            },
        }

    def replace_state(self, state: checkpoint.State) -> None:
        """Writes a new state into this update's checkpoint, then removes what nothing refers to any more.

        Args:
            state: what the checkpoint will hold besides DeepSpeed's files.
        """
        self.flush_log()
        path = checkpoint.replace_state(self.directory, state, self.peer_group.barrier())
        self._remove_unused(path)

    def _remove_unused(self, written: Path) -> None:
        self.peer_group.barrier().on_main_first(self.retention.remove_old, written)
        for student in self.students if self.layout.is_main else ():
            try:
                records.remove_unused_snapshots(self.directory, student)
            except OSError as error:
                student.tracker.warning(f"old snapshots cannot be removed ({error}); the training goes on")

    def _check_weights(self) -> None:
        """Refuses to keep weights that are not finite; all ranks of the job call this together."""
        if not self._all_finite():
            raise RunError(
                f"update {self.update}: weights are not finite; nothing was saved; lower train.lr, or resume from the"
                " last checkpoint",
                self.peer_group.barrier().is_main,
            )

    def _all_finite(self, whole_state: bool = False) -> bool:
        """Whether all students' weights are finite on all ranks, which call this together; see ``Engine.is_finite``."""
        faults = torch.tensor([float(not student.engine.is_finite(whole_state)) for student in self.students])
        rows = [[fault] for fault in self.layout.sum_over_ranks(faults.to(self.layout.device)).tolist()]
        return not any(row[0] for row in self.peer_group.gather_numbers(rows))

    def _engines(self) -> checkpoint.Engines:
        return {student.name: student.engine for student in self.students}

    def next_evaluation(self, student: Student) -> int:
        """Computes the update after which the next validation comes, or a student's sampler next measures.

        Args:
            student: whose updates are counted.

        Returns:
            A number of updates.
        """
        return next_evaluation(student, self.recipe.validation.every, self.progress.epoch_end)

    def is_validation_due(self) -> bool:
        """Returns whether a validation follows the last update and is not done yet.

        Returns:
            True where training goes on only after it.
        """
        every, update = self.recipe.validation.every, self.update
        is_due = update % every == 0 if every else update == self.progress.epoch_end
        return is_due and update not in (0, self.validated)

    def is_save_due(self) -> bool:
        """Returns whether a checkpoint is written now: every so many updates, before a validation, at the end.

        Returns:
            True also where one of this update was resumed from.
        """
        budget, update = self.recipe.train, self.update
        is_last_of_epoch = update == self.progress.epoch_end
        is_last = update == budget.max_steps or (is_last_of_epoch and self.progress.epoch + 1 >= budget.max_epochs)
        return is_last or self.is_validation_due() or bool(budget.save_every and update % budget.save_every == 0)

    def end_epoch(self) -> None:
        """Starts the next epoch, where the last update ended one."""
        if self.update != self.progress.epoch_end:
            return
        for student in self.students:
            if student.data_iterator.epoch_ended:
                student.data_iterator.next_epoch()
        self.sync_progress()
        self.log_samplers()

    def has_ended(self) -> bool:
        """Returns whether the run is over, with its last weights validated and kept.

        Returns:
            False also where a longer budget lets an ended run go on.
        """
        is_validated = self.update in (self.validated, self.validated_at_end)
        return self.finished() and is_validated and all(student.last == self.update for student in self.students)

    def finished(self) -> bool:
        """Returns whether ``max_steps``, ``max_epochs`` or ``patience`` is reached.

        Returns:
            True where the run is over.
        """
        budget = self.recipe.train
        return (
            0 < budget.max_steps <= self.update
            or self.progress.epoch >= budget.max_epochs
            or 0 < budget.patience <= self.progress.since_better
        )

    def measure(self) -> None:
        """Runs the samplers' measurements that are due at this update."""
        self.sampler_updates.measure(self.update)

    def log_samplers(self) -> None:
        """Logs every dynamic sampler's distribution that is new."""
        for student, values, line in self.sampler_updates.new_records(self.update):
            self.run_log.log(student, "sampler", self.update, self.progress, values, line)

    def keep_last(self) -> None:
        """Keeps everyone's final weights as ``last``, and the means of their best ones.

        Raises:
            RunError: where weights are not finite; nothing is written.
        """
        self._check_weights()
        for student in self.students:
            records.keep_last(self.corpus, student)
            records.keep_averages(student)

    def keep_averages_since_ended(self) -> None:
        """Keeps the means that a run lacks which had ended before ``validation.average_k`` was set."""
        for student in self.students:
            records.keep_averages(student, replace=False)

    def close(self) -> None:
        """Closes the logs and everything else that lasts as long as the run."""
        for tracker in self._trackers():
            tracker.close()
        self._at_end.close()


def next_evaluation(student: Student, every: int, epoch_end: int) -> int:
    """Computes the update after which the next validation comes, or a student's sampler next measures.

    Counted from the student's own updates: those before it in the run are one ahead while it trains.

    Args:
        student: whose updates are counted.
        every: updates between two validations; 0: at each epoch's end.
        epoch_end: updates that will be done at the end of the run's epoch.

    Returns:
        A number of updates.
    """
    ends = [(student.updates // interval + 1) * interval for interval in (every, student.sampler.every) if interval]
    return min(ends if every else [*ends, epoch_end])


def _comparison_over(ranks: RankGroup) -> Callable[[list[int]], None]:
    """How ZeRO-3's orders of modules are compared: over one student's ranks."""

    def compare(order: list[int]) -> None:
        if ranks.broadcast_from_main(order) != order:
            raise RuntimeError("ZeRO-3: the ranks of a student run its modules in different orders")

    return compare


def _claim_on_main(recipe: Recipe, job: RankGroup) -> IO[str] | None:
    """Locks the run's directory on the main rank (elsewhere None); a failure reaches every rank."""
    held: list[IO[str]] = []

    def claim() -> None:
        held.append(run_directory.claim(recipe.directory))

    job.on_main_first(claim)
    return held[0] if held else None

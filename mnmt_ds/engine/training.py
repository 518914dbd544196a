"""A run in progress: its students and their common parts; how it resumes, saves, validates and ends."""

import math
import time
from itertools import pairwise
from typing import Any

import torch

from mnmt_ds import metric_keys
from mnmt_ds.distributed import (
    data_parallel_size,
    device,
    from_main,
    is_main,
    on_main_first,
    vocab_parallel_size,
    world_size,
)
from mnmt_ds.engine import run_directory
from mnmt_ds.engine.build import (
    check_fingerprint,
    description,
    facts,
    fingerprint,
    make_students,
    open_corpus,
    open_streams,
)
from mnmt_ds.engine.checkpointing import checkpoint, records
from mnmt_ds.engine.dataloading.data_iterator import position_of
from mnmt_ds.engine.dataloading.training_data import dev_batches
from mnmt_ds.engine.monitoring.dev_scores import DevScores, dev_scores, metrics
from mnmt_ds.engine.monitoring.meter import memory
from mnmt_ds.engine.monitoring.progress import RunProgress, TimeSpent
from mnmt_ds.engine.monitoring.validation import validate
from mnmt_ds.engine.parallel import ds_config, pipeline_engine, vocab_parallel
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.sampler_measurements import StudentMeasurements
from mnmt_ds.engine.students.peer_exchange import PeerExchange
from mnmt_ds.engine.students.placement import PeerGroup
from mnmt_ds.engine.students.student import Student
from mnmt_ds.kernels.implementations import resolve_implementation
from mnmt_ds.methods import registry
from mnmt_ds.methods.method import ValidationReport
from mnmt_ds.methods.translation import scorer
from mnmt_ds.models.transformer import Transformer, parameter_count
from mnmt_ds.tracking import Tracker


class Training:
    """What the loop works on. The first student's epochs are the run's; all students take equally many updates."""

    def __init__(self, recipe: Recipe, resume: bool) -> None:
        self.recipe = recipe
        self.directory = recipe.directory
        self.column = PeerGroup(recipe)
        with self.column.guard():
            self._make(recipe, resume)

    def _make(self, recipe: Recipe, resume: bool) -> None:
        vocab_parallel.arrange(recipe)
        pipeline_engine.check(recipe, ds_config.read(recipe.deepspeed))
        vocab_parallel.check(recipe, ds_config.read(recipe.deepspeed))
        config = ds_config.resolve(
            ds_config.read(recipe.deepspeed), recipe.train, data_parallel_size(), str(recipe.deepspeed)
        )
        with self.column.everyone():
            self.ranks = world_size()
            self.corpus, self.pairs = open_corpus(recipe)
        streams = open_streams(recipe, self.corpus, resume)
        self.dev, dev_tokens = dev_batches(
            self.corpus, self.pairs, recipe.framing, recipe.validation.max_tokens, recipe.model.max_positions
        )
        registry.check(recipe.method, facts(recipe, streams))
        known = resolve_implementation(recipe.train.loss_implementation, device())
        self.implementation = known if vocab_parallel_size() == 1 else "sharded"
        with self.column.everyone():
            self.lock = on_main_only(run_directory.claim, self.directory)
            if not resume:
                on_main_first(run_directory.refuse_used, self.directory)
            settings = recipe.model_dump(mode="json")
            self.tracker = Tracker(self.directory, recipe.tracking, is_main(), settings, recipe.name)
        self.plain = scorer(
            recipe.train.label_smoothing, recipe.train.loss_implementation, vocab_parallel.form_groups()
        )
        self.exchange = PeerExchange(self.column, streams, self.dev, self.pairs, self.plain)
        self.students = make_students(recipe, config, self.corpus, streams, dev_tokens, self.tracker, self.exchange)
        self._untold: list[tuple[str, int, float, dict[str, Any], str]] = []
        self.fingerprint = fingerprint(recipe, self.corpus)
        self.layout = checkpoint.job_layout(self.students[0].engine)
        self._changes = {one.name: -1 for one in self.students}
        self._measuring = {
            one.name: StudentMeasurements(one, self.plain) for one in self.students if one.walk.stream.sampler.every
        }
        self.seconds = TimeSpent()
        if resume:
            self._resume()
        for one in self.students:
            self._describe(one.recipe, config)
        if recipe.students:
            with self.column.everyone():
                self._describe(recipe, config)
        self.agree()
        self._introduce()

    def _describe(self, recipe: Recipe, config: dict[str, Any]) -> None:
        on_main_first(run_directory.describe, recipe.directory, recipe, config)
        on_main_first(self.corpus.tokenizer.save_to, recipe.directory / "tokenizer")  # a run outlives its data

    @property
    def first(self) -> Student:
        """The first of this rank's students; where all are on every rank, the one whose epochs are the run's."""
        return self.students[0]

    @property
    def update(self) -> int:
        """Updates that every student has taken."""
        return self.first.walk.position.update

    @property
    def turns(self) -> list[list[str]]:
        """Students that take a step at once, by name, one such list after another."""
        return [self.column.names] if self.recipe.simultaneous else [[name] for name in self.column.names]

    def agree(self, stop: bool = False) -> bool:
        """Sets the clock on all ranks; returns whether any of them was asked to stop."""
        rows = self.column.rows([[*RunProgress.of(one), stop] for one in self.students])
        epoch, epochs, ends, length, *_ = rows[0]
        self.clock = RunProgress(int(epoch), epochs, int(ends), int(length), int(min(row[4] for row in rows)))
        return any(row[5] for row in rows)

    def _trackers(self) -> list[Tracker]:
        """The run's, and each student's where it is not alone."""
        return [self.tracker, *(one.tracker for one in self.students if one.tracker is not self.tracker)]

    def _introduce(self) -> None:
        recipe, stream = self.recipe, self.first.walk.stream
        self.tracker.info(
            f"{recipe.name}: {recipe.method.name}, "
            + (f"{len(self.column.names)} students, " if self.recipe.students else "")
            + f"{len(self.pairs)} pairs, {sum(stream.sizes)} sentences"
            f" ({stream.left_out} too long), {self._parameters() / 1e6:.1f}M parameters,"
            f" {self.ranks} rank(s){self._stages()}{self._split()}, ZeRO-{self.layout.zero_stage},"
            f" {recipe.train.precision}, loss: {self.implementation}"
        )
        facts = {"loss_implementation": self.implementation, "world_size": self.ranks}
        for tracker in self._trackers():
            tracker.log("run", self.update, self.clock.epoch, facts)

    def _stages(self) -> str:
        """Where the pipeline's stages begin and end, and how many share a vocabulary, for people."""
        cut = self.layout.bounds
        text = f" in {len(cut) - 1} stage(s) of {'+'.join(str(b - a) for a, b in pairwise(cut))} layers" if cut else ""
        return text + (f", vocabulary over {vocab_parallel_size()}" if vocab_parallel_size() > 1 else "")

    def _split(self) -> str:
        """Where several students are, for people."""
        if not self.column.split:
            return ""
        wait = "" if self.recipe.simultaneous else " (in turn; with simultaneous: true none waits)"
        return f", each student on {world_size()}{wait}"

    def _parameters(self) -> int:
        with torch.device("meta"):
            return parameter_count(Transformer(self.recipe.model, self.corpus.tokenizer.size))

    def _resume(self) -> None:
        with self.column.everyone():
            found = checkpoint.newest(self.directory, self.tracker.warning)
        if found is None:
            self.tracker.info(f"{self.directory}: no checkpoint yet; starting from the beginning")
            for tracker in self._trackers():
                tracker.rewind(-1)
            for one in self.students:
                one.walk.stream.sampler.start()
            return
        path, state = found
        check_fingerprint(state["fingerprint"], self.fingerprint, path)
        checkpoint.load(path, self.students, checkpoint.JobLayout(*state["layout"]), self.layout, self.column.everyone)
        for one in self.students:
            own = checkpoint.part_of(state, one.name)
            one.walk.start(position_of(own["position"]))
            one.walk.trained, one.last = list(own["trained"]), own["last"]
            one.walk.losses = [list(sums) for sums in own.get("losses", one.walk.losses)]
            if "sampler" in own:  # checkpoints from before there were dynamic samplers have none
                one.walk.stream.sampler.restore(own["sampler"])
                self._changes[one.name] = one.walk.stream.sampler.changes
            one.best.restore(own["best"])
            for name, part in one.method.state.items():
                part.restore(own["method"][name])
        self.seconds = TimeSpent(*state.get("seconds", ()))
        for tracker in self._trackers():
            tracker.rewind(self.update)
        self.tracker.info(f"{path}: resumed at update {self.update}")

    def save(self) -> None:
        """A checkpoint of the present position; then whatever nothing refers to any more is removed."""
        self.tell()
        parts = self.column.merge({one.name: records.state_of(one) for one in self.students})
        own = parts["student"] if list(parts) == ["student"] else {"students": parts}
        state = {"update": self.update, **own, "fingerprint": self.fingerprint, "layout": list(self.layout)}
        if self.recipe.students:
            state["seconds"] = self.seconds.state()
        keep = self.recipe.train.keep_checkpoints
        checkpoint.save(self.directory, self.students, state, keep, self.column.everyone)
        if is_main():
            for one in self.students:
                records.sweep(self.directory, one)

    def next_change(self, one: Student) -> int:
        """The updates that will be done when the next validation comes, or a student's sampler next measures.

        Counted from the student's own updates: those before it in the run are one ahead while it trains.
        """
        own = one.walk.position.update
        turns = [
            (own // every + 1) * every
            for every in (self.recipe.validation.every, one.walk.stream.sampler.every)
            if every
        ]
        if not self.recipe.validation.every:
            turns.append(self.clock.ends)
        return min(turns)

    def finished(self) -> bool:
        """Whether the recipe's budget is spent, or patience lost."""
        budget = self.recipe.train
        return (
            0 < budget.max_steps <= self.update
            or self.clock.epoch >= budget.max_epochs
            or 0 < budget.patience <= self.clock.since_better
        )

    def validate(self) -> None:
        """Paper 1, Algorithm 1, lines 12 to 20: dev loss of every pair; bests, teachers and switches follow from it.

        Then paper 2, Algorithm 1, lines 7 to 9: the students' distillation weights, once all dev losses are known.
        """
        found = [validate(one.engine, self.dev, self.pairs, self.plain) for one in self.students]
        losses: dict[str, dict[str, float]] = self.column.merge(
            {
                one.name: {pair: rows[pair]["loss"] for pair in self.pairs}
                for one, rows in zip(self.students, found, strict=True)
            }
        )
        reports, scored = [], {}
        for one in self.students:
            others = {name: dev for name, dev in losses.items() if name != one.name}
            scored[one.name] = self._dev_scores(one)
            bleu = {pair: row["bleu"] for pair, row in scored[one.name].items()}
            reports.append(ValidationReport(self.update, self.clock.epochs, losses[one.name], others, bleu))
            broken = [pair for pair, dev in reports[-1].dev.items() if not math.isfinite(dev)]
            if broken:
                raise RuntimeError(
                    f"update {self.update}: dev loss of {', '.join(broken)} is not finite; lower train.lr"
                )
        for one, report in zip(self.students, reports, strict=True):
            better, improved = one.best.update(report)
            one.method.on_validation(report)
            records.keep_weights(self.corpus, one, report, better, improved)
        validation_records = [
            records.validation_record(*facts) for facts in zip(self.students, reports, found, strict=True)
        ]
        for one, rows in zip(self.students, found, strict=True):
            self._resample(one, rows)
        began = time.monotonic()
        for one, report in zip(self.students, reports, strict=True):
            one.method.after_validation(report)
        self.seconds.search += time.monotonic() - began
        self.seconds.measuring += self.exchange.measuring()
        for one, report, values in zip(self.students, reports, validation_records, strict=True):
            values |= records.method_record(one, report.update) | memory() | metrics(scored[one.name])
            values |= self.seconds.report() if self.recipe.students else {}
            self.log(one, "valid", values, records.validation_line(one, report, values))
        self.agree()
        self.log_samplers()
        self.tell()

    def _resample(self, one: Student, rows: records.Rows) -> None:
        """A student's sampler hears of its dev losses; what comes from here on may follow from it."""
        one.walk.losses = [[0.0, 0.0] for _ in self.pairs]
        sampler, changes = one.walk.stream.sampler, one.walk.stream.sampler.changes
        uniform = math.log(self.corpus.tokenizer.size)
        sampler.on_validation([1 - rows[pair]["nll"] / uniform for pair in self.pairs])
        if sampler.changes > changes:
            self._changed(one)

    def measure(self) -> None:
        """What the students' samplers ask every so many updates; the rest of the epoch follows from it."""
        for one in self.students:
            sampler = one.walk.stream.sampler
            if sampler.every and self.update % sampler.every == 0:
                began = time.monotonic()
                sampler.measure(self._measuring[one.name])
                self._measuring[one.name].seconds = time.monotonic() - began
                self._changed(one)

    def _changed(self, one: Student) -> None:
        """All ranks go on with the main one's distribution, to the last bit, whatever machine each is."""
        sampler = one.walk.stream.sampler
        sampler.restore(from_main(sampler.state()))
        one.walk.replan()

    def log_samplers(self) -> None:
        """A record of every dynamic sampler's distribution whenever it is new."""
        for one in self.students:
            sampler = one.walk.stream.sampler
            if sampler.dynamic and sampler.changes > self._changes[one.name]:
                self._changes[one.name] = sampler.changes
                shares = " ".join(f"{pair} {p:.3f}" for pair, p in zip(self.pairs, sampler.probabilities, strict=True))
                seconds = self._measuring[one.name].seconds if sampler.every else 0.0
                values = {**sampler.report(), metric_keys.MEASURE_SECONDS: seconds}
                self.log(one, "sampler", values, f"sampler {self.update} | {shares}")

    def _dev_scores(self, one: Student) -> DevScores:
        settings = self.recipe.validation
        number = self.update // settings.every if settings.every else self.clock.epoch + 1
        if not settings.bleu_every or number % settings.bleu_every:
            return {}
        return dev_scores(one, description(one.recipe, self.corpus), self.corpus, self.pairs, settings)

    def log(self, one: Student, kind: str, values: dict[str, Any], line: str) -> None:
        """A student's record and line: in its own log, and under its name in the run's where it is not alone."""
        one.tracker.log(kind, self.update, self.clock.epochs, values)
        if one.tracker is self.tracker:
            self.tracker.report(line)
            return
        named = {f"{one.name}/{key}": value for key, value in values.items()}
        self._untold.append((kind, self.update, self.clock.epochs, named, f"{one.name} | {line}"))
        if not self.column.split:
            self.tell()

    def tell(self) -> None:
        """The run's log hears what several students have noted; called by all ranks together."""
        notes = self._untold
        if self.column.split:
            told = self.column.merge({self.first.name: notes})
            notes = [note for own in told.values() for note in own]
        for kind, update, epochs, values, line in notes:
            self.tracker.log(kind, update, epochs, values)
            self.tracker.report(line)
        self._untold = []

    def keep_last(self) -> None:
        """Keeps everyone's final weights as ``last``."""
        for one in self.students:
            records.keep_last(self.corpus, one)

    def close(self) -> None:
        """Ends the logs."""
        self.tracker.close()


def on_main_only(step: Any, *arguments: Any) -> Any:
    """A resource of the main rank (None elsewhere); a failure reaches every rank."""
    held: list[Any] = []

    def take() -> None:
        held.append(step(*arguments))

    on_main_first(take)
    return held[0] if held else None

"""A run in progress: its students and their common parts; how it resumes, saves, validates and ends."""

import math
import time
from itertools import pairwise
from typing import Any

import torch

from mnmt_ds.distributed import (
    data_ranks,
    device,
    from_main,
    is_main,
    on_main_first,
    shards,
    world_size,
)
from mnmt_ds.engine import checkpoint, ds_config, keeping, pipeline, run, tensor
from mnmt_ds.engine.build import (
    check_fingerprint,
    description,
    facts,
    fingerprint,
    make_students,
    open_corpus,
    open_streams,
)
from mnmt_ds.engine.dev_scores import Scores, dev_scores, metrics
from mnmt_ds.engine.exchange import Exchange
from mnmt_ds.engine.measuring import Measuring
from mnmt_ds.engine.meter import memory
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.stream import dev_batches
from mnmt_ds.engine.student import Student
from mnmt_ds.engine.validation import validate
from mnmt_ds.engine.walk import position_of
from mnmt_ds.kernels.ce_with_teacher import chosen
from mnmt_ds.models.transformer import Transformer, parameter_count
from mnmt_ds.objectives import methods
from mnmt_ds.objectives.method import Report
from mnmt_ds.objectives.translation import scorer
from mnmt_ds.tracking import Tracker


class Training:
    """What the loop works on. The first student's epochs are the run's; all students take equally many updates."""

    def __init__(self, recipe: Recipe, resume: bool) -> None:
        self.recipe = recipe
        self.directory = recipe.directory
        tensor.arrange(recipe)
        pipeline.check(recipe, ds_config.read(recipe.deepspeed))
        tensor.check(recipe, ds_config.read(recipe.deepspeed))
        config = ds_config.resolve(ds_config.read(recipe.deepspeed), recipe.train, data_ranks(), str(recipe.deepspeed))
        self.corpus, self.pairs = open_corpus(recipe)
        streams = open_streams(recipe, self.corpus, resume)
        self.dev, dev_tokens = dev_batches(
            self.corpus, self.pairs, recipe.framing, recipe.validation.max_tokens, recipe.model.max_positions
        )
        methods.check(recipe.method, facts(recipe, streams))
        known = chosen(recipe.train.loss_implementation, device())
        self.implementation = known if shards() == 1 else "sharded"
        self.lock = on_main_only(run.claim, self.directory)
        if not resume:
            on_main_first(run.refuse_used, self.directory)
        self.tracker = Tracker(self.directory, recipe.tracking, is_main(), recipe.model_dump(mode="json"), recipe.name)
        self.plain = scorer(recipe.train.label_smoothing, recipe.train.loss_implementation, tensor.form_groups())
        exchange = Exchange(self.dev, self.pairs, self.plain)
        self.students = make_students(recipe, config, self.corpus, streams, dev_tokens, self.tracker, exchange)
        self.fingerprint = fingerprint(recipe, self.corpus)
        self.layout = checkpoint.layout_of(self.students[0].engine)
        self._changes = {one.name: -1 for one in self.students}
        self._measuring = {
            one.name: Measuring(one, self.plain) for one in self.students if one.walk.stream.sampler.every
        }
        if resume:
            self._resume()
        for place, own in {self.directory: recipe, **{one.directory: one.recipe for one in self.students}}.items():
            on_main_first(run.describe, place, own, config)
            on_main_first(self.corpus.tokenizer.save_to, place / "tokenizer")  # a run outlives its data
        self._introduce()

    @property
    def first(self) -> Student:
        """The student whose epochs are the run's."""
        return self.students[0]

    @property
    def update(self) -> int:
        """Updates that every student has taken."""
        return self.first.walk.position.update

    def _trackers(self) -> list[Tracker]:
        """The run's, and each student's where it is not alone."""
        return [self.tracker, *(one.tracker for one in self.students if one.tracker is not self.tracker)]

    def _introduce(self) -> None:
        recipe, stream = self.recipe, self.first.walk.stream
        self.tracker.say(
            f"{recipe.name}: {recipe.method.name}, "
            + (f"{len(self.students)} students, " if len(self.students) > 1 else "")
            + f"{len(self.pairs)} pairs, {sum(stream.sizes)} sentences"
            f" ({stream.left_out} too long), {self._parameters() / 1e6:.1f}M parameters,"
            f" {world_size()} rank(s){self._stages()}, ZeRO-{self.layout.zero_stage}, {recipe.train.precision},"
            f" loss: {self.implementation}"
        )
        facts = {"loss_implementation": self.implementation, "world_size": world_size()}
        for tracker in self._trackers():
            tracker.log("run", self.update, self.first.walk.position.epoch, facts)

    def _stages(self) -> str:
        """Where the pipeline's stages begin and end, and how many share a vocabulary, for people."""
        cut = self.layout.bounds
        text = f" in {len(cut) - 1} stage(s) of {'+'.join(str(b - a) for a, b in pairwise(cut))} layers" if cut else ""
        return text + (f", vocabulary over {shards()}" if shards() > 1 else "")

    def _parameters(self) -> int:
        with torch.device("meta"):
            return parameter_count(Transformer(self.recipe.model, self.corpus.tokenizer.size))

    def _resume(self) -> None:
        found = checkpoint.newest(self.directory, self.tracker.say)
        if found is None:
            self.tracker.say(f"{self.directory}: no checkpoint yet; starting from the beginning")
            for tracker in self._trackers():
                tracker.rewind(-1)
            for one in self.students:
                one.walk.stream.sampler.begin()
            return
        path, state = found
        check_fingerprint(state["fingerprint"], self.fingerprint, path)
        checkpoint.load(path, self.students, checkpoint.Layout(*state["layout"]), self.layout)
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
        for tracker in self._trackers():
            tracker.rewind(self.update)
        self.tracker.say(f"{path}: resumed at update {self.update}")

    def save(self) -> None:
        """A checkpoint of the present position; then whatever nothing refers to any more is removed."""
        parts: dict[str, dict[str, Any]] = {one.name: keeping.state_of(one) for one in self.students}
        own = parts["student"] if list(parts) == ["student"] else {"students": parts}
        state = {"update": self.update, **own, "fingerprint": self.fingerprint, "layout": list(self.layout)}
        checkpoint.save(self.directory, self.students, state, self.recipe.train.keep_checkpoints)
        if is_main():
            for one in self.students:
                keeping.sweep(self.directory, one)

    def next_change(self, one: Student) -> int:
        """The updates that will be done when the next validation comes, or a student's sampler next measures.

        Counted from the student's own updates: those before it in the run are one ahead while it trains.
        """
        own, first = one.walk.position.update, self.first.walk
        turns = [
            (own // every + 1) * every
            for every in (self.recipe.validation.every, one.walk.stream.sampler.every)
            if every
        ]
        if not self.recipe.validation.every:
            turns.append(first.position.update - first.position.inside + first.plan.updates)
        return min(turns)

    def finished(self) -> bool:
        """Whether the recipe's budget is spent, or patience lost."""
        budget = self.recipe.train
        return (
            0 < budget.max_steps <= self.update
            or self.first.walk.position.epoch >= budget.max_epochs
            or 0 < budget.patience <= min(one.best.since_better for one in self.students)
        )

    def validate(self) -> None:
        """Paper 1, Algorithm 1, lines 12 to 20: dev loss of every pair; bests, teachers and switches follow from it.

        Then paper 2, Algorithm 1, lines 7 to 9: the students' distillation weights, once all dev losses are known.
        """
        found = [validate(one.engine, self.dev, self.pairs, self.plain) for one in self.students]
        losses = {
            one.name: {pair: rows[pair]["loss"] for pair in self.pairs}
            for one, rows in zip(self.students, found, strict=True)
        }
        reports, scored = [], {}
        for one in self.students:
            others = {name: dev for name, dev in losses.items() if name != one.name}
            scored[one.name] = self._dev_scores(one)
            bleu = {pair: row["bleu"] for pair, row in scored[one.name].items()}
            reports.append(Report(self.update, self.first.walk.epochs, losses[one.name], others, bleu))
            broken = [pair for pair, dev in reports[-1].dev.items() if not math.isfinite(dev)]
            if broken:
                raise RuntimeError(
                    f"update {self.update}: dev loss of {', '.join(broken)} is not finite; lower train.lr"
                )
        for one, report in zip(self.students, reports, strict=True):
            better, improved = one.best.update(report)
            one.method.on_validated(report)
            keeping.keep_weights(self.corpus, one, report, better, improved)
        for one, report in zip(self.students, reports, strict=True):
            one.method.adjust(report)
        for one, report, rows in zip(self.students, reports, found, strict=True):
            values = keeping.validation_record(one, report, rows) | memory() | metrics(scored[one.name])
            self.log(one, "valid", values, keeping.validation_line(one, report, values))
        for one, rows in zip(self.students, found, strict=True):
            one.walk.losses = [[0.0, 0.0] for _ in self.pairs]
            sampler, changes = one.walk.stream.sampler, one.walk.stream.sampler.changes
            uniform = math.log(self.corpus.tokenizer.size)
            sampler.on_validated([1 - rows[pair]["nll"] / uniform for pair in self.pairs])
            if sampler.changes > changes:
                self._changed(one)
        self.log_samplers()

    def measure(self) -> None:
        """What the students' samplers ask every so many updates; the rest of the epoch follows from it."""
        for one in self.students:
            sampler = one.walk.stream.sampler
            if sampler.every and self.update % sampler.every == 0:
                began = time.monotonic()
                sampler.measure(self._measuring[one.name])
                self._measuring[one.name].seconds = time.monotonic() - began
                self._changed(one)
        self.log_samplers()

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
                values = {**sampler.report(), "runtime/measure_seconds": seconds}
                self.log(one, "sampler", values, f"sampler {self.update} | {shares}")

    def _dev_scores(self, one: Student) -> Scores:
        settings, position = self.recipe.validation, self.first.walk.position
        number = self.update // settings.every if settings.every else position.epoch + 1
        if not settings.bleu_every or number % settings.bleu_every:
            return {}
        return dev_scores(one, description(one.recipe, self.corpus), self.corpus, self.pairs, settings)

    def log(self, one: Student, kind: str, values: dict[str, Any], line: str) -> None:
        """A student's record and line: in its own log, and under its name in the run's where it is not alone."""
        one.tracker.log(kind, self.update, self.first.walk.epochs, values)
        if one.tracker is not self.tracker:
            named = {f"{one.name}/{key}": value for key, value in values.items()}
            self.tracker.log(kind, self.update, self.first.walk.epochs, named)
            line = f"{one.name} | {line}"
        self.tracker.say(line)

    def keep_last(self) -> None:
        """Keeps everyone's final weights as ``last``."""
        for one in self.students:
            keeping.keep_last(self.corpus, one)

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

"""The training loop: reads as Algorithm 1 of paper 1 does, for any method and any number of ranks."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import Plan
from mnmt_ds.distributed import device, is_main, largest_over_ranks, on_main_first, rank, world_size
from mnmt_ds.engine import checkpoint, ds_config, run, snapshots, student
from mnmt_ds.engine.build import check_fingerprint, description, fingerprint, make_student, open_corpus
from mnmt_ds.engine.meter import Meter, memory
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import learning_rate
from mnmt_ds.engine.stream import Stream, dev_batches
from mnmt_ds.engine.teaching import Ahead
from mnmt_ds.engine.validation import validate
from mnmt_ds.kernels.ce_with_teacher import chosen
from mnmt_ds.models.transformer import Transformer, parameter_count
from mnmt_ds.objectives.method import Report
from mnmt_ds.objectives.translation import scorer
from mnmt_ds.tracking import Tracker, progress_line


class Position(NamedTuple):
    """Where a run stands; all that the order of its data depends on, besides the seed."""

    update: int = 0
    """Updates done."""
    epoch: int = 0
    """The epoch under way, from 0."""
    inside: int = 0
    """Updates done of it."""


class Training:
    """A run in progress: its parts, and the position that a checkpoint carries."""

    def __init__(self, recipe: Recipe, resume: bool) -> None:
        self.recipe = recipe
        self.directory = recipe.directory
        config = ds_config.resolve(ds_config.read(recipe.deepspeed), recipe.train, world_size(), str(recipe.deepspeed))
        self.corpus, self.pairs = open_corpus(recipe)
        longest = recipe.model.max_positions
        self.stream = Stream(self.corpus, self.pairs, recipe.framing, recipe.sampler, recipe.train, longest)
        self.dev, dev_tokens = dev_batches(
            self.corpus, self.pairs, recipe.framing, recipe.validation.max_tokens, longest
        )
        implementation = chosen(recipe.train.loss_implementation, device())
        self.lock = on_main_only(run.claim, self.directory)
        if not resume:
            on_main_first(run.refuse_used, self.directory)
        self.tracker = Tracker(self.directory, recipe.tracking, is_main(), recipe.model_dump(mode="json"), recipe.name)
        self.student = make_student(
            recipe, config, self.directory, self.corpus, self.stream, dev_tokens, self.tracker.say
        )
        self.fingerprint = fingerprint(recipe, self.corpus)
        self.layout = checkpoint.Layout(world_size(), ds_config.zero_stage(config))
        self.plain = scorer(recipe.train.label_smoothing, recipe.train.loss_implementation)
        self.position = Position()
        self.trained = [0] * len(self.pairs)
        self.last: int | None = None
        if resume:
            self._resume()
        on_main_first(run.describe, self.directory, recipe, config)
        on_main_first(self.corpus.tokenizer.save_to, self.directory / "tokenizer")  # a run outlives its data
        self.tracker.say(
            f"{recipe.name}: {recipe.method.name}, {len(self.pairs)} pairs, {sum(self.stream.sizes)} sentences"
            f" ({self.stream.left_out} too long), {parameter_count(self.student.model) / 1e6:.1f}M parameters,"
            f" {world_size()} rank(s), ZeRO-{ds_config.zero_stage(config)}, {recipe.train.precision},"
            f" loss: {implementation}"
        )
        self.tracker.log(
            "run",
            self.position.update,
            self.position.epoch,
            {"loss_implementation": implementation, "world_size": world_size()},
        )

    def _resume(self) -> None:
        found = checkpoint.newest(self.directory, self.tracker.say)
        if found is None:
            self.tracker.say(f"{self.directory}: no checkpoint yet; starting from the beginning")
            self.tracker.rewind(-1)
            return
        path, state = found
        check_fingerprint(state["fingerprint"], self.fingerprint, path)
        checkpoint.load(path, [self.student], checkpoint.Layout(*state["layout"]), self.layout)
        self.position = Position(*state["position"])
        self.trained, self.last = list(state["trained"]), state["last"]
        self.student.best.restore(state["best"])
        for name, part in self.student.method.state.items():
            part.restore(state["method"][name])
        self.tracker.rewind(self.position.update)
        self.tracker.say(f"{path}: resumed at update {self.position.update}")

    def save(self) -> None:
        """A checkpoint of the present position; then whatever nothing refers to any more is removed."""
        state = {
            "update": self.position.update,
            "position": list(self.position),
            "trained": self.trained,
            "last": self.last,
            "best": self.student.best.state(),
            "method": {name: part.state() for name, part in self.student.method.state.items()},
            "snapshots": sorted(self._snapshots()),
            "fingerprint": self.fingerprint,
            "layout": list(self.layout),
        }
        checkpoint.save(self.directory, [self.student], state, self.recipe.train.keep_checkpoints)
        if is_main():
            kept = [checkpoint.read_state(path)["snapshots"] for path in checkpoint.complete(self.directory)]
            snapshots.sweep(self.directory, self._snapshots().union(*kept))

    def _snapshots(self) -> set[int]:
        """Updates whose weights this run refers to: best checkpoints and teachers."""
        wanted = self.student.best.snapshots(self.recipe.validation.keep_best_per_pair)
        wanted |= {self.last} if self.last is not None else set()
        return wanted.union(*(part.snapshots() for part in self.student.method.state.values()))

    def finished(self) -> bool:
        """Whether the recipe's budget is spent, or patience lost."""
        budget, patience = self.recipe.train, self.recipe.train.patience
        return (
            0 < budget.max_steps <= self.position.update
            or self.position.epoch >= budget.max_epochs
            or 0 < patience <= self.student.best.since_better
        )

    def validate(self, plan: Plan) -> None:
        """Paper 1, Algorithm 1, lines 12 to 20: dev loss of every pair; bests, teachers and switches follow from it."""
        found = validate(self.student.engine, self.dev, self.pairs, self.plain)
        report = Report(self.position.update, self._epochs(plan), {pair: found[pair]["loss"] for pair in self.pairs})
        broken = [pair for pair, dev in report.dev.items() if not math.isfinite(dev)]
        if broken:
            raise RuntimeError(f"update {report.update}: dev loss of {', '.join(broken)} is not finite; lower train.lr")
        better, improved = self.student.best.update(report)
        self.student.method.on_validated(report)
        self._keep_weights(report, better, improved)
        self._log_validation(report, found)

    def _keep_weights(self, report: Report, better: bool, improved: list[str]) -> None:
        if report.update in self._snapshots():
            self._write_snapshot({"epoch": report.epoch, "dev": report.dev})
        names = ["best"] if better else []
        names += [f"best_{pair}" for pair in improved] if self.recipe.validation.keep_best_per_pair else []
        for name in names if is_main() else ():
            snapshots.link(self.directory, name, report.update)

    def keep_last(self) -> None:
        """Keeps the final weights as ``last``."""
        if self.position.update not in self._snapshots():
            self._write_snapshot({"epoch": float(self.position.epoch)})
        self.last = self.position.update
        if is_main():
            snapshots.link(self.directory, "last", self.last)

    def _write_snapshot(self, facts: dict[str, Any]) -> None:
        state = student.weights(self.student.engine)
        about = {**description(self.recipe, self.corpus), "update": self.position.update, **facts}
        on_main_first(snapshots.write, self.directory, self.position.update, state, about)

    def _log_validation(self, report: Report, found: dict[str, dict[str, float]]) -> None:
        best = self.student.best
        values: dict[str, Any] = {f"valid/{pair}/{key}": v for pair, row in found.items() for key, v in row.items()}
        values["valid/avg/macro"] = sum(report.dev.values()) / len(report.dev)
        values["valid/avg/min"] = min(report.dev.values())
        values["valid/best/overall"], values["valid/best/update"] = best.overall
        values["valid/deficit"] = best.deficit()
        total = sum(self.trained)
        for pair, share, n, size in zip(
            self.pairs, self.stream.probabilities, self.trained, self.stream.sizes, strict=True
        ):
            values[f"data/{pair}/prob"] = share
            values[f"data/{pair}/share"] = n / total
            values[f"data/{pair}/passes"] = n / size
        for part in self.student.method.state.values():
            values |= part.report(report.update)
        values |= memory()
        self.tracker.log("valid", report.update, report.epoch, values)
        switched = [pair for pair in self.pairs if values.get(f"teacher/{pair}/switch")]
        self.tracker.say(
            f"valid {report.update} | epoch {report.epoch:.2f} | dev {values['valid/avg/macro']:.4f}"
            f" (best {best.overall.value:.4f} at {best.overall.update}) | deficit {best.deficit():.4f}"
            + (f" | taught: {' '.join(switched)}" if switched else "")
        )

    def _epochs(self, plan: Plan) -> float:
        return self.position.epoch + self.position.inside / plan.updates

    def update(self, group: list[Batch], ahead: Ahead, meter: Meter, stop: bool) -> tuple[float | None, bool]:
        """One optimizer step over this rank's micro-batches; all ranks learn of a bad loss or a stop together."""
        number = self.position.update + 1
        finite = torch.ones((), dtype=torch.bool, device=device())
        for index, batch in enumerate(group):
            slot = index * world_size() + rank()
            if index:
                self.student.engine.step()  # within an update this only counts the micro-batch
            ahead.before(number - 1, index)
            metrics = student.backward(self.student, batch, number, slot)
            finite &= torch.isfinite(metrics["loss"][0])
            meter.add(metrics)
        flags = largest_over_ranks(torch.stack([1.0 - finite.float(), finite.new_tensor(stop).float()]))
        if flags[0]:
            names = ", ".join(self.pairs[batch.pair] for batch in group)
            raise RuntimeError(
                f"update {number}: the loss is not finite (this rank's batches: {names}); nothing was updated;"
                " lower train.lr or resume from the last checkpoint"
            )
        norm = student.step(self.student, learning_rate(self.recipe.train, number))
        if norm is not None and not math.isfinite(norm) and self.recipe.train.precision != "fp16":
            raise RuntimeError(f"update {number}: the gradient is not finite; resume from the last checkpoint")
        meter.tokens += group[0].divisor
        return norm, bool(flags[1])


def check(recipe: Recipe) -> None:
    """Everything that training would refuse, refused now; prints what an epoch would hold."""
    config = ds_config.resolve(ds_config.read(recipe.deepspeed), recipe.train, world_size(), str(recipe.deepspeed))
    corpus, pairs = open_corpus(recipe)
    longest = recipe.model.max_positions
    stream = Stream(corpus, pairs, recipe.framing, recipe.sampler, recipe.train, longest)
    _, tokens = dev_batches(corpus, pairs, recipe.framing, recipe.validation.max_tokens, longest)
    plan = stream.plan(0)
    if not is_main():
        return
    model = Transformer(recipe.model, corpus.tokenizer.size)
    print(f"{'pair':8} {'sentences':>10} {'probability':>12} {'an epoch':>10} {'dev tokens':>11}")
    for pair, size, share, count in zip(pairs, stream.sizes, stream.probabilities, stream.counts, strict=True):
        print(f"{pair:8} {size:10,} {share:12.4f} {count:10,} {tokens[pair]:11,}")
    print(
        f"{plan.updates} updates an epoch of {int(plan.tokens.sum()):,} target tokens, {stream.left_out} sentences too"
        f" long; {parameter_count(model) / 1e6:.1f}M parameters; {world_size()} rank(s) at"
        f" ZeRO-{ds_config.zero_stage(config)}; loss: {chosen(recipe.train.loss_implementation, device())}; all is well"
    )


def train(recipe: Recipe, resume: bool = False) -> Path:
    """Trains as the recipe says and returns the run's directory. Runs inside ``distributed.job()``, on all ranks."""
    work = Training(recipe, resume)
    with stopping() as stop:
        try:
            _epochs(work, stop)
        finally:
            work.tracker.close()
    return work.directory


def _epochs(work: Training, stop: "Stop") -> None:
    settings, meter = work.recipe.train, Meter()
    every = work.recipe.validation.every
    while not work.finished():
        plan = work.stream.plan(work.position.epoch)
        ahead = Ahead(work.student.method, plan, work.position.inside, every, work.position.update)
        for group in work.stream.updates(plan, work.position.inside):
            norm, stopped = work.update(group, ahead, meter, stop.asked)
            work.position = Position(work.position.update + 1, work.position.epoch, work.position.inside + 1)
            _count(work, plan)
            update = work.position.update
            if update % work.recipe.tracking.log_every == 0:
                _report(work, plan, meter, norm)
            if every and update % every == 0:
                work.validate(plan)
            if stopped or (settings.save_every and update % settings.save_every == 0 and not work.finished()):
                work.save()
            if stopped:
                work.tracker.say(f"stopped on request at update {update}; resume with --resume")
                return
            if work.finished():
                break
        ended = work.position.inside == plan.updates
        if not every and (ended or work.finished()):
            work.validate(plan)
            meter.reset()
        if ended:
            work.position = Position(work.position.update, work.position.epoch + 1, 0)
        if work.finished():
            work.keep_last()
        work.save()


def _count(work: Training, plan: Plan) -> None:
    """Adds the update's sentences to what each pair was trained on."""
    size = plan.batches_per_update
    first = (work.position.inside - 1) * size
    for k in range(first, min(first + size, len(plan.pair))):
        work.trained[int(plan.pair[k])] += int(plan.start[k + 1] - plan.start[k])


def _report(work: Training, plan: Plan, meter: Meter, norm: float | None) -> None:
    values: dict[str, Any] = {**meter.report(), **memory()}
    values["train/lr"] = learning_rate(work.recipe.train, work.position.update)
    if norm is not None:
        values["train/gnorm"] = norm
    epoch = work.position.epoch + work.position.inside / plan.updates
    work.tracker.log("train", work.position.update, epoch, values)
    used = values.get("memory/gpu_peak") or values["memory/cpu"]
    last = work.recipe.train.max_steps or plan.updates * work.recipe.train.max_epochs
    work.tracker.say(progress_line(work.position.update, last, epoch, values, used / 1e9))


class Stop:
    """Set by SIGTERM or SIGINT; the loop sees it at the next update and saves before it leaves."""

    asked = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """Turns SIGTERM and SIGINT into a request to stop, for as long as the block runs."""
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        print(f"signal {number}: stopping after this update", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def on_main_only(step: Any, *arguments: Any) -> Any:
    """A resource of the main rank (None elsewhere); a failure reaches every rank."""
    held: list[Any] = []

    def take() -> None:
        held.append(step(*arguments))

    on_main_first(take)
    return held[0] if held else None

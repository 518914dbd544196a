"""What each method costs: time and memory of training by it, as ratios to plain multilingual training in one run.

All take turns, some updates each, round after round, on the same parallel data and through the training loop's own
steps. A ratio is that of seconds for each target token of parallel text, the median over rounds. A method that also
trains on text of one language, or trains two students, pays for that. A sampler that measures the student does so once
a turn; its ratio is computed for the interval that is its default. Peak memory is that of a process of its own. On a
GPU training is in bf16.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds.bench.arguments import add_output, add_recipe, add_rounds, device_overrides
from mnmt_ds.bench.measuring import peak_mib, peak_mib_in_child, rotated, seconds_of, set_threads
from mnmt_ds.bench.publish import publish
from mnmt_ds.config.ranges import number_option

HELP = "time a step and peak memory of every method, as ratios to plain training"
INTRA_DISTILLATION = "{{name: intra_distillation, passes: {}, alpha: 5, base: {}}}"
TWO_STUDENTS = "students=[{name: a, sampler: {temperature: 1}}, {name: b, sampler: {temperature: 5}}]"
METHODS: dict[str, tuple[str, ...]] = {
    "multilingual": (),
    "lssd, online": ("method={name: lssd, teachers: {cache: off}}",),
    "lssd, filling its cache": ("method={name: lssd, teachers: {cache: ram}}",),
    "lssd selective": ("method={name: lssd, variant: selective, teachers: {cache: off}}",),
    "lssd adaptive": ("method={name: lssd, variant: adaptive, teachers: {cache: off}}",),
    "stsd": ("method={name: lssd, teacher: overall, teachers: {cache: off}}",),
    "multi-distill": ("method={name: multi_distill, rule: fix, experts: EXPERTS}",),
    "multidds": ("sampler={name: multidds, every: EVERY}",),
    "multiuat": ("sampler={name: multiuat, every: EVERY}",),
    "chi-ibr": ("sampler={name: chi_ibr, baseline: BASELINE}",),
    "ccl-m": ("sampler={name: ccl_m}",),
    "id, K = 2": (f"method={INTRA_DISTILLATION.format(2, '{name: translation}')}",),
    "id, K = 3": (f"method={INTRA_DISTILLATION.format(3, '{name: translation}')}",),
    "cd": (
        "denoising={tasks: [{name: cd}], ratio: 1}",
        "method={name: by_task, tasks: {translation: {name: translation}, cd: {name: denoising}}}",
    ),
    "two students": (TWO_STUDENTS, "method={name: translation}"),
    "pareto, bi": (TWO_STUDENTS, "method={name: pareto, rule: bi}"),
}
"""Overrides of the recipe that make it each method; EXPERTS, EVERY and BASELINE are made when it runs."""
FIXED = ("tracking.wandb=off", "train.max_tokens=512", "train.batches_per_update=1")
"""Settings of every training here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    add_recipe(parser, "launchers/recipes/gettext_plain.yaml")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
                        help=f"which, of: {'; '.join(METHODS)} (default: all)")  # fmt: skip
    add_rounds(parser, 5, "turns of each method")
    parser.add_argument("--updates", type=number_option(int, ge=1), default=20, help="updates a turn (default: 20)")
    add_output(parser, "methods")
    parser.add_argument("--memory-of", choices=list(METHODS), help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.
    """
    set_threads()
    with tempfile.TemporaryDirectory() as folder:
        if args.memory_of:
            print(json.dumps(_peak_mib(args, Path(folder))))
            return 0
        names = list(dict.fromkeys(["multilingual", *args.methods]))
        peaks = {name: peak_mib_in_child("methods", args, name) for name in names}  # before this process joins a job
        seconds = _measure(args, names, Path(folder))
    plain = seconds["multilingual"]
    for name, measured in seconds.items():
        share = _part_of_extra_time(args, name)
        seconds[name] = [p + share * (s - p) for s, p in zip(measured, plain, strict=True)]
    rows = [
        {
            "method": name,
            "milliseconds_a_thousand_tokens": 1e6 * statistics.median(seconds[name]),
            "time_ratio": statistics.median(s / p for s, p in zip(seconds[name], plain, strict=True)),
            "peak_mib": peaks[name],
            "memory_ratio": peaks[name] / peaks["multilingual"],
        }
        for name in names
    ]
    return publish("methods", table(rows), {"rows": rows}, args.out)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Writes the results as a table.

    Args:
        rows: one a method.

    Returns:
        Markdown.
    """
    lines = ["| method | ms a 1,000 target tokens | time | peak MiB | memory |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['method']} | {r['milliseconds_a_thousand_tokens']:.0f} | {r['time_ratio']:.2f} | {r['peak_mib']:.0f} |"
        f" {r['memory_ratio']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def _part_of_extra_time(args: argparse.Namespace, name: str) -> float:
    """How much of a turn's extra time a turn has on average: less than 1 where the sampler measures less often."""
    from mnmt_ds.samplers.actor import ActorSettings

    measures = any("EVERY" in word for word in METHODS[name])
    return args.updates / ActorSettings.model_fields["every"].default if measures else 1.0


def _measure(args: argparse.Namespace, names: list[str], folder: Path) -> dict[str, list[float]]:
    """Seconds for each target token of parallel text, of each method and round."""
    from mnmt_ds.distributed import job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with job():
        trainers = {name: _trainer(args, name, folder) for name in names}
        for round_number in range(args.rounds + 1):
            for name in rotated(names, round_number):
                seconds_a_token = _seconds_a_token(trainers[name], args.updates)
                if round_number:  # the first round warms up
                    seconds[name].append(seconds_a_token)
    return seconds


def _seconds_a_token(train_update: Callable[[], int], updates: int) -> float:
    """Times some updates, and divides by the target tokens that they give."""
    tokens: list[int] = []
    seconds = seconds_of(lambda: tokens.extend(train_update() for _ in range(updates)))
    return seconds / max(sum(tokens), 1)


def _trainer(args: argparse.Namespace, name: str, folder: Path) -> Callable[[], int]:
    """Makes a function that updates every student and gives the first one's target tokens of parallel text."""
    from mnmt_ds.engine.loop import student_loops, train_update
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.engine.training import Training

    def new_training(method: Sequence[str], directory: Path) -> Training:
        # the user's settings come last, but for the method, which is this row's
        overrides = [f"directory={directory}", *FIXED, *device_overrides(), *args.overrides, *method]
        return Training(load_recipe(args.recipe, overrides), resume=False)

    directory = folder / name.replace(" ", "_").replace(",", "")
    values = {"EVERY": str(args.updates)}
    if name in ("multi-distill", "chi-ibr"):  # what they need of an earlier run
        earlier = new_training((), directory / "before")
        earlier.keep_last()
        earlier.close()
        values["EXPERTS"] = json.dumps({pair: str(directory / "before" / "last") for pair in earlier.pairs})
        values["BASELINE"] = str(directory / "baseline.json")
        Path(values["BASELINE"]).write_text(json.dumps(dict.fromkeys(earlier.pairs, 1.0)), encoding="utf-8")
    method = METHODS[name]
    for placeholder, value in values.items():
        method = tuple(override.replace(placeholder, value) for override in method)
    training = new_training(method, directory)
    _give_each_pair_a_teacher(training)
    loops = student_loops(training, next_evaluation=lambda student: 1 << 60)

    def update_all_students() -> int:
        tokens = 0
        for student in training.students:
            micro_batches = student.data_iterator.next_update()
            result = train_update(loops[student.name], micro_batches)
            student.data_iterator.update_done(result.losses)
            if student is training.first:
                tokens = sum(batch.tokens for batch in micro_batches if batch.task == "translation")
        training.measure()
        return tokens

    return update_all_students


def _give_each_pair_a_teacher(training: Any) -> None:
    """As late in a run of LSSD: every pair has a teacher of its own and is distilled. Other methods ignore it."""
    from mnmt_ds.methods.method import ValidationReport

    pairs = training.pairs
    improving = [{p: 0.5 if k < n else 1.0 for k, p in enumerate(pairs)} for n in range(len(pairs) + 1)]
    for number, dev in enumerate([*improving, dict.fromkeys(pairs, 2.0)]):
        for student in training.students:
            others = {other.name: dev for other in training.students if other is not student}
            student.method.on_validation(ValidationReport(number + 1, 0.0, dev, others))


def _peak_mib(args: argparse.Namespace, folder: Path) -> float:
    """Peak memory of this process after training by one method alone."""
    from mnmt_ds.distributed import job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    with job():
        train_update = _trainer(args, args.memory_of, folder)
        for _ in range(3 * args.updates):
            train_update()
        return peak_mib()

"""What each method costs: time and memory of training by it, as ratios to plain multilingual training in one run.

All take turns, some updates each, round after round, on the same parallel data and through the training loop's own
steps; a ratio is that of seconds for each target token of parallel text, the median over rounds. A method that also
trains on text of one language, or trains two students, pays for that. A sampler that measures the student does so once
a turn, and its ratio is reckoned for the interval that is its default. Peak memory is that of a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.bench.publish import publish
from mnmt_ds.errors import UserError
from mnmt_ds.log import set_up_deepspeed

HELP = "time a step and peak memory of every method, as ratios to plain training"
ID = "{{name: intra_distillation, passes: {}, alpha: 5, base: {}}}"
TWO = "students=[{name: a, sampler: {temperature: 1}}, {name: b, sampler: {temperature: 5}}]"
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
    "id, K = 2": (f"method={ID.format(2, '{name: translation}')}",),
    "id, K = 3": (f"method={ID.format(3, '{name: translation}')}",),
    "cd": (
        "denoising={tasks: [{name: cd}], ratio: 1}",
        "method={name: by_task, tasks: {translation: {name: translation}, cd: {name: denoising}}}",
    ),
    "two students": (TWO, "method={name: translation}"),
    "pareto, bi": (TWO, "method={name: pareto, rule: bi}"),
}
"""Overrides of the recipe that make it each method; EXPERTS, EVERY and BASELINE are made when it runs."""
FIXED = ("tracking.wandb=off", "train.max_tokens=512", "train.batches_per_update=1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("launchers/recipes/gettext_plain.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
                        help=f"which, of: {'; '.join(METHODS)} (default: all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="turns of each method (default: 5)")
    parser.add_argument("--updates", type=int, default=20, help="updates a turn (default: 20)")
    parser.add_argument("--out", type=Path, help="JSON result file; default: runs/bench/methods-DATE-DEVICE.json")
    parser.add_argument("--memory-of", choices=list(METHODS), help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        if args.memory_of:
            print(json.dumps(_peak(args, Path(folder))))
            return 0
        names = list(dict.fromkeys(["multilingual", *args.methods]))
        peaks = {name: _peak_in_child(args, name) for name in names}  # before this process joins a job of its own
        seconds = _measure(args, names, Path(folder))
    plain = seconds["multilingual"]
    for name, taken in seconds.items():
        share = _share(args, name)
        seconds[name] = [p + share * (s - p) for s, p in zip(taken, plain, strict=True)]
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


def _share(args: argparse.Namespace, name: str) -> float:
    """How many of a turn's extra seconds a turn pays on average: of a measurement's, those of a turn's updates."""
    from mnmt_ds.samplers.actor import ActorSettings

    measures = any("EVERY" in word for word in METHODS[name])
    return args.updates / ActorSettings.model_fields["every"].default if measures else 1.0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = ["| method | ms a 1,000 target tokens | time | peak MiB | memory |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['method']} | {r['milliseconds_a_thousand_tokens']:.0f} | {r['time_ratio']:.2f} | {r['peak_mib']:.0f} |"
        f" {r['memory_ratio']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def _measure(args: argparse.Namespace, names: Sequence[str], folder: Path) -> dict[str, list[float]]:
    """Seconds for each target token of parallel text, of each method and round."""
    from mnmt_ds.distributed import job

    set_up_deepspeed()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with job():
        steps = {name: _trainer(args, name, folder) for name in names}
        for turn in range(args.rounds + 1):
            first = turn % len(names)
            for name in [*names[first:], *names[:first]]:  # so that no method always follows the same one
                took = _seconds(steps[name], args.updates)
                if turn:  # the first turn warms up
                    seconds[name].append(took)
    return seconds


def _trainer(args: argparse.Namespace, name: str, folder: Path) -> Callable[[], int]:
    """Takes one update of every student; gives the target tokens of parallel text that the first one saw."""
    from mnmt_ds.engine.loop import student_loops, train_update
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.engine.training import Training

    def training(method: Sequence[str], own: Path) -> Training:
        # the user's settings last, but for the method, which is this row's
        return Training(load_recipe(args.recipe, [f"directory={own}", *FIXED, *args.overrides, *method]), resume=False)

    own = folder / name.replace(" ", "_").replace(",", "")
    words = {"EVERY": str(args.updates)}
    if name in ("multi-distill", "chi-ibr"):  # what they need of runs before
        before = training((), own / "before")
        before.keep_last()
        before.close()
        words["EXPERTS"] = json.dumps({pair: str(own / "before" / "last") for pair in before.pairs})
        words["BASELINE"] = str(own / "baseline.json")
        Path(words["BASELINE"]).write_text(json.dumps(dict.fromkeys(before.pairs, 1.0)))
    method = METHODS[name]
    for word, value in words.items():
        method = tuple(override.replace(word, value) for override in method)
    work = training(method, own)
    _employ_teachers(work)
    loops = student_loops(work, next_change=lambda student: 1 << 60)

    def step() -> int:
        tokens = 0
        for one in work.students:
            group = one.data_iterator.next_update()
            result = train_update(loops[one.name], group)
            one.data_iterator.update_done(result.losses)
            if one is work.first:
                tokens = sum(batch.tokens for batch in group if batch.task == "translation")
        work.measure()
        return tokens

    return step


def _employ_teachers(work: Any) -> None:
    """As late in a run of LSSD: every pair has a teacher of its own, and is taught. Other methods do not mind."""
    from mnmt_ds.methods.method import ValidationReport

    pairs = work.pairs
    reports = [{p: 0.5 if k < n else 1.0 for k, p in enumerate(pairs)} for n in range(len(pairs) + 1)]
    for number, dev in enumerate([*reports, dict.fromkeys(pairs, 2.0)]):
        for one in work.students:
            others = {other.name: dev for other in work.students if other is not one}
            one.method.on_validation(ValidationReport(number + 1, 0.0, dev, others))


def _seconds(step: Callable[[], int], updates: int) -> float:
    import torch

    began, tokens = time.perf_counter(), 0
    for _ in range(updates):
        tokens += step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / max(tokens, 1)


def _peak(args: argparse.Namespace, folder: Path) -> float:
    """Peak MiB of this process (on a GPU: of its tensors there) after training by one method alone."""
    from mnmt_ds.distributed import job
    from mnmt_ds.engine.monitoring.meter import memory

    set_up_deepspeed()
    with job():
        step = _trainer(args, args.memory_of, folder)
        for _ in range(3 * args.updates):
            step()
        used = memory()
    return used.get(metric_keys.MEMORY_GPU, used[metric_keys.MEMORY_CPU]) / 2**20


def _peak_in_child(args: argparse.Namespace, name: str) -> float:
    command = [sys.executable, "-m", "mnmt_ds.cli.main", "bench", "methods", str(args.recipe), *args.overrides]
    done = subprocess.run(
        [*command, "--memory-of", name, "--updates", str(args.updates)], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"bench methods: {name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return float(done.stdout.strip().splitlines()[-1])

"""Training and decoding speed: ours under DeepSpeed, plain and distilling, against a plain PyTorch loop, taking turns.

All trainers step through the same batches, block by block in turn, so that whatever else the machine does falls on
each alike; ratios are medians over rounds. Peak memory is that of a process of its own a trainer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.bench.publish import publish
from mnmt_ds.log import set_up_deepspeed

HELP = "training tokens/s, peak memory and decoding sentences/s, plain and distilling"
TRAINERS = ("plain loop", "plain", "lssd")
FIXED = ("tracking.wandb=off", "method.teachers.cache=off")
"""``bench teachers`` measures what remembered states save."""
Figures = dict[str, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("launchers/recipes/bench.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each trainer")
    parser.add_argument("--updates", type=int, default=20, help="updates a turn")
    parser.add_argument("--skip-decoding", action="store_true", help="training alone")
    parser.add_argument("--out", type=Path, help="JSON result file; default: runs/bench/throughput-DATE-DEVICE.json")
    parser.add_argument("--memory-of", choices=TRAINERS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from mnmt_ds.engine.recipe import load_recipe

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(args.recipe, [*args.overrides, f"directory={folder}/run", *FIXED])
        if args.memory_of:
            print(json.dumps(_peak(recipe, args.memory_of, args.updates)))
            return 0
        peaks = {name: _peak_in_child(args, name) for name in TRAINERS}  # before this process joins a job of its own
        figures = _training(recipe, args.rounds, args.updates)
    for name in TRAINERS:
        figures[name]["peak_mib"] = peaks[name]
    result: dict[str, Any] = {"deepspeed": str(recipe.deepspeed.name), "training": figures}
    if not args.skip_decoding:
        result["decoding"] = _decoding()
    return publish("throughput", table(result), result, args.out)


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| trainer | target tokens/s | ratio to the plain loop | step / plain step | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for name, f in result["training"].items():
        lines.append(
            f"| {name} | {f['tokens_per_sec']:.0f} | {f['ratio']:.2f} | {f['step_ratio']:.2f} | {f['peak_mib']:.0f} |"
        )
    if "decoding" in result:
        lines += ["", "| decoder | workload | sentences/s | ratio to transformers |", "|---|---|---|---|"]
        lines += [
            f"| {d['decoder']} | {d['workload']} | {d['sentences_per_second']:.1f} | {d['ratio']:.2f} |"
            for d in result["decoding"]
        ]
    return "\n".join(lines)


def _training(recipe: Any, rounds: int, updates: int) -> Figures:
    from mnmt_ds.distributed import job

    set_up_deepspeed()
    with job():
        steps, batches = _trainers(recipe, TRAINERS)
        tokens: list[dict[str, float]] = []
        for turn in range(rounds + 1):
            groups = [batches[(turn * updates + k) % len(batches)] for k in range(updates)]
            total = sum(group[0].divisor for group in groups)
            # The order turns round, so that no trainer always follows the same one.
            order = TRAINERS[turn % len(TRAINERS) :] + TRAINERS[: turn % len(TRAINERS)]
            speed = {name: total / _seconds(steps[name], groups) for name in order}
            if turn:  # the first turn warms up
                tokens.append(speed)
    return {
        name: {
            "tokens_per_sec": statistics.median(t[name] for t in tokens),
            "ratio": statistics.median(t[name] / t["plain loop"] for t in tokens),
            "step_ratio": statistics.median(t["plain"] / t[name] for t in tokens),
        }
        for name in TRAINERS
    }


def _trainers(recipe: Any, names: tuple[str, ...]) -> tuple[dict[str, Callable[[Any], None]], list[Any]]:
    """A function a trainer that takes one update, and an epoch's updates to take."""
    from mnmt_ds.batch import to_device
    from mnmt_ds.bench import plain_loop
    from mnmt_ds.distributed import device
    from mnmt_ds.engine.loop import student_loops, train_update
    from mnmt_ds.engine.training import Training
    from mnmt_ds.methods.method import ValidationReport

    work = Training(recipe, resume=False)
    training_data, method = work.first.training_data, work.first.method
    batches = list(training_data.iterate_updates(training_data.plan(0), 0))
    loop = student_loops(work, next_change=lambda student: 0)[work.first.name]
    bank = method.state["teachers"]

    def ours(distilling: bool) -> Callable[[Any], None]:
        def step(group: Any) -> None:
            for pair in work.pairs:
                bank.switch[pair] = distilling  # type: ignore[attr-defined]
            train_update(loop, group)

        return step

    if names != ("plain loop",):
        for number in range(len(work.pairs) + 1):  # one pair after another improves: each has a teacher of its own
            dev = {pair: 0.5 if k < number else 1.0 for k, pair in enumerate(work.pairs)}
            method.on_validation(ValidationReport(number + 1, 0.0, dev))
    single = plain_loop.make(recipe.model, recipe.train, work.corpus.tokenizer.size, device())

    def plain(group: Any) -> None:
        for batch in group:
            single(to_device(batch, device()))

    return {"plain loop": plain, "plain": ours(False), "lssd": ours(True)}, batches


def _seconds(step: Callable[[Any], None], groups: list[Any]) -> float:
    import torch

    began = time.perf_counter()
    for group in groups:
        step(group)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _peak(recipe: Any, name: str, updates: int) -> float:
    """Peak MiB of this process (on a GPU: of its tensors there) after training with one trainer alone."""
    from mnmt_ds.distributed import job
    from mnmt_ds.engine.monitoring.meter import memory

    set_up_deepspeed()
    with job():
        steps, batches = _trainers(recipe, (name,))
        for group in batches[: 3 * updates]:
            steps[name](group)
        used = memory()
    return used.get(metric_keys.MEMORY_GPU, used[metric_keys.MEMORY_CPU]) / 2**20


def _peak_in_child(args: argparse.Namespace, name: str) -> float:
    command = [sys.executable, "-m", "mnmt_ds.cli.main", "bench", "throughput", str(args.recipe), *args.overrides]
    command += ["--memory-of", name, "--updates", str(args.updates)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed: {done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _decoding() -> list[dict[str, Any]]:
    from mnmt_ds.bench.decoding import measure_decoding

    return [figures._asdict() for figures in measure_decoding()]

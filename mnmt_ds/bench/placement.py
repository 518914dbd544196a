"""What two students take that teach each other: together on the ranks of one, or split over twice as many.

Starts its own ranks for every turn, round after round, and takes updates of the training loop: of a plain student alone
(``plain``); of two that teach each other on its ranks (``together``); of the two on as many ranks each (``split``); and
of two there that do not teach. Told are an update's time, its ratio to the plain student's, and a rank's processor
time; the rest is its wait for others, and for messages. An update of both students is a step of each.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mnmt_ds.bench.methods import TWO
from mnmt_ds.bench.pipeline import on_rank, started
from mnmt_ds.bench.publish import publish
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.recipe import load_recipe

HELP = "two students that teach each other: together on the ranks of one, split over twice as many"
TEACH = "method={name: pareto, rule: bi}"
SPLIT = ("placement=split", "simultaneous=true")
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "together": (TWO, TEACH, "simultaneous=true"),
    "split": (TWO, TEACH, *SPLIT),
    "split, not teaching": (TWO, *SPLIT),
}
"""Overrides of the recipe that make it each way."""
WARM = 10
"""Updates before any is timed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("launchers/recipes/gettext_plain.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument("--ranks", type=int, default=1, help="of a student alone (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: 3)")
    parser.add_argument("--updates", type=int, default=60, help="updates a turn (default: 60)")
    parser.add_argument("--out", type=Path, help="JSON result file; default: runs/bench/placement-DATE-DEVICE.json")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.result is not None:
        return on_rank(args, partial(measure, args))
    Corpus.open(load_recipe(args.recipe, args.overrides).data.directory)  # if missing, said once, not by each rank
    turns: dict[str, list[list[Any]]] = {way: [] for way in WAYS}
    for number in range(args.rounds):
        first = number % len(WAYS)
        for way in [*list(WAYS)[first:], *list(WAYS)[:first]]:  # so that none always follows the same one
            turns[way] += started(args.ranks * (2 if "placement=split" in WAYS[way] else 1), "--way", way)
    rows = [row(way, done, turns["plain"]) for way, done in turns.items()]
    return publish("placement", table(rows), {"cores": os.cpu_count(), "rows": rows}, args.out)


def row(way: str, turns: Sequence[Sequence[Any]], plain: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A way's figures: medians over its turns, of medians over their updates."""
    step = [1e3 * own[0] for own in turns]
    return {
        "way": way,
        "milliseconds": statistics.median(step),
        "best": min(step),
        "to_plain": statistics.median(own[0] / other[0] for own, other in zip(turns, plain, strict=True)),
        "busy": 1e3 * statistics.median(own[1] for own in turns),
        "longest": 1e3 * statistics.median(own[2] for own in turns),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    return "\n".join(
        [
            "| way | an update, ms | best turn | to plain | a rank's processor time, ms | of the busiest rank |",
            "|---|---|---|---|---|---|",
            *(
                f"| {r['way']} | {r['milliseconds']:.0f} | {r['best']:.0f} | {r['to_plain']:.2f} | {r['busy']:.0f} |"
                f" {r['longest']:.0f} |"
                for r in rows
            ),
        ]
    )


def measure(args: argparse.Namespace) -> list[list[float]]:
    """Of an update: its time, the mean over ranks of their processor time, and the longest of these."""
    import torch

    from mnmt_ds.distributed import job_ranks
    from mnmt_ds.engine.loop import advance, student_loops
    from mnmt_ds.engine.training import Training

    fixed = (f"directory={args.result.parent / 'run'}", "tracking.wandb=off")
    work = Training(load_recipe(args.recipe, [*fixed, *args.overrides, *WAYS[args.way]]), resume=False)
    loops, found = student_loops(work), []
    for _ in range(WARM + args.updates):
        advance(work, loops, stop=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append((time.perf_counter(), time.process_time()))
    work.close()
    spent = torch.tensor(job_ranks().gather(found[WARM - 1 :]), dtype=torch.float64).diff(dim=1)
    busy = spent[:, :, 1]
    return [[float(value) for value in (spent[0, :, 0].median(), busy.mean(0).median(), busy.amax(0).median())]]

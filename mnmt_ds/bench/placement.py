"""What two students take that teach each other: together on the ranks of one, or split over twice as many.

Starts its own ranks for every turn, round after round, and takes updates of the training loop: of a plain student alone
(``plain``); of two that teach each other on its ranks (``together``); of the two on as many ranks each (``split``); and
of two there that do not teach. Reported are an update's time, its ratio to the plain student's, and a rank's processor
time; the rest is its wait for others, and for messages. An update of both students is a step of each.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from mnmt_ds.bench.arguments import add_output, add_rank_result, add_recipe, add_rounds
from mnmt_ds.bench.measuring import rotated, set_threads, wait_for_device
from mnmt_ds.bench.methods import TWO_STUDENTS
from mnmt_ds.bench.publish import publish
from mnmt_ds.bench.ranks import measure_on_rank, rows_of_ranks
from mnmt_ds.config.ranges import number_option
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.recipe import load_recipe

HELP = "two students that teach each other: together on the ranks of one, split over twice as many"
TEACH = "method={name: pareto, rule: bi}"
SPLIT = ("placement=split", "simultaneous=true")
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "together": (TWO_STUDENTS, TEACH, "simultaneous=true"),
    "split": (TWO_STUDENTS, TEACH, *SPLIT),
    "split, not teaching": (TWO_STUDENTS, *SPLIT),
}
"""Overrides of the recipe that make it each way."""
WARM_UP = 10
"""Updates before any is timed."""
Turn = Sequence[float]
"""Of an update in one turn, in seconds: its time, the ranks' mean processor time, the busiest rank's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    add_recipe(parser, "launchers/recipes/gettext_plain.yaml")
    parser.add_argument("--ranks", type=number_option(int, ge=1), default=1, help="of a student alone (default: 1)")
    add_rounds(parser, 3, "turns of each way")
    parser.add_argument("--updates", type=number_option(int, ge=1), default=60, help="updates a turn (default: 60)")
    add_output(parser, "placement")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    add_rank_result(parser)


def run(args: argparse.Namespace) -> int:
    """Starts ranks for each turn, prints the table and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.
    """
    set_threads()
    if args.result is not None:
        return measure_on_rank(args, partial(measure, args))
    Corpus.open(load_recipe(args.recipe, args.overrides).data.directory)  # if missing: one error, not one a rank
    turns: dict[str, list[Turn]] = {way: [] for way in WAYS}
    for round_number in range(args.rounds):
        for way in rotated(list(WAYS), round_number):
            ranks = args.ranks * (2 if "placement=split" in WAYS[way] else 1)
            turns[way] += rows_of_ranks(ranks, "--way", way)
    rows = [row(way, turns[way], turns["plain"]) for way in WAYS]
    return publish("placement", table(rows), {"cores": os.cpu_count(), "rows": rows}, args.out)


def row(way: str, turns: Sequence[Turn], plain: Sequence[Turn]) -> dict[str, Any]:
    """Computes medians over a way's turns.

    Args:
        way: name of the way.
        turns: the way's.
        plain: those of the plain student, in the same rounds.

    Returns:
        A row of the table; times in milliseconds.
    """
    milliseconds = [1e3 * turn[0] for turn in turns]
    return {
        "way": way,
        "milliseconds": statistics.median(milliseconds),
        "best": min(milliseconds),
        "to_plain": statistics.median(turn[0] / other[0] for turn, other in zip(turns, plain, strict=True)),
        "busy": 1e3 * statistics.median(turn[1] for turn in turns),
        "longest": 1e3 * statistics.median(turn[2] for turn in turns),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Writes the results as a table.

    Args:
        rows: one a way.

    Returns:
        Markdown.
    """
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
    """Times the updates of one turn as one of the ranks; all of them call this together.

    Args:
        args: the rank's arguments, with ``way``.

    Returns:
        One ``Turn``: medians over its updates.
    """
    import torch

    from mnmt_ds.distributed import job_ranks
    from mnmt_ds.engine.loop import advance, student_loops
    from mnmt_ds.engine.training import Training

    fixed = (f"directory={args.result.parent / 'run'}", "tracking.wandb=off")
    training = Training(load_recipe(args.recipe, [*fixed, *args.overrides, *WAYS[args.way]]), resume=False)
    loops, clocks = student_loops(training), []
    for _ in range(WARM_UP + args.updates):
        advance(training, loops, stop=False)
        wait_for_device()
        clocks.append((time.perf_counter(), time.process_time()))
    training.close()
    clocks_by_rank = torch.tensor(job_ranks().gather(clocks[WARM_UP - 1 :]), dtype=torch.float64)
    seconds = clocks_by_rank.diff(dim=1)  # (ranks, updates, 2)
    processor = seconds[:, :, 1]
    medians = (seconds[0, :, 0].median(), processor.mean(0).median(), processor.amax(0).median())
    return [[float(value) for value in medians]]

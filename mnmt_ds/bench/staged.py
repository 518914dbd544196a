"""What frozen teachers cost along a pipeline: their layers beside the student's, or their states cached.

Starts its own ranks, one a stage. In turn, round after round: an update without teachers; one in which each micro-batch
runs through its teacher's layers, too; one that fills the cache; one that finds all states there. Reported are the time
of the whole step; its time with a device for every stage (see ``bench pipeline``), without the background work that
fills the cache; and a stage's processor time, which includes that work.

Letters: B sentences, T target tokens, E width, V vocabulary.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from mnmt_ds.bench.arguments import add_output, add_random_training, add_rank_result, add_rounds, model_settings
from mnmt_ds.bench.measuring import set_threads, wait_for_device
from mnmt_ds.bench.publish import publish
from mnmt_ds.bench.ranks import measure_on_rank, rows_of_ranks
from mnmt_ds.bench.stage_timing import StagePass, median_passes, record_passes, simulated_step
from mnmt_ds.config.ranges import number_option

if TYPE_CHECKING:  # imported when the benchmark runs: DeepSpeed takes seconds
    from mnmt_ds.batch import Batch
    from mnmt_ds.bench.random_text import RandomText
    from mnmt_ds.teachers.teacher_pool import TeacherPool

HELP = "pipeline stages with teachers: their layers beside the student's, or their states cached"
WAYS = ("plain", "beside", "cold", "warm")
"""Without teachers; their layers beside the student's; cached, first pass; cached, later passes."""
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    parser.add_argument(
        "--stages", type=number_option(int, ge=1), nargs="+", default=[1, 2, 4], help="p (default: 1 2 4)"
    )
    parser.add_argument(
        "--batches", type=number_option(int, ge=1), default=8, help="micro-batches of an update (default: 8)"
    )
    parser.add_argument(
        "--pairs", type=number_option(int, ge=1), default=4, help="pairs, each with its own teacher (default: 4)"
    )
    add_rounds(parser, 3, "turns of each way, of which medians are reported")
    add_random_training(parser)
    add_output(parser, "staged")
    add_rank_result(parser)


def run(args: argparse.Namespace) -> int:
    """Starts ranks for each number of stages, prints the table and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.
    """
    set_threads()
    if args.result is not None:
        return measure_on_rank(args, partial(measure, args, args.stages[0]))
    rows = [row for count in args.stages for row in rows_of_ranks(count, "--stages", str(count))]
    return publish("staged", table(rows), {"cores": os.cpu_count(), "rows": rows}, args.out)


def table(rows: Sequence[Row]) -> str:
    """Writes the results as a table.

    Args:
        rows: one a number of stages and way.

    Returns:
        Markdown.
    """
    lines = [
        "| p | way | step, s | to plain | with p devices, s | to plain | processor time a stage, s"
        " | teachers on device, on the CPU, states: MiB a stage |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        busy = " ".join(f"{value:.2f}" for value in r["busy"])
        memory = "; ".join(" ".join(f"{value:.0f}" for value in stage) for stage in r["mib"])
        lines.append(
            f"| {r['stages']} | {r['way']} | {r['step']:.2f} | {r['ratio']:.2f} | {r['played']:.2f} |"
            f" {r['played_ratio']:.2f} | {busy} | {memory} |"
        )
    return "\n".join(lines)


class StageTiming(NamedTuple):
    """Times of one update, measured on one pipeline stage."""

    seconds: float
    busy: float
    """Processor time of all its threads, in seconds."""
    passes: list[StagePass]


def measure(args: argparse.Namespace, count: int) -> list[Row]:
    """Measures all ways as one of the ranks; all of them call this together.

    Args:
        args: the benchmark's arguments.
        count: number of stages, one a rank.

    Returns:
        A row a way.
    """
    from mnmt_ds.bench.random_text import random_text
    from mnmt_ds.bench.teacher_pools import new_teacher_pool, renew_teachers
    from mnmt_ds.distributed import on_main_first
    from mnmt_ds.engine.parallel import ds_config, stage_balance
    from mnmt_ds.engine.parallel.pipeline_engine import make_pipeline_engine
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.parallel_layout import form_layout

    text = random_text(args.pairs, args.batches, args.max_tokens, args.vocabulary)
    model = model_settings(args.model)
    train = TrainSettings(batches_per_update=len(text.micro_batches))
    config = ds_config.resolve(ds_config.read(args.deepspeed), train, 1, str(args.deepspeed))
    costs = on_main_first(stage_balance.by_time, model, args.vocabulary, args.max_tokens, "auto")
    layout = form_layout(pipeline_stages=count)
    engine = make_pipeline_engine(model, args.vocabulary, costs, config, 1, layout)
    beside, cached = (new_teacher_pool(engine, text, args.max_tokens, cached) for cached in (False, True))
    pools = {"beside": beside, "cold": cached, "warm": cached}
    timings: dict[str, list[StageTiming]] = {way: [] for way in WAYS}
    for round_number in range(args.rounds + 1):
        # ``warm`` follows ``cold``, which fills the cache; between them nothing is dropped
        for way in (("plain", "beside", "cold", "warm"), ("beside", "plain", "cold", "warm"))[round_number % 2]:
            if way == "cold":
                renew_teachers(pools[way])
            timing = _train(engine, text, pools.get(way))
            if round_number:  # the first round warms up
                timings[way].append(timing)
    rows: list[Row] = []
    for way in WAYS:
        rows.append(_row(count, way, timings[way], _memory(pools.get(way))))
        ratios = [t.seconds / plain.seconds for t, plain in zip(timings[way], timings["plain"], strict=True)]
        rows[-1]["ratio"] = statistics.median(ratios)
        rows[-1]["played_ratio"] = rows[-1]["played"] / rows[0]["played"]
    return rows


def _row(count: int, way: str, timings: Sequence[StageTiming], memory: Sequence[float]) -> Row:
    """Gathers a way's figures from all stages."""
    import torch.distributed as dist

    own = (
        median_passes([timing.passes for timing in timings]),
        statistics.median(timing.busy for timing in timings),
        memory,
    )
    every: list[Any] = [None] * count
    dist.all_gather_object(every, own)
    passes, busy, memories = (list(values) for values in zip(*every, strict=True))
    step = statistics.median(timing.seconds for timing in timings)
    return {"stages": count, "way": way, "step": step, "played": simulated_step(passes), "busy": busy, "mib": memories}


def _memory(pool: "TeacherPool | None") -> list[float]:
    """MiB on this stage: teachers' layers on the device, their shards on the CPU, cached states."""
    from mnmt_ds.bench.teacher_pools import cached_mib, device_mib

    if pool is None:
        return [0.0, 0.0, 0.0]
    return [device_mib(pool), pool.teachers.shard_storage.memory_bytes() / 2**20, cached_mib(pool)]


def _train(engine: Any, text: "RandomText", pool: "TeacherPool | None") -> StageTiming:
    """Takes one update over all of the text, on all stages together."""
    import torch.distributed as dist

    from mnmt_ds.batch import MicroBatchContent
    from mnmt_ds.bench.teacher_pools import TeacherOfEachPair
    from mnmt_ds.engine.parallel.engine import Update
    from mnmt_ds.kernels.types import Gate, Teacher
    from mnmt_ds.methods.method import Method
    from mnmt_ds.methods.translation import translation_loss

    batches = [text.batch(*micro_batch) for micro_batch in text.micro_batches]
    tokens = sum(batch.tokens for batch in batches)
    learning_rate = engine.deepspeed_engine.get_lr()[0]

    def teach(batch: "Batch") -> "Batch":
        if pool is None:
            return batch
        hidden_BTE, projection_VE = pool.states(batch.pair + 1, batch)
        return batch._replace(teachers={"kd": Teacher(hidden_BTE, projection_VE, 1.0, Gate())})

    def prefetch(contents: Sequence[MicroBatchContent | None]) -> None:
        if pool is not None:
            pool.prefetch(contents, TeacherOfEachPair())

    update = Update(
        [batch._replace(divisor=tokens) for batch in batches],
        lambda: [[MicroBatchContent(*micro_batch)] for micro_batch in text.micro_batches],
        Method(translation_loss(0.1, "auto"), teach=teach, prefetch=prefetch),
        lambda index: None,
        seed=0,
        number=1,
        key=1,
    )
    engine.module.pipeline_teachers = [] if pool is None else [pool.server]
    passes = record_passes(engine.deepspeed_engine, time.thread_time)
    dist.barrier()
    began, processor_began = time.perf_counter(), time.process_time()
    engine.forward_backward(update)
    engine.step(learning_rate)
    wait_for_device()
    dist.barrier()
    return StageTiming(time.perf_counter() - began, time.process_time() - processor_began, passes)

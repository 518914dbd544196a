"""What teachers cost: a step without teachers, with their states computed each time, and with them cached.

All ways train on the same batches in turn, round after round; ratios are medians over rounds. ``cold`` fills the cache,
``warm`` finds all states there. Sentences are random. Runs alone or on several ranks: ``torchrun --nproc_per_node 2 -m
mnmt_ds.cli.main bench teachers``; bytes are those of one rank.

Letters: B sentences, T target tokens, E width, V vocabulary.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from mnmt_ds.bench.arguments import add_output, add_random_training, add_rounds, model_settings
from mnmt_ds.bench.measuring import seconds_of, set_threads, wait_for_device
from mnmt_ds.bench.publish import publish
from mnmt_ds.config.ranges import number_option

if TYPE_CHECKING:  # imported when the benchmark runs: DeepSpeed takes seconds
    from mnmt_ds.batch import Batch, MicroBatchContent
    from mnmt_ds.engine.parallel.engine import Engine
    from mnmt_ds.teachers.teacher_pool import TeacherPool

HELP = "step time and memory with 1, 8 and 15 pairs' teachers: states computed each time, or cached"
WAYS = ("plain", "online", "cold", "warm")
"""Without teachers; computed each time; cached, first pass; cached, later passes."""
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    parser.add_argument(
        "--pairs", type=number_option(int, ge=1), nargs="+", default=[1, 8, 15], help="teachers (default: 1 8 15)"
    )
    add_rounds(parser, 3, "turns of each way")
    parser.add_argument(
        "--batches", type=number_option(int, ge=1), default=16, help="micro-batches a turn (default: 16)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of the student (default: bf16 on a GPU)")
    add_random_training(parser)
    add_output(parser, "teachers")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.
    """
    set_threads()
    from mnmt_ds.distributed import is_main, job, world_size
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    with job():
        rows = [row for pairs in args.pairs for row in measure(args, pairs)]
        ranks = world_size()
    if not is_main():
        return 0
    return publish("teachers", table(rows), {"ranks": ranks, "rows": rows}, args.out)


def table(rows: Sequence[Row]) -> str:
    """Writes the results as a table.

    Args:
        rows: one a number of teachers and way.

    Returns:
        Markdown.
    """
    lines = [
        "| teachers | way | step, s | to a plain step | to online | MiB on the device | MiB on the CPU | states, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['teachers']} | {r['way']} | {r['step']:.3f} | {r['ratio']:.3f} | {r['to_online']:.3f} |"
        f" {r['device_mib']:.1f} | {r['cpu_mib']:.1f} | {r['states_mib']:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)


class BenchSetup(NamedTuple):
    """What all measured ways share: model, teachers and batches."""

    engine: "Engine"
    updates: Sequence[tuple["Batch", Sequence["MicroBatchContent"]]]
    """For each update this rank's micro-batch, and what every rank's micro-batch holds."""
    pools: Mapping[str, "TeacherPool"]
    """By way; ``cold`` and ``warm`` have the same one, ``plain`` has none."""


def measure(args: argparse.Namespace, pairs: int) -> list[Row]:
    """Measures all ways with as many teachers as pairs.

    Args:
        args: the benchmark's arguments.
        pairs: number of pairs.

    Returns:
        A row a way.
    """
    from mnmt_ds.bench.teacher_pools import cached_mib, device_mib, renew_teachers
    from mnmt_ds.distributed import barrier, world_size

    setup = _set_up(args, pairs)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for round_number in range(args.rounds + 1):
        # ``warm`` follows ``cold``, which fills the cache; between them nothing is dropped
        for way in (("plain", "online", "cold", "warm"), ("online", "plain", "cold", "warm"))[round_number % 2]:
            if way == "cold":
                renew_teachers(setup.pools[way])
            barrier()
            taken = seconds_of(partial(_train, setup, way))
            if round_number:  # the first round warms up
                seconds[way].append(taken / len(setup.updates))
    rows: list[Row] = []
    for way in WAYS:
        pool = setup.pools.get(way)
        rows.append(
            {
                "teachers": pairs,
                "way": way,
                "ranks": world_size(),
                "step": statistics.median(seconds[way]),
                "ratio": statistics.median(t / p for t, p in zip(seconds[way], seconds["plain"], strict=True)),
                "to_online": statistics.median(t / o for t, o in zip(seconds[way], seconds["online"], strict=True)),
                "device_mib": device_mib(pool) if pool else 0.0,
                "cpu_mib": pool.teachers.shard_storage.memory_bytes() / 2**20 if pool else 0.0,
                "states_mib": cached_mib(pool) if pool else 0.0,
            }
        )
    return rows


def _set_up(args: argparse.Namespace, pairs: int) -> BenchSetup:
    """Makes the student, its text, and a pool for each way that has teachers."""
    import torch

    from mnmt_ds.batch import MicroBatchContent
    from mnmt_ds.bench.random_text import random_text
    from mnmt_ds.bench.teacher_pools import new_teacher_pool
    from mnmt_ds.distributed import rank, uses_gpu, world_size
    from mnmt_ds.engine.parallel import ds_config
    from mnmt_ds.engine.parallel.zero_engine import make_zero_engine
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.models.transformer import Transformer, initialise
    from mnmt_ds.parallel_layout import form_layout

    batches = -(-max(args.batches, pairs) // world_size()) * world_size()
    text = random_text(pairs, batches, args.max_tokens, args.vocabulary)
    precision = args.precision or ("bf16" if uses_gpu() else "fp32")
    train = TrainSettings(max_tokens=args.max_tokens, precision=precision)
    config = ds_config.resolve(ds_config.read(args.deepspeed), train, world_size(), str(args.deepspeed))
    torch.manual_seed(1)
    model = initialise(Transformer(model_settings(args.model), args.vocabulary))
    engine = make_zero_engine(model, config, form_layout())
    online, cached = (new_teacher_pool(engine, text, args.max_tokens, cached) for cached in (False, True))
    updates = []
    for first in range(0, len(text.micro_batches) // world_size() * world_size(), world_size()):
        micro_batches = text.micro_batches[first : first + world_size()]
        updates.append(
            (text.batch(*micro_batches[rank()]), [MicroBatchContent(*micro_batch) for micro_batch in micro_batches])
        )
    return BenchSetup(engine, updates, {"online": online, "cold": cached, "warm": cached})


def _train(setup: BenchSetup, way: str) -> None:
    """Takes one update for each micro-batch, its teacher prefetched one update ahead."""
    from mnmt_ds.bench.teacher_pools import TeacherOfEachPair
    from mnmt_ds.distributed import barrier
    from mnmt_ds.engine.parallel.engine import Update
    from mnmt_ds.kernels.types import Gate, Teacher
    from mnmt_ds.methods.method import Method
    from mnmt_ds.methods.translation import translation_loss

    engine, pool = setup.engine, setup.pools.get(way)
    learning_rate = engine.deepspeed_engine.get_lr()[0]

    def prefetch(number: int) -> None:
        if pool is not None and number < len(setup.updates):
            pool.prefetch(setup.updates[number][1], TeacherOfEachPair())

    def teach(batch: "Batch") -> "Batch":
        if pool is None:
            return batch
        hidden_BTE, projection_VE = pool.states(batch.pair + 1, batch)
        return batch._replace(teachers={"kd": Teacher(hidden_BTE, projection_VE, 1.0, Gate())})

    method = Method(translation_loss(0.1, "auto"), teach=teach)
    prefetch(0)
    for number, (batch, _) in enumerate(setup.updates):
        prefetch(number + 1)
        divisor = batch.tokens * engine.layout.data_parallel_size  # each rank's mean over its own tokens
        micro_batches = [batch._replace(divisor=divisor)]
        update = Update(micro_batches, lambda: [], method, lambda index: None, seed=0, number=number, key=number)
        engine.forward_backward(update)
        engine.step(learning_rate)
    wait_for_device()
    barrier()

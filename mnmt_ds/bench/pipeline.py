"""What a pipeline costs: step time, bubble and memory a stage, for some numbers of stages and micro-batches.

Starts its own ranks, one a stage. Every forward and backward pass is timed, on a CPU in processor time, so that sharing
its cores does not count as work. DeepSpeed's order of the passes is then simulated with these times, each stage waiting
for its neighbours: this is the time of a step in which every stage has a device of its own and sending takes no time.
Its bubble is that time over the busiest stage's passes. With even stages and micro-batches the bubble is
(m + p - 1) / m, the ideal. Over the mean stage's passes unevenness counts, too: "over ideal" is that ratio over the
ideal. Sentences are random and of many lengths.

Letters: V vocabulary.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mnmt_ds.bench.arguments import add_output, add_random_training, add_rank_result, add_rounds, model_settings
from mnmt_ds.bench.measuring import set_threads
from mnmt_ds.bench.publish import publish
from mnmt_ds.bench.ranks import measure_on_rank, rows_of_ranks
from mnmt_ds.bench.stage_timing import StagePass, median_passes, record_passes, simulated_step
from mnmt_ds.config.ranges import number_option

if TYPE_CHECKING:  # imported when the benchmark runs: DeepSpeed takes seconds
    from torch import Tensor

    from mnmt_ds.batch import Batch

HELP = "pipeline stages: step time, bubble against the ideal, memory a stage"
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
        "--micro-batches", type=number_option(int, ge=1), nargs="+", default=[4, 8, 16], help="m (default: 4 8 16)"
    )
    add_rounds(parser, 5, "steps that are timed, of which medians are reported")
    add_random_training(parser)
    add_output(parser, "pipeline")
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
    return publish("pipeline", table(rows), {"cores": os.cpu_count(), "rows": rows}, args.out)


def table(rows: Sequence[Row]) -> str:
    """Writes the results as a table.

    Args:
        rows: one a number of stages and of micro-batches.

    Returns:
        Markdown; "played" is the simulated step.
    """
    lines = [
        "| p | m | step, s | played, s | bubble | ideal | over ideal | busy a stage, s | parameters, M | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        busy, parameters, peak = (
            " ".join(f"{value:{form}}" for value in r[key])
            for key, form in (("busy", ".3f"), ("parameters_m", ".1f"), ("mib", ".0f"))
        )
        lines.append(
            f"| {r['stages']} | {r['micro_batches']} | {r['step']:.3f} | {r['played']:.3f} | {r['bubble']:.2f} |"
            f" {r['ideal']:.2f} | {r['over_ideal']:.2f} | {busy} | {parameters} | {peak} |"
        )
    return "\n".join(lines)


def measure(args: argparse.Namespace, count: int) -> list[Row]:
    """Measures all numbers of micro-batches as one of the ranks; all of them call this together.

    Args:
        args: the benchmark's arguments.
        count: number of stages, one a rank.

    Returns:
        A row a number of micro-batches.
    """
    from mnmt_ds.distributed import on_main_first
    from mnmt_ds.engine.parallel import ds_config, stage_balance
    from mnmt_ds.engine.parallel.pipeline_engine import make_pipeline_engine
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.parallel_layout import form_layout

    model = model_settings(args.model)
    train = TrainSettings(batches_per_update=args.micro_batches[0])
    config = ds_config.resolve(ds_config.read(args.deepspeed), train, 1, str(args.deepspeed))
    costs = on_main_first(stage_balance.by_time, model, args.vocabulary, args.max_tokens, "auto")
    layout = form_layout(pipeline_stages=count)
    engine = make_pipeline_engine(model, args.vocabulary, costs, config, 1, layout)
    return [_row(args, engine, count, micro_batches) for micro_batches in args.micro_batches]


def _row(args: argparse.Namespace, engine: Any, count: int, micro_batches: int) -> Row:
    """Times steps of so many micro-batches, and gathers the figures from all stages."""
    import torch
    import torch.distributed as dist

    from mnmt_ds.distributed import uses_gpu
    from mnmt_ds.engine.monitoring.meter import peak_resident
    from mnmt_ds.engine.parallel.pipeline_module import as_pipeline_input
    from mnmt_ds.methods.translation import translation_loss

    compute_loss = translation_loss(0.1, "auto")
    engine.deepspeed_engine.set_train_batch_size(micro_batches)
    batches = random_batches(args.max_tokens, args.vocabulary, micro_batches)
    tokens = sum(batch.tokens for batch in batches)
    learning_rate = engine.deepspeed_engine.get_lr()[0]

    def mean_loss(states: Any, projection_VD: "Tensor", batch: "Batch") -> "Tensor":
        return compute_loss(states, projection_VD, batch).loss * (micro_batches / tokens)

    steps: list[float] = []
    rounds: list[list[StagePass]] = []
    for round_number in range(args.rounds + 1):
        passes = record_passes(engine.deepspeed_engine, time.process_time)
        dist.barrier()
        began = time.perf_counter()
        engine.run_train_schedule([as_pipeline_input(batch, k) for k, batch in enumerate(batches)], mean_loss)
        engine.step(learning_rate)
        if round_number:  # the first round warms up
            steps.append(time.perf_counter() - began)
            rounds.append(passes)
    peak = (torch.cuda.max_memory_allocated() if uses_gpu() else peak_resident()) / 2**20
    own = (median_passes(rounds), sum(p.numel() for p in engine.module.parameters()) / 1e6, peak)
    every: list[Any] = [None] * count
    dist.all_gather_object(every, own)
    passes_by_stage, parameters, memory = (list(values) for values in zip(*every, strict=True))
    busy = [sum(stage_pass.seconds for stage_pass in stage) for stage in passes_by_stage]
    simulated, ideal = simulated_step(passes_by_stage), (micro_batches + count - 1) / micro_batches
    return {
        "stages": count,
        "micro_batches": micro_batches,
        "step": statistics.median(steps),
        "played": simulated,
        "bubble": simulated / max(busy),
        "ideal": ideal,
        "over_ideal": simulated / (sum(busy) / count) / ideal,
        "busy": busy,
        "parameters_m": parameters,
        "mib": memory,
        "layers": [stop - start for start, stop in zip(engine.stage_bounds, engine.stage_bounds[1:], strict=False)],
    }


def random_batches(max_tokens: int, vocabulary: int, count: int) -> list["Batch"]:
    """Draws micro-batches of random sentences, those of a micro-batch of one length; the same on every rank.

    Args:
        max_tokens: most tokens of a micro-batch, on each side.
        vocabulary: number of tokens to draw from.
        count: number of micro-batches.

    Returns:
        The micro-batches, of sentences of 8 to 40 tokens.
    """
    import numpy as np
    import torch

    from mnmt_ds.batch import EOS, Batch

    generator = np.random.Generator(np.random.Philox(0))
    batches = []
    for length in generator.integers(8, 41, count).tolist():
        rows = max(1, max_tokens // length)
        source, target = (torch.from_numpy(generator.integers(4, vocabulary, (rows, length))) for _ in range(2))
        decoder = torch.cat([torch.full((rows, 1), EOS), target[:, :-1]], 1)
        batches.append(Batch(source, decoder, target, 0, torch.arange(rows), rows * length, 1))
    return batches

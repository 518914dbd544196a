"""What a pipeline costs: step time, bubble and memory a stage, for some numbers of stages and micro-batches.

Starts its own ranks, one a stage. Every forward and backward pass is timed (in processor time on a CPU, so that sharing
its cores does not count as work), and DeepSpeed's order of them is played with these times, each stage waiting for its
neighbours: what a step takes where every stage has a device of its own and sending costs nothing. Its bubble is that
over the busiest stage's passes; of even stages and micro-batches it is (m + p - 1) / m, the ideal. Over the mean
stage's passes unevenness counts, too: "over ideal" is that ratio over the ideal. Sentences are random and of many
lengths.
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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.bench.publish import publish
from mnmt_ds.errors import UserError

HELP = "pipeline stages: step time, bubble against the ideal, memory a stage"
Figures = dict[str, Any]


class StagePass(NamedTuple):
    """One micro-batch's way through one stage."""

    kind: str
    """forward or backward."""
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 4], help="p (default: 1 2 4)")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[4, 8, 16], help="m (default: 4 8 16)")
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed (default: 5); medians are told")
    parser.add_argument("--max-tokens", type=int, default=512, help="padded tokens of a micro-batch")
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--deepspeed", type=Path, default=Path("ds_configs/zero1.json"))
    parser.add_argument(
        "model", nargs="*", metavar="a=b", help="model settings (default: preset=base d_model=256 ffn=1024 heads=4)"
    )
    parser.add_argument("--out", type=Path, help="JSON result file; default: runs/bench/pipeline-DATE-DEVICE.json")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.result is not None:
        return on_rank(args, partial(measure, args, args.stages[0]))
    rows = [row for count in args.stages for row in started(count, "--stages", str(count))]
    return publish("pipeline", table(rows), {"cores": os.cpu_count(), "rows": rows}, args.out)


def table(rows: Sequence[Figures]) -> str:
    """The figures as Markdown."""
    lines = [
        "| p | m | step, s | played, s | bubble | ideal | over ideal | busy a stage, s | parameters, M | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        busy, size, peak = (
            " ".join(f"{value:{form}}" for value in r[key])
            for key, form in (("busy", ".3f"), ("parameters_m", ".1f"), ("mib", ".0f"))
        )
        lines.append(
            f"| {r['stages']} | {r['micro_batches']} | {r['step']:.3f} | {r['played']:.3f} | {r['bubble']:.2f} |"
            f" {r['ideal']:.2f} | {r['over_ideal']:.2f} | {busy} | {size} | {peak} |"
        )
    return "\n".join(lines)


def started(count: int, *more: str) -> list[Any]:
    """The rows that so many ranks of their own find, which are given this command's words, and more."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        arguments = [word for word in sys.argv[1:] if word != "--"]
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count),
            "-m", "mnmt_ds.cli.main", *arguments, "--result", str(result), *more,
        ]  # fmt: skip
        code = subprocess.run(command, check=False).returncode
        if code:
            raise UserError(f"bench: {count} rank(s) ended with {code}; what they said stands above")
        return list(json.loads(result.read_text(encoding="utf-8")))


def on_rank(args: argparse.Namespace, measure: Callable[[], list[Any]]) -> int:
    """What such a rank does; the main one writes the rows."""
    import torch

    from mnmt_ds.distributed import is_main, job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with job():
        rows = measure()
        if is_main():
            args.result.write_text(json.dumps(rows), encoding="utf-8")
    return 0


def measure(args: argparse.Namespace, count: int) -> list[Figures]:
    """A row for each number of micro-batches, on ``count`` stages of this job's ranks."""
    from mnmt_ds.config import parse_yaml
    from mnmt_ds.distributed import on_main_first
    from mnmt_ds.engine.parallel import ds_config, stage_balance
    from mnmt_ds.engine.parallel.pipeline_engine import make_pipeline_engine
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.models.settings import ModelSettings
    from mnmt_ds.parallel_layout import form_layout

    given = args.model or ["preset=base", "d_model=256", "ffn=1024", "heads=4"]
    model = ModelSettings(**{name: parse_yaml(value) for name, _, value in (word.partition("=") for word in given)})
    train = TrainSettings(batches_per_update=args.micro_batches[0])
    config = ds_config.resolve(ds_config.read(args.deepspeed), train, 1, str(args.deepspeed))
    costs = on_main_first(stage_balance.by_time, model, args.vocabulary, args.max_tokens, "auto")
    layout = form_layout(pipeline_stages=count)
    engine = make_pipeline_engine(model, args.vocabulary, costs, config, 1, layout)
    return [_row(args, engine, count, many) for many in args.micro_batches]


def _row(args: argparse.Namespace, engine: Any, count: int, many: int) -> Figures:
    import torch
    import torch.distributed as dist

    from mnmt_ds.engine.monitoring.meter import peak_resident
    from mnmt_ds.engine.parallel.pipeline_module import as_pipeline_input
    from mnmt_ds.methods.translation import scorer

    score = scorer(0.1, "auto")
    engine.deepspeed_engine.set_train_batch_size(many)
    batches = _batches(args, many)
    total = sum(batch.tokens for batch in batches)
    learning_rate = engine.deepspeed_engine.get_lr()[0]

    def mean_loss(states: Any, projection_VD: torch.Tensor, batch: Any) -> torch.Tensor:
        return score(states, projection_VD, batch).loss * (many / total)

    steps: list[float] = []
    rounds: list[list[StagePass]] = []
    for turn in range(args.rounds + 1):
        passes = timed(engine.deepspeed_engine, time.process_time)
        dist.barrier()
        begin = time.perf_counter()
        engine.run_train_schedule([as_pipeline_input(batch, k) for k, batch in enumerate(batches)], mean_loss)
        engine.step(learning_rate)
        if turn:  # the first warms up
            steps.append(time.perf_counter() - begin)
            rounds.append(passes)
    peak = (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_resident()) / 2**20
    own = (typical(rounds), sum(p.numel() for p in engine.module.parameters()) / 1e6, peak)
    every: list[Any] = [None] * count
    dist.all_gather_object(every, own)
    passes_of, size, memory = (list(column) for column in zip(*every, strict=True))
    busy, whole = [sum(one.seconds for one in stage) for stage in passes_of], played(passes_of)
    ideal = (many + count - 1) / many
    return {
        "stages": count, "micro_batches": many, "step": statistics.median(steps), "played": whole,
        "bubble": whole / max(busy), "ideal": ideal, "over_ideal": whole / (sum(busy) / count) / ideal, "busy": busy,
        "parameters_m": size, "mib": memory,
        "layers": [b - a for a, b in zip(engine.stage_bounds, engine.stage_bounds[1:], strict=False)],
    }  # fmt: skip


def typical(rounds: Sequence[Sequence[StagePass]]) -> list[StagePass]:
    """Each pass with its median over rounds."""
    return [
        StagePass(kinds[0].kind, statistics.median(one.seconds for one in kinds)) for kinds in zip(*rounds, strict=True)
    ]


def played(stages: Sequence[Sequence[StagePass]]) -> float:
    """Seconds of a step in which every pass starts once its stage is free and its neighbour has sent what it needs."""
    ends: dict[tuple[int, str, int], float] = {}
    free, place = [0.0] * len(stages), [0] * len(stages)
    done = [{"forward": 0, "backward": 0} for _ in stages]
    while any(at < len(passes) for at, passes in zip(place, stages, strict=True)):
        for stage, passes in enumerate(stages):
            while place[stage] < len(passes):
                kind, seconds = passes[place[stage]]
                number = done[stage][kind]
                sender = stage - 1 if kind == "forward" else stage + 1
                needed = ends.get((sender, kind, number)) if 0 <= sender < len(stages) else 0.0
                if needed is None:
                    break  # not sent yet
                free[stage] = ends[stage, kind, number] = max(free[stage], needed) + seconds
                done[stage][kind] += 1
                place[stage] += 1
    return max(free)


def timed(engine: Any, cpu: Callable[[], float]) -> list[StagePass]:
    """This stage's forward and backward passes from here on, in their order; ``cpu``: the clock where there is no
    GPU."""
    import torch
    from deepspeed.runtime.pipe import schedule

    from mnmt_ds.private_apis import wrap_pipeline_instructions

    passes: list[StagePass] = []

    def clock() -> float:
        if not torch.cuda.is_available():
            return cpu()
        torch.cuda.synchronize()
        return time.perf_counter()

    def around(name: str, known: Callable[..., None]) -> Callable[..., None]:
        def pass_by(engine: Any, **arguments: Any) -> None:
            begin = clock()
            known(engine, **arguments)
            passes.append(StagePass(name, clock() - begin))

        return pass_by

    wrap_pipeline_instructions(
        engine,
        {
            schedule.ForwardPass: lambda known: around("forward", known),
            schedule.BackwardPass: lambda known: around("backward", known),
        },
    )
    return passes


def _batches(args: argparse.Namespace, many: int) -> list[Any]:
    """Random sentences of 8 to 40 tokens, those of a micro-batch of one length; the same on every rank."""
    import numpy as np
    import torch

    from mnmt_ds.batch import EOS, Batch

    maker = np.random.Generator(np.random.Philox(0))
    batches = []
    for length in maker.integers(8, 41, many).tolist():
        rows = max(1, args.max_tokens // length)
        source, target = (torch.from_numpy(maker.integers(4, args.vocabulary, (rows, length))) for _ in range(2))
        decoder = torch.cat([torch.full((rows, 1), EOS), target[:, :-1]], 1)
        batches.append(Batch(source, decoder, target, 0, torch.arange(rows), rows * length, 1))
    return batches

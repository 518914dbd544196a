"""What frozen teachers cost along a pipeline: their layers beside the student's, or their states remembered.

Starts its own ranks, one a stage. In turn, round after round, an update without a teacher, one that each micro-batch
takes its teacher's layers along for, one that fills the cache and one that finds all states there. Told are the whole
step; that with a device for every stage (see ``bench pipeline``), without what is done in the background, where the
cache is filled; and a stage's processor time, with all of that.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.bench import pipeline
from mnmt_ds.bench.pipeline import StagePass, played, started, timed, typical
from mnmt_ds.bench.publish import publish
from mnmt_ds.bench.teachers import RandomText, TeacherForEveryPair, cached_mib, employ, mib, model_of, texts

HELP = "pipeline stages with teachers: their layers beside the student's, or their states remembered"
WAYS = ("plain", "beside", "cold", "warm")
Figures = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 4], help="p (default: 1 2 4)")
    parser.add_argument("--batches", type=int, default=8, help="micro-batches of an update (default: 8)")
    parser.add_argument("--pairs", type=int, default=4, help="pairs, each with its own teacher (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: 3); medians are told")
    parser.add_argument("--max-tokens", type=int, default=512, help="padded tokens of a micro-batch")
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--deepspeed", type=Path, default=Path("ds_configs/zero1.json"))
    parser.add_argument(
        "model", nargs="*", metavar="a=b", help="model settings (default: preset=base d_model=256 ffn=1024 heads=4)"
    )
    parser.add_argument("--out", type=Path, help="JSON result file; default: runs/bench/staged-DATE-DEVICE.json")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.result is not None:
        return pipeline.on_rank(args, partial(measure, args, args.stages[0]))
    rows = [row for count in args.stages for row in started(count, "--stages", str(count))]
    return publish("staged", table(rows), {"cores": os.cpu_count(), "rows": rows}, args.out)


def table(rows: Sequence[Figures]) -> str:
    """The figures as Markdown."""
    lines = [
        "| p | way | step, s | to plain | with p devices, s | to plain | processor time a stage, s"
        " | teachers on device, on the CPU, states: MiB a stage |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        busy = " ".join(f"{value:.2f}" for value in r["busy"])
        held = "; ".join(" ".join(f"{value:.0f}" for value in stage) for stage in r["mib"])
        lines.append(
            f"| {r['stages']} | {r['way']} | {r['step']:.2f} | {r['ratio']:.2f} | {r['played']:.2f} |"
            f" {r['played_ratio']:.2f} | {busy} | {held} |"
        )
    return "\n".join(lines)


class StageTiming(NamedTuple):
    """An update, seen from one stage."""

    seconds: float
    busy: float
    """Processor time of all its threads."""
    passes: list[StagePass]


class StageTeachers(NamedTuple):
    """Who teaches in one way of the update."""

    pool: Any
    relay: Any


def measure(args: argparse.Namespace, count: int) -> list[Figures]:
    """A row a way, on ``count`` stages of this job's ranks."""
    from mnmt_ds.distributed import on_main_first
    from mnmt_ds.engine.parallel import ds_config, stage_balance
    from mnmt_ds.engine.parallel.pipeline_engine import make_pipeline_engine
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.parallel_layout import form_layout

    known, model = texts(args.pairs, args.batches, args.max_tokens, args.vocabulary), model_of(args.model)
    train = TrainSettings(batches_per_update=len(known.chosen))
    config = ds_config.resolve(ds_config.read(args.deepspeed), train, 1, str(args.deepspeed))
    costs = on_main_first(stage_balance.by_time, model, args.vocabulary, args.max_tokens, "auto")
    layout = form_layout(pipeline_stages=count)
    engine = make_pipeline_engine(model, args.vocabulary, costs, config, 1, layout)
    ways = _ways(args, engine, known)
    turns: dict[str, list[StageTiming]] = {way: [] for way in WAYS}
    for number in range(args.rounds + 1):
        # ``warm`` follows ``cold``, which fills; between them nothing is taken away
        for way in (("plain", "beside", "cold", "warm"), ("beside", "plain", "cold", "warm"))[number % 2]:
            if way == "cold":
                employ(ways[way].pool, args.pairs)
            done = _turn(engine, known, ways.get(way))
            if number:  # the first turn warms up
                turns[way].append(done)
    rows: list[Figures] = []
    for way, done_so in turns.items():
        rows.append(_row(count, way, done_so, _held(ways.get(way))))
        plain = zip(done_so, turns["plain"], strict=True)
        rows[-1]["ratio"] = statistics.median(own.seconds / other.seconds for own, other in plain)
        rows[-1]["played_ratio"] = rows[-1]["played"] / rows[0]["played"]
    return rows


def _row(count: int, way: str, turns: Sequence[StageTiming], held: Sequence[float]) -> Figures:
    import torch.distributed as dist

    every: list[Any] = [None] * count
    own = typical([turn.passes for turn in turns]), statistics.median(turn.busy for turn in turns), held
    dist.all_gather_object(every, own)
    passes, busy, mib_of = (list(column) for column in zip(*every, strict=True))
    step = statistics.median(turn.seconds for turn in turns)
    return {"stages": count, "way": way, "step": step, "played": played(passes), "busy": busy, "mib": mib_of}


def _held(lesson: StageTeachers | None) -> list[float]:
    """MiB on this stage: teachers' layers on the device, their shards on the CPU, remembered states."""
    if lesson is None:
        return [0.0, 0.0, 0.0]
    pool = lesson.pool
    on_device = mib(p for model in pool.models() for p in model.parameters())
    return [on_device, pool.teachers.shard_storage.memory_bytes() / 2**20, cached_mib(pool)]


def _ways(args: argparse.Namespace, engine: Any, known: RandomText) -> dict[str, StageTeachers]:
    """The ways that have teachers, of which each pair has one of its own."""
    import torch

    from mnmt_ds.distributed import device
    from mnmt_ds.engine.teacher_setup import projection_of
    from mnmt_ds.teachers.cache_blocks import plan_cache
    from mnmt_ds.teachers.pipeline_teachers import CachedPipelineTeachers, PipelineTeachers
    from mnmt_ds.teachers.settings import TeacherSettings
    from mnmt_ds.teachers.shard_layout import shard_layout
    from mnmt_ds.teachers.shard_storage import ShardStorage
    from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
    from mnmt_ds.teachers.state_cache import StateCache
    from mnmt_ds.teachers.state_storage import StateStorage
    from mnmt_ds.teachers.teacher_forward import PipelineForward
    from mnmt_ds.teachers.teacher_pool import TeacherPool

    stages, ranks, names = (
        engine.module,
        engine.layout.new_data_parallel_group(),
        [str(pair) for pair in range(args.pairs)],
    )
    layout = shard_layout(stages.model, projection_of(stages.model), ranks.size)

    def own() -> torch.Tensor:
        return engine.own_shard(layout, ranks, torch.float16)

    def blank() -> torch.nn.Module:
        made: torch.nn.Module = stages.segment(None).to(device()).eval().requires_grad_(False)
        return made

    def teachers() -> ShardedTeachers:
        return ShardedTeachers(
            ShardStorage(torch.float16, 1 << 40, Path("teachers"), lambda version: own()),
            layout,
            ranks,
            blank,
            device(),
        )

    relay_teachers = teachers()
    relay, width = PipelineTeachers(relay_teachers), stages.settings.d_model
    beside = StageTeachers(TeacherPool(names, relay_teachers, relay, own, lambda version: own()), relay)
    plan = plan_cache(TeacherSettings(cache="ram"), known.lengths, [1.0] * args.pairs, args.max_tokens, width, 1)
    assert plan is not None
    state_storage, line = (
        StateStorage(plan.memory_bytes, 0, plan.bytes_per_row, None),
        PipelineForward(engine.layout.new_world_group(), stages.num_stages),
    )
    cache = StateCache(teachers(), plan, state_storage, known.batch, False, line)
    before = CachedPipelineTeachers(cache)
    remembered = StageTeachers(TeacherPool(names, cache.teachers, before, own, lambda version: own()), before)
    for lesson in (beside, remembered):
        employ(lesson.pool, args.pairs)
    return {"beside": beside, "cold": remembered, "warm": remembered}


def _turn(engine: Any, known: RandomText, lesson: StageTeachers | None) -> StageTiming:
    import torch
    import torch.distributed as dist

    from mnmt_ds.batch import Batch, Slot
    from mnmt_ds.engine.parallel.engine import Update
    from mnmt_ds.kernels.types import Gate, Teacher
    from mnmt_ds.methods.method import Method
    from mnmt_ds.methods.translation import scorer

    batches = [known.batch(*chosen) for chosen in known.chosen]
    total = sum(batch.tokens for batch in batches)
    learning_rate = engine.deepspeed_engine.get_lr()[0]

    def teach(batch: Batch) -> Batch:
        if lesson is None:
            return batch
        hidden_BTE, projection_VE = lesson.pool.states(batch.pair + 1, batch)
        teacher = Teacher(hidden_BTE, projection_VE, 1.0, Gate())
        return batch._replace(teachers={"kd": teacher})

    def prefetch(slots: Sequence[Slot | None]) -> None:
        if lesson is not None:
            lesson.pool.prefetch(slots, TeacherForEveryPair())

    update = Update(
        [batch._replace(divisor=total) for batch in batches],
        lambda: [[Slot(pair, sentences)] for pair, sentences in known.chosen],
        Method(scorer(0.1, "auto"), teach=teach, prefetch=prefetch),
        lambda index: None,
        seed=0,
        number=1,
        key=1,
    )
    engine.module.pipeline_teachers = [] if lesson is None else [lesson.relay]
    passes = timed(engine.deepspeed_engine, time.thread_time)
    dist.barrier()
    began, worked = time.perf_counter(), time.process_time()
    engine.forward_backward(update)
    engine.step(learning_rate)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()
    return StageTiming(time.perf_counter() - began, time.process_time() - worked, passes)

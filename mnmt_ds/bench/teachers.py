"""What teachers cost: a step without, with teachers asked each time, with their states remembered (first pass, later).

All take the same batches in turn, round after round; ratios are medians over rounds. Sentences are random. Runs alone
or on several ranks: ``torchrun --nproc_per_node 2 -m mnmt_ds.cli.main bench teachers``; bytes are those of one rank.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.bench.publish import publish

HELP = "step time and memory with 1, 8 and 15 pairs' teachers: asked each time, or remembered"
WAYS = ("plain", "online", "cold", "warm")
Figures = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 8, 15], help="teachers (default: 1 8 15)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: 3)")
    parser.add_argument("--batches", type=int, default=16, help="micro-batches a turn (default: 16)")
    parser.add_argument("--max-tokens", type=int, default=512, help="padded tokens of a micro-batch")
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--deepspeed", type=Path, default=Path("ds_configs/zero1.json"))
    parser.add_argument(
        "model", nargs="*", metavar="a=b", help="model settings (default: preset=base d_model=256 ffn=1024 heads=4)"
    )
    parser.add_argument("--out", type=Path, help="JSON result file; default: runs/bench/teachers-DATE-DEVICE.json")


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from mnmt_ds.distributed import is_main, job, world_size
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with job():
        rows = [row for pairs in args.pairs for row in measure(args, pairs)]
        ranks = world_size()
    if not is_main():
        return 0
    return publish("teachers", table(rows), {"ranks": ranks, "rows": rows}, args.out)


def table(rows: Sequence[Figures]) -> str:
    """The figures as Markdown."""
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


class RandomSentences(NamedTuple):
    """A pair's random sentences, as a prepared corpus holds them."""

    sources: list[Any]
    targets: list[Any]

    def pieces(self, index: int) -> tuple[Any, Any]:
        return self.sources[index], self.targets[index]


def measure(args: argparse.Namespace, pairs: int) -> list[Figures]:
    """A row a way, for as many pairs as teachers."""
    from mnmt_ds.distributed import world_size

    stage = _stage(args, pairs)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(args.rounds + 1):
        # ``warm`` follows ``cold``, which fills; between them nothing is taken away
        for way in (("plain", "online", "cold", "warm"), ("online", "plain", "cold", "warm"))[turn % 2]:
            if way == "cold":
                stage.forget()
            took = _seconds(partial(stage.turn, way))
            if turn:  # the first turn warms up
                seconds[way].append(took / len(stage.steps))
    rows = []
    for way in WAYS:
        pool = stage.pools.get(way)
        rows.append(
            {
                "teachers": pairs,
                "way": way,
                "ranks": world_size(),
                "step": statistics.median(seconds[way]),
                "ratio": statistics.median(t / p for t, p in zip(seconds[way], seconds["plain"], strict=True)),
                "to_online": statistics.median(t / o for t, o in zip(seconds[way], seconds["online"], strict=True)),
                "device_mib": mib(p for m in (pool.models() if pool else ()) for p in m.parameters()),
                "cpu_mib": pool.teachers.shard_storage.memory_bytes() / 2**20 if pool else 0.0,
                "states_mib": cached_mib(pool) if pool else 0.0,
            }
        )
    return rows


class BenchSetup(NamedTuple):
    """Everything that the turns share."""

    steps: list[Any]
    """Of each update: this rank's batch and all ranks' slots."""
    pools: dict[str, Any]
    turn: Callable[[str], None]
    forget: Callable[[], None]


def _stage(args: argparse.Namespace, pairs: int) -> BenchSetup:
    import torch

    from mnmt_ds.distributed import device, rank, world_size
    from mnmt_ds.engine.parallel import ds_config
    from mnmt_ds.engine.parallel.zero_engine import make_zero_engine
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.models.transformer import Transformer, initialise
    from mnmt_ds.parallel_layout import form_layout
    from mnmt_ds.teachers.cache_blocks import plan_cache
    from mnmt_ds.teachers.settings import TeacherSettings
    from mnmt_ds.teachers.shard_layout import shard_layout
    from mnmt_ds.teachers.shard_storage import ShardStorage
    from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
    from mnmt_ds.teachers.state_cache import StateCache
    from mnmt_ds.teachers.state_storage import StateStorage
    from mnmt_ds.teachers.teacher_forward import LocalForward
    from mnmt_ds.teachers.teacher_pool import TeacherPool
    from mnmt_ds.teachers.teacher_server import TeacherServer, WholeTeachers

    known = texts(pairs, -(-max(args.batches, pairs) // world_size()) * world_size(), args.max_tokens, args.vocabulary)
    settings = model_of(args.model)
    train = TrainSettings(max_tokens=args.max_tokens)
    config = ds_config.resolve(ds_config.read(args.deepspeed), train, world_size(), str(args.deepspeed))
    torch.manual_seed(1)
    model = initialise(Transformer(settings, args.vocabulary))
    engine = make_zero_engine(model, config, form_layout())
    ranks = engine.layout.new_data_parallel_group()
    layout = shard_layout(engine.model, engine.model.head.weight, ranks.size)

    def blank() -> Transformer:
        return Transformer(settings, args.vocabulary).to(device()).eval().requires_grad_(False)

    def pool(remember: bool) -> TeacherPool:
        shard_storage = ShardStorage(torch.float16, 1 << 40, Path("teachers"), lambda version: own())
        teachers = ShardedTeachers(shard_storage, layout, engine.layout.new_data_parallel_group(), blank, device())
        kept = TeacherSettings(cache="ram" if remember else "off")
        plan = plan_cache(kept, known.lengths, [1.0] * pairs, args.max_tokens, settings.d_model, ranks.size)
        server: TeacherServer = WholeTeachers(teachers)
        if plan is not None:
            state_storage = StateStorage(plan.memory_bytes, 0, plan.bytes_per_row, None)
            server = StateCache(teachers, plan, state_storage, known.batch, False, LocalForward(teachers.ranks))
        return TeacherPool([str(pair) for pair in range(pairs)], teachers, server, own, lambda version: own())

    def own() -> torch.Tensor:
        return engine.own_shard(layout, ranks, torch.float16)

    online, remembered = pool(False), pool(True)
    pools = {"online": online, "cold": remembered, "warm": remembered}
    for each in (online, remembered):
        employ(each, pairs)
    steps = []
    for first in range(0, len(known.chosen) // world_size() * world_size(), world_size()):
        now = known.chosen[first : first + world_size()]
        steps.append((known.batch(*now[rank()]), now))
    return BenchSetup(
        steps, pools, partial(_turn, engine, steps, pools), lambda: employ(remembered, pairs)
    )  # fmt: skip


def model_of(words: Sequence[str]) -> Any:
    """Settings of the model that is measured: a base one, narrowed, unless the words say otherwise."""
    from mnmt_ds.models.settings import ModelSettings

    shape = {"preset": "base", "d_model": 256, "ffn": 1024, "heads": 4, **dict(_pair(text) for text in words)}
    return ModelSettings.model_validate(shape)


class RandomText(NamedTuple):
    """Random text of some pairs, and micro-batches that go through all of it once."""

    lengths: list[Any]
    batch: Callable[[int, Any], Any]
    """Some sentences of a pair."""
    chosen: list[tuple[int, Any]]
    """Pair and sentences of each micro-batch."""


def texts(pairs: int, batches: int, max_tokens: int, vocabulary: int) -> RandomText:
    """Text for about so many micro-batches, in random order."""
    import numpy as np

    from mnmt_ds.data.batching import PairLengths, fixed_batches
    from mnmt_ds.data.framing import Frame
    from mnmt_ds.data.loader import collate

    maker = np.random.Generator(np.random.Philox(1))
    frame, longest = Frame((5,), (2,), 6), 24
    sets, lengths = [], []
    for pair in range(pairs):
        count = (batches // pairs + (pair < batches % pairs)) * (max_tokens // longest)
        sizes = maker.integers(longest // 2, longest - 1, (2, max(count, 1)))
        words = [[maker.integers(7, vocabulary, n).astype(np.int32) for n in side] for side in sizes]
        sets.append(RandomSentences(*words))
        lengths.append(
            PairLengths(np.arange(len(sizes[0])), sizes[0].astype(np.int64) + 2, sizes[1].astype(np.int64) + 1)
        )
    chosen = [
        (pair, ids) for pair in range(pairs) for ids in fixed_batches(_shuffled(lengths[pair], maker), max_tokens)
    ]
    order = maker.permutation(len(chosen))
    return RandomText(lengths, lambda pair, ids: collate(sets[pair], ids, frame, pair, 1), [chosen[k] for k in order])


class TeacherForEveryPair(NamedTuple):
    """The source that gives every pair its own teacher: version p + 1 for pair p."""

    def teacher_of(self, pair: str) -> int:
        return int(pair) + 1


def cached_mib(pool: Any) -> float:
    """Sums the cached teacher states in this rank's memory.

    Args:
        pool: a ``TeacherPool``.

    Returns:
        MiB; 0 where nothing is cached.
    """
    cache = getattr(pool.server, "cache", pool.server)
    return cache.state_storage.memory_bytes / 2**20 if hasattr(cache, "state_storage") else 0.0


def employ(pool: Any, pairs: int) -> None:
    pool.keep_only(())
    for version in range(1, pairs + 1):
        pool.take_snapshot(version)


def _turn(engine: Any, steps: Sequence[Any], pools: dict[str, Any], way: str) -> None:
    """One update for each of the steps."""
    from mnmt_ds.batch import Batch, Slot
    from mnmt_ds.engine.parallel.engine import Update
    from mnmt_ds.kernels.types import Gate, Teacher
    from mnmt_ds.methods.method import Method
    from mnmt_ds.methods.translation import scorer

    pool, ranks = pools.get(way), engine.layout.data_parallel_size
    learning_rate = engine.deepspeed_engine.get_lr()[0]

    def prefetch(number: int) -> None:
        if pool is not None and number < len(steps):
            pool.prefetch([Slot(pair, ids) for pair, ids in steps[number][1]], TeacherForEveryPair())

    def teach(batch: Batch) -> Batch:
        if pool is None:
            return batch
        hidden_BTE, projection_VE = pool.states(batch.pair + 1, batch)
        return batch._replace(teachers={"kd": Teacher(hidden_BTE, projection_VE, 1.0, Gate())})

    method = Method(scorer(0.1, "auto"), teach=teach)
    prefetch(0)
    for number, (batch, _) in enumerate(steps):
        prefetch(number + 1)
        micro_batch = batch._replace(divisor=batch.tokens * ranks)  # each rank's mean over its own tokens
        update = Update([micro_batch], lambda: [], method, lambda index: None, seed=0, number=number, key=number)
        engine.forward_backward(update)
        engine.step(learning_rate)


def _seconds(turn: Callable[[], None]) -> float:
    import torch

    from mnmt_ds.distributed import barrier

    barrier()
    began = time.perf_counter()
    turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    barrier()
    return time.perf_counter() - began


def _shuffled(lengths: Any, maker: Any) -> Any:
    """The same sentences with their lengths blurred, so that training's batches are not the blocks."""
    blur = maker.integers(0, 3, len(lengths.source))
    return lengths._replace(source=lengths.source + blur, target=lengths.target)


def mib(tensors: Any) -> float:
    """Of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors) / 2**20


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value

"""Teacher pools of the benchmarks: every pair has a teacher of its own, a copy of the student."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnmt_ds.bench.random_text import RandomText
from mnmt_ds.engine.parallel.engine import Engine
from mnmt_ds.engine.teacher_setup import projection_of
from mnmt_ds.teachers.cache_blocks import plan_cache
from mnmt_ds.teachers.pipeline_teachers import CachedPipelineTeachers
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.shard_layout import shard_layout
from mnmt_ds.teachers.shard_storage import ShardStorage
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache
from mnmt_ds.teachers.state_storage import StateStorage
from mnmt_ds.teachers.teacher_pool import TeacherPool


class TeacherOfEachPair(NamedTuple):
    """Teacher source for benchmarks: every pair has its own teacher, version p + 1 for pair p."""

    def teacher_of(self, pair: str) -> int:
        """Returns the pair's teacher.

        Args:
            pair: the pair's number, as text.

        Returns:
            Its version.
        """
        return int(pair) + 1


def new_teacher_pool(engine: Engine, text: RandomText, max_tokens: int, cached: bool) -> TeacherPool:
    """Makes a pool with a teacher for each pair; all ranks call this together.

    Args:
        engine: the student's.
        text: what is trained on.
        max_tokens: most padded tokens of a block of the cache.
        cached: whether teacher states are cached in memory.

    Returns:
        The pool, its cache empty.
    """
    ranks, device = engine.layout.new_data_parallel_group(), engine.layout.device
    layout = shard_layout(engine.model, projection_of(engine.model), ranks.size)
    pairs = len(text.lengths)

    def own_shard() -> Tensor:
        return engine.own_shard(layout, ranks, torch.float16)

    def blank_model() -> nn.Module:
        return engine.blank_model().to(device).eval().requires_grad_(False)

    storage = ShardStorage(torch.float16, 1 << 40, Path("teachers"), lambda version: own_shard())
    teachers = ShardedTeachers(storage, layout, ranks, blank_model, device)
    cache = None
    if cached:
        settings, width = TeacherSettings(cache="ram"), engine.model.settings.d_model
        plan = plan_cache(settings, text.lengths, [1.0] * pairs, max_tokens, width, ranks.size)
        assert plan is not None
        state_storage = StateStorage(plan.memory_bytes, 0, plan.bytes_per_row, None)
        cache = StateCache(teachers, plan, state_storage, text.batch, False, engine.teacher_forward(ranks))
    server = engine.connect_teachers(teachers, cache)
    pool = TeacherPool([str(pair) for pair in range(pairs)], teachers, server, own_shard, lambda version: own_shard())
    renew_teachers(pool)
    return pool


def renew_teachers(pool: TeacherPool) -> None:
    """Makes the present student every pair's teacher, and empties the cache.

    Args:
        pool: the teachers.
    """
    pool.keep_only(())
    for version in range(1, len(pool.pairs) + 1):
        pool.take_snapshot(version)


def device_mib(pool: TeacherPool) -> float:
    """Sums the teachers' models on this rank's device.

    Args:
        pool: the teachers.

    Returns:
        MiB.
    """
    parameters = (parameter for model in pool.models() for parameter in model.parameters())
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters) / 2**20


def cached_mib(pool: TeacherPool) -> float:
    """Sums the cached teacher states in this rank's memory.

    Args:
        pool: the teachers.

    Returns:
        MiB; 0 where nothing is cached.
    """
    server = pool.server.cache if isinstance(pool.server, CachedPipelineTeachers) else pool.server
    return server.state_storage.memory_bytes / 2**20 if isinstance(server, StateCache) else 0.0

"""The given layout of a recipe, and those among which a set of devices is searched."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mnmt_ds.engine.parallel import ds_config, pipeline_engine, vocab_parallel
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import PipelineSettings, TensorSettings, batches_per_update
from mnmt_ds.errors import UserError
from mnmt_ds.planning.memory import BUCKET, PlannedLayout, RankMemory
from mnmt_ds.planning.pipeline_stages import bubble
from mnmt_ds.planning.survey import micro_batches

OFFLOADS = ((True, False), (True, True))
"""Of the optimizer, and of the parameters too."""
SHRINK = (1, 2, 4, 8)
"""Micro-batches are tried at the recipe's budget of padded tokens over these."""


class LayoutChoice(NamedTuple):
    """A layout that was tried, and what it takes."""

    layout: PlannedLayout
    max_tokens: int
    checkpointing: bool
    memory: RankMemory
    """Of the rank that takes most."""
    bubble: float = 1.0
    """What a pipeline's step takes over its stages' own work."""


def given(recipe: Recipe, ranks: int | None, on_cpu: bool) -> PlannedLayout:
    """As the recipe and its DeepSpeed file say; None: on as few ranks as it allows."""
    zero: dict[str, Any] = ds_config.read(recipe.deepspeed).get("zero_optimization", {})

    def off(part: str) -> bool:
        return zero.get(part, {}).get("device", "none") != "none"

    stages = recipe.pipeline.stages if recipe.pipeline is not None else 1
    vocabulary = recipe.tensor.vocabulary if recipe.tensor is not None else 1
    teams = len(recipe.students) if recipe.placement == "split" else 1
    return PlannedLayout(
        stages * vocabulary * teams if ranks is None else ranks,
        int(zero.get("stage", 0)),
        off("offload_optimizer"),
        off("offload_param"),
        recipe.train.precision,
        on_cpu,
        int(zero.get("reduce_bucket_size", BUCKET)),
        stages,
        vocabulary,
        teams,
    )


def candidates(recipe: Recipe, layout: PlannedLayout) -> Iterator[tuple[PlannedLayout, int, bool]]:
    """Layouts, tokens of a micro-batch, activation checkpointing; what costs least time comes first.

    Sharding more costs traffic, pipeline stages their bubble (the more the more), a shared vocabulary all of the work
    that is done alike, both together both; offloading costs most (and saves nothing on a CPU), recomputing a third of a
    step; smaller micro-batches fill a device less well. Split students stay split.
    """
    whole = layout._replace(offload_optimizer=False, offload_parameters=False, pipeline=1, vocabulary=1)
    forms = [whole._replace(stage=stage) for stage in range(4)]
    forms += [
        whole._replace(stage=stage, pipeline=stages, vocabulary=shards)
        for stages, shards in splits(layout.ranks)
        for stage in (0, 1)
    ]
    for optimizer, parameters in () if layout.on_cpu else OFFLOADS:
        offload = whole._replace(offload_optimizer=optimizer, offload_parameters=parameters)
        forms += [offload._replace(stage=stage) for stage in range(3 if parameters else 1, 4)]
    forms = [form for form in forms if allowed(recipe, form)]
    for form, again, part in itertools.product(forms, (False, True), SHRINK):
        if again or not recipe.model.activation_checkpointing:
            yield form, max(1, recipe.train.max_tokens // part), again


def splits(ranks: int) -> list[tuple[int, int]]:
    """Numbers of pipeline stages and of ranks that share a vocabulary, not both 1, that ``ranks`` are a multiple of:
    stages alone, a shared vocabulary alone, both together."""
    counts = [count for count in range(1, ranks + 1) if ranks % count == 0]
    pairs = sorted(itertools.product(counts, counts), key=lambda pair: (pair[1] > 1, pair[0] > 1))
    return [(stages, shards) for stages, shards in pairs[1:] if ranks % (stages * shards) == 0]


def allowed(recipe: Recipe, layout: PlannedLayout) -> bool:
    """Whether training would take the recipe in a layout."""
    if batches_per_update(recipe.train, layout.data_ranks) % layout.data_ranks:
        return False
    stages = PipelineSettings(stages=layout.pipeline) if layout.pipeline > 1 else None
    parts = {"pipeline": stages, "tensor": TensorSettings(vocabulary=layout.vocabulary)}
    tried, config = recipe.model_copy(update=parts), {"zero_optimization": {"stage": layout.stage}}
    try:
        pipeline_engine.check(tried, config)
        vocab_parallel.check(tried, config, layout.ranks)
    except UserError:
        return False
    return True


def fitting(
    recipe: Recipe, layout: PlannedLayout, room: float, need: Callable[[PlannedLayout, int, bool], RankMemory]
) -> list[LayoutChoice]:
    """Of each layout, with and without recomputation, the largest micro-batch that fits ``room`` bytes."""
    found: dict[tuple[PlannedLayout, bool], LayoutChoice] = {}
    for tried, tokens, again in candidates(recipe, layout):
        if (tried, again) not in found and (memory := need(tried, tokens, again)).device <= room:
            lost = bubble(tried.pipeline, micro_batches(recipe, tried))
            found[tried, again] = LayoutChoice(tried, tokens, again, memory, lost)
    return [choice for choice in found.values() if not _needless(choice, found)]


def _needless(choice: LayoutChoice, found: dict[tuple[PlannedLayout, bool], LayoutChoice]) -> bool:
    """Whether the same without recomputation takes as large a micro-batch."""
    plain = found.get((choice.layout, False))
    return choice.checkpointing and plain is not None and plain.max_tokens >= choice.max_tokens

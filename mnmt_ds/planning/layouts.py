"""The layout that a recipe gives, and those among which a set of devices is searched."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.parallel.run_layout import check_run_layout
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import PipelineSettings, TensorSettings, batches_per_update
from mnmt_ds.errors import UserError
from mnmt_ds.planning.memory import BUCKET, LIVE, PlannedLayout, RankMemory
from mnmt_ds.planning.pipeline_stages import bubble
from mnmt_ds.planning.survey import micro_batches_per_rank

OFFLOADS = ((True, False), (True, True))
"""Whether the optimizer, and whether the parameters too are offloaded, in layouts that are tried."""
MICRO_BATCH_DIVISORS = (1, 2, 4, 8)
"""Micro-batches are tried at the recipe's budget of padded tokens over these."""

EstimateMemory = Callable[[PlannedLayout, int, bool], RankMemory]
"""(layout, padded tokens of a micro-batch, activation checkpointing) -> memory of the rank that takes most."""


class LayoutChoice(NamedTuple):
    """A layout that was tried, with the memory and the pipeline bubble that it takes."""

    layout: PlannedLayout
    """How students are laid out over ranks."""
    max_tokens: int
    """Padded tokens of a micro-batch."""
    checkpointing: bool
    """Whether activations are computed again in the backward pass."""
    memory: RankMemory
    """Memory of the rank that takes most."""
    bubble: float = 1.0
    """What a pipeline's step takes over its stages' own work."""


def recipe_layout(recipe: Recipe, ranks: int | None, on_cpu: bool) -> PlannedLayout:
    """Reads the layout from a recipe and its DeepSpeed file.

    Args:
        recipe: the recipe.
        ranks: ranks of the job; None: as few as the recipe allows.
        on_cpu: whether the ranks compute on CPUs.

    Returns:
        The layout.
    """
    zero: dict[str, Any] = ds_config.read(recipe.deepspeed).get("zero_optimization", {})

    def is_offloaded(section: str) -> bool:
        return zero.get(section, {}).get("device", "none") != "none"

    stages = recipe.pipeline.stages if recipe.pipeline is not None else 1
    vocabulary_shards = recipe.tensor.vocabulary if recipe.tensor is not None else 1
    teams = len(recipe.students) if recipe.placement == "split" else 1
    return PlannedLayout(
        ranks=stages * vocabulary_shards * teams if ranks is None else ranks,
        zero_stage=int(zero.get("stage", 0)),
        offload_optimizer=is_offloaded("offload_optimizer"),
        offload_parameters=is_offloaded("offload_param"),
        precision=recipe.train.precision,
        on_cpu=on_cpu,
        bucket=int(zero.get("reduce_bucket_size", BUCKET)),
        max_live=int(zero.get("stage3_max_live_parameters", zero.get("max_live_parameters", LIVE))),
        stages=stages,
        vocabulary_shards=vocabulary_shards,
        teams=teams,
        weight_average=recipe.train.ema_decay > 0,
    )


def candidate_layouts(recipe: Recipe, layout: PlannedLayout) -> Iterator[tuple[PlannedLayout, int, bool]]:
    """Yields the layouts to try on a number of ranks, fastest first.

    Sharding more costs traffic, pipeline stages their bubble (the more the more), vocabulary-parallel ranks all of the
    work that is done alike, both together both; offloading costs most (and saves nothing on a CPU), recomputing a third
    of a step; smaller micro-batches fill a device less well. Split students stay split.

    Args:
        recipe: the recipe.
        layout: the layout that it gives.

    Yields:
        A layout, padded tokens of a micro-batch, and whether activations are computed again.
    """
    whole = layout._replace(offload_optimizer=False, offload_parameters=False, stages=1, vocabulary_shards=1)
    layouts = [whole._replace(zero_stage=zero_stage) for zero_stage in range(4)]
    layouts += [
        whole._replace(zero_stage=zero_stage, stages=stages, vocabulary_shards=shards)
        for stages, shards in model_parallel_splits(layout.ranks)
        for zero_stage in (0, 1)
    ]
    for optimizer, parameters in () if layout.on_cpu else OFFLOADS:
        offload = whole._replace(offload_optimizer=optimizer, offload_parameters=parameters)
        layouts += [offload._replace(zero_stage=zero_stage) for zero_stage in range(3 if parameters else 1, 4)]
    layouts = [candidate for candidate in layouts if is_allowed(recipe, candidate)]
    for candidate, checkpointing, divisor in itertools.product(layouts, (False, True), MICRO_BATCH_DIVISORS):
        if checkpointing or not recipe.model.activation_checkpointing:
            yield candidate, max(1, recipe.train.max_tokens // divisor), checkpointing


def model_parallel_splits(ranks: int) -> list[tuple[int, int]]:
    """Lists ways to hold a model over several of the ranks: stages alone, vocabulary-parallel alone, both together.

    Args:
        ranks: ranks of the job.

    Returns:
        Numbers of pipeline stages and of ranks that share a vocabulary, not both 1, whose product divides ``ranks``.
    """
    counts = [count for count in range(1, ranks + 1) if ranks % count == 0]
    splits = sorted(itertools.product(counts, counts), key=lambda split: (split[1] > 1, split[0] > 1))
    return [(stages, shards) for stages, shards in splits[1:] if ranks % (stages * shards) == 0]


def is_allowed(recipe: Recipe, layout: PlannedLayout) -> bool:
    """Returns whether training would accept a recipe in a layout.

    Args:
        recipe: the recipe.
        layout: the layout to try.

    Returns:
        Whether nothing refuses it.
    """
    if batches_per_update(recipe.train, layout.data_parallel_size) % layout.data_parallel_size:
        return False
    pipeline = PipelineSettings(stages=layout.stages) if layout.stages > 1 else None
    sections = {"pipeline": pipeline, "tensor": TensorSettings(vocabulary=layout.vocabulary_shards)}
    zero: dict[str, Any] = {"stage": layout.zero_stage}
    zero |= {"offload_optimizer": {"device": "cpu"}} if layout.offload_optimizer else {}
    try:
        check_run_layout(recipe.model_copy(update=sections), {"zero_optimization": zero}, layout.ranks)
    except UserError:
        return False
    return True


def fitting_layouts(
    recipe: Recipe, layout: PlannedLayout, device_bytes: float, estimate: EstimateMemory
) -> list[LayoutChoice]:
    """Finds for each layout, with and without recomputation, the largest micro-batch that fits.

    Args:
        recipe: the recipe.
        layout: the layout that it gives.
        device_bytes: memory of a device.
        estimate: counts the memory that a layout takes.

    Returns:
        What fits, cheapest in time first; recomputation is left out where it allows no larger micro-batch.
    """
    choices: dict[tuple[PlannedLayout, bool], LayoutChoice] = {}
    for candidate, max_tokens, checkpointing in candidate_layouts(recipe, layout):
        if (candidate, checkpointing) in choices:
            continue
        memory = estimate(candidate, max_tokens, checkpointing)
        if memory.device <= device_bytes:
            factor = bubble(candidate.stages, micro_batches_per_rank(recipe, candidate))
            choices[candidate, checkpointing] = LayoutChoice(candidate, max_tokens, checkpointing, memory, factor)
    return [choice for choice in choices.values() if not _is_needless(choice, choices)]


def _is_needless(choice: LayoutChoice, choices: dict[tuple[PlannedLayout, bool], LayoutChoice]) -> bool:
    """Whether the same without recomputation takes as large a micro-batch."""
    plain = choices.get((choice.layout, False))
    return choice.checkpointing and plain is not None and plain.max_tokens >= choice.max_tokens

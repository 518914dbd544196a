"""The given layout of a recipe, and those among which a set of devices is searched."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mnmt_ds.engine import ds_config
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.planning.memory import BUCKET, Layout, Memory

OFFLOADS = ((False, False), (True, False), (True, True))
SHRINK = (1, 2, 4, 8)
"""Micro-batches are tried at the recipe's budget of padded tokens over these."""


class Choice(NamedTuple):
    """A layout that was tried, and what it takes."""

    layout: Layout
    max_tokens: int
    checkpointing: bool
    memory: Memory


def given(recipe: Recipe, ranks: int, on_cpu: bool) -> Layout:
    """As the recipe's DeepSpeed file says."""
    zero: dict[str, Any] = ds_config.read(recipe.deepspeed).get("zero_optimization", {})

    def off(part: str) -> bool:
        return zero.get(part, {}).get("device", "none") != "none"

    return Layout(
        ranks,
        int(zero.get("stage", 0)),
        off("offload_optimizer"),
        off("offload_param"),
        recipe.train.precision,
        on_cpu,
        int(zero.get("reduce_bucket_size", BUCKET)),
    )


def candidates(recipe: Recipe, layout: Layout) -> Iterator[tuple[Layout, int, bool]]:
    """Layouts, tokens of a micro-batch, activation checkpointing; what costs least time comes first.

    Sharding more costs traffic, offloading more (and it saves nothing on a CPU), recomputing a third of a step; smaller
    micro-batches fill a device less well.
    """
    offloads = OFFLOADS[:1] if layout.on_cpu else OFFLOADS
    stages = [(stage, off) for off in offloads for stage in range((0, 1, 3)[sum(off)], 4)]
    for (stage, (optimizer, parameters)), again, part in itertools.product(stages, (False, True), SHRINK):
        if again or not recipe.model.activation_checkpointing:
            tried = layout._replace(stage=stage, offload_optimizer=optimizer, offload_parameters=parameters)
            yield tried, max(1, recipe.train.max_tokens // part), again


def fitting(recipe: Recipe, layout: Layout, room: float, need: Callable[[Layout, int, bool], Memory]) -> list[Choice]:
    """Of each stage and offload, with and without recomputation, the largest micro-batch that fits ``room`` bytes."""
    found: dict[tuple[int, bool, bool, bool], Choice] = {}
    for tried, tokens, again in candidates(recipe, layout):
        key = (tried.stage, tried.offload_optimizer, tried.offload_parameters, again)
        if key not in found and (memory := need(tried, tokens, again)).device <= room:
            found[key] = Choice(tried, tokens, again, memory)
    return [choice for choice in found.values() if not _needless(choice, found)]


def _needless(choice: Choice, found: dict[tuple[int, bool, bool, bool], Choice]) -> bool:
    """Whether the same without recomputation takes as large a micro-batch."""
    key = (choice.layout.stage, choice.layout.offload_optimizer, choice.layout.offload_parameters, False)
    return choice.checkpointing and key in found and found[key].max_tokens >= choice.max_tokens

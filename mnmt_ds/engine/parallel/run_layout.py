"""From a recipe to the layout of its run: what is refused, and the ranks' groups."""

import math
import os
from collections.abc import Sequence

from mnmt_ds import requirements
from mnmt_ds.distributed import uses_gpu, world_size
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.errors import UserError
from mnmt_ds.methods import registry as methods
from mnmt_ds.models.layer_sequence import layer_entries, possible_cuts, trained_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.parallel_layout import ParallelLayout, form_layout, plan_layout
from mnmt_ds.requirements import PIPELINE, PLACEMENT, PRECISION, VOCABULARY, Requirements, RunLayout
from mnmt_ds.samplers import registry as samplers

ALL = (PLACEMENT, PIPELINE, VOCABULARY, PRECISION)
"""The settings that ask for a layout."""


def requirements_of(recipe: Recipe) -> Requirements:
    """Joins what a run's method and its students' samplers require of the run.

    Args:
        recipe: of the run.

    Returns:
        All requirements joined.
    """
    needs = [samplers.requirements(student.sampler) for _, student in students_of(recipe)]
    return requirements.combined([methods.requirements(recipe.method), *needs])


def run_layout(recipe: Recipe, config: ds_config.Json, ranks: int) -> RunLayout:
    """Derives the layout that a recipe asks for, in the form that requirements are compared with.

    Args:
        recipe: of the run.
        config: DeepSpeed's configuration as written.
        ranks: of the job.

    Returns:
        The layout in the terms of ``requirements``.
    """
    zero, model = config.get("zero_optimization", {}), recipe.model
    return RunLayout(
        ranks=ranks,
        zero_stage=ds_config.zero_stage(config),
        offload_optimizer=bool(zero.get("offload_optimizer")),
        precision=recipe.train.precision,
        stages=recipe.pipeline.stages if recipe.pipeline is not None else None,
        model_layers=len(layer_entries(model, 1)),
        most_stages=min(model.encoder_layers + model.decoder_layers + 2, _trained_parts(model)),
        vocabulary_shards=_vocab_shards(recipe),
        students=max(1, len(recipe.students)),
        split=recipe.placement == "split",
        simultaneous=recipe.simultaneous,
        loss_implementation=recipe.train.loss_implementation,
    )


def check_run_layout(
    recipe: Recipe, config: ds_config.Json, ranks: int | None = None, settings: Sequence[str] = ALL
) -> None:
    """Refuses a run that its layout cannot carry.

    Args:
        recipe: of the run.
        config: DeepSpeed's configuration as written.
        ranks: of the job; None: those of this job.
        settings: whose refusals count, of ``ALL``.

    Raises:
        UserError: the first reason.
    """
    zero = config.get("zero_optimization", {})
    for name in ("offload_optimizer", "offload_param") if recipe.train.ema_decay else ():
        offload = zero.get(name) or {}
        if offload.get("device") == "nvme" or offload.get("super_offload"):
            way = "nvme" if offload.get("device") == "nvme" else "super_offload"
            raise UserError(f"train.ema_decay: weights whose {name} is {way} are not averaged; offload to the cpu")
    layout = run_layout(recipe, config, world_size() if ranks is None else ranks)
    requirements.check_layout(requirements_of(recipe), layout, settings)
    if layout.ranks > 1 and uses_gpu() and os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS") == "1":
        who = "students on ranks of their own" if layout.split else "teachers"
        if layout.split or methods.teacher_settings(recipe.method):
            raise UserError(
                f"CUDA_DEVICE_MAX_CONNECTIONS=1: collectives for {who} would wait behind one another for ever;"
                " unset it, or set 8 or more"
            )


def plan_parallel_layout(recipe: Recipe) -> ParallelLayout:
    """Plans the layout of a recipe's run over this job's ranks, without process groups.

    Args:
        recipe: of the run.

    Returns:
        The layout seen from this rank.
    """
    return plan_layout(*_sizes(recipe))


def form_parallel_layout(recipe: Recipe) -> ParallelLayout:
    """Forms the layout of a recipe's run over this job's ranks with its groups; all ranks call this together.

    Args:
        recipe: of the run, which ``check_run_layout`` has not refused.

    Returns:
        The layout seen from this rank.
    """
    return form_layout(*_sizes(recipe))


def rank_multiple(recipe: Recipe) -> int:
    """Computes of what number a job's ranks must be a multiple: teams x stages x ranks that share a vocabulary.

    Args:
        recipe: of the run.

    Returns:
        The number; 1: any number of ranks will do.
    """
    return math.prod(_sizes(recipe))


def _sizes(recipe: Recipe) -> tuple[int, int, int]:
    """Student teams, pipeline stages, ranks that share a vocabulary."""
    teams = len(recipe.students) if recipe.placement == "split" else 1
    return teams, recipe.pipeline.stages if recipe.pipeline is not None else 1, _vocab_shards(recipe)


def _trained_parts(model: ModelSettings) -> int:
    """Parts of a model that could be stages of their own, since each has something to train."""
    entries = layer_entries(model, 1)
    return len(possible_cuts(entries, trained_entries(model, entries))) - 1


def _vocab_shards(recipe: Recipe) -> int:
    return recipe.tensor.vocabulary if recipe.tensor is not None else 1

"""A recipe's plan: its data surveyed, its memory counted, and what cannot be counted measured."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.distributed import uses_gpu
from mnmt_ds.engine.build import open_corpus, open_training_data
from mnmt_ds.engine.parallel import ds_config, stage_balance
from mnmt_ds.engine.parallel.run_layout import check_run_layout
from mnmt_ds.engine.recipe import Recipe, load_recipe
from mnmt_ds.errors import UserError
from mnmt_ds.models.layer_sequence import layer_entries
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.planning.disk import disk_use
from mnmt_ds.planning.layouts import EstimateMemory, recipe_layout
from mnmt_ds.planning.memory import FrozenTeachers, PlannedLayout, RankMemory, rank_memory
from mnmt_ds.planning.parameters import count_parameters, trained_parameters
from mnmt_ds.planning.pipeline_stages import StageContents, plan_stages
from mnmt_ds.planning.probe import MINIMAL_MODEL, run_probe
from mnmt_ds.planning.report import RunPlan
from mnmt_ds.planning.survey import (
    eval_state_bytes,
    frozen_teachers,
    micro_batches_per_rank,
    planned_students,
    student_passes,
    survey,
)
from mnmt_ds.teachers.shard_exchange import FetchCost, fetch_cost

CALIBRATION_UPDATES = 10
"""Updates that are trained to measure the speed."""
LayerCosts = Callable[[], Sequence[float]]
"""Gives the cost of each entry of the model's layer sequence; measured once it is called."""


def make_plan(
    recipe: Recipe, path: Path, overrides: Sequence[str], devices: int | None, gpu: bool, measure: bool, calibrate: bool
) -> RunPlan:
    """Computes the plan of a recipe's run.

    Args:
        recipe: the recipe; its corpus must be prepared.
        path: its file.
        overrides: settings that replace the file's.
        devices: ranks, one a device; None: as few as the recipe allows.
        gpu: plan for GPUs, also on a machine without one.
        measure: measure the process's own memory.
        calibrate: train a few updates to measure the speed.

    Returns:
        The plan.

    Raises:
        UserError: when the devices cannot be shared out to stages, vocabulary shards or students, or the recipe would
            be refused.
    """
    on_cpu = not (gpu or uses_gpu())
    layout = recipe_layout(recipe, devices, on_cpu)
    multiple = layout.teams * layout.model_parallel_size
    if layout.ranks % multiple:
        uses = [
            (layout.stages, "form {} pipeline stages"),
            (layout.vocabulary_shards, "be vocabulary-parallel by {}"),
            (layout.teams, "be shared by {} students"),
        ]
        uses_text = " and ".join(text.format(count) for count, text in uses if count > 1)
        raise UserError(f"{path}: {devices} devices cannot {uses_text}; give --devices a multiple of {multiple}")
    config = ds_config.read(recipe.deepspeed)
    check_run_layout(recipe, config, layout.ranks)
    ds_config.resolve(config, recipe.train, layout.data_parallel_size, str(recipe.deepspeed))
    base = process_bytes(path, overrides) if measure and on_cpu else 0
    corpus, _ = open_corpus(recipe)
    speed = run_probe(path, overrides, CALIBRATION_UPDATES).tokens_per_second if calibrate else None
    training_data = open_training_data(recipe, corpus, ParallelLayout())[0]
    stages = stage_contents(recipe, corpus, layout, layer_costs(recipe, corpus, on_cpu))
    data_survey = survey(recipe, training_data, layout.data_parallel_size)
    parameters = count_parameters(recipe.model, corpus.tokenizer.size)
    students = planned_students(recipe, training_data, layout, data_survey.shapes)
    teachers = frozen_teachers(recipe, training_data, layout.data_parallel_size)
    most = max(stage.parameters if stage.trained is None else stage.trained for stage in stages)
    every, trained = trained_parameters(recipe.model, layer_entries(recipe.model, corpus.tokenizer.size))
    return RunPlan(
        recipe,
        corpus.tokenizer.size,
        parameters,
        students,
        layout,
        stages,
        stage_memories(recipe, corpus, layout, base, stages),
        data_survey,
        disk_use(recipe, trained, layout, students, teachers, most, every - trained),
        base_measured=bool(base),
        fetch=_fetch(recipe, corpus, layout, teachers, most),
        speed=speed,
    )


def _fetch(
    recipe: Recipe, corpus: Corpus, layout: PlannedLayout, teachers: FrozenTeachers, elements: int
) -> FetchCost | None:
    """What bringing a teacher, of so many elements a rank, takes; None where none is fetched whole by several ranks."""
    if not teachers.versions or teachers.layer_streaming or layout.data_parallel_size == 1:
        return None
    projection = min(elements, recipe.model.d_model * corpus.tokenizer.size // layout.vocabulary_shards)
    return fetch_cost(elements, projection, layout.data_parallel_size, teachers.dtype_bytes, teachers.versions)


def process_bytes(path: Path, overrides: Sequence[str]) -> int:
    """Measures the memory of a process that trains, but for its model.

    Args:
        path: the recipe's file.
        overrides: settings that replace the file's.

    Returns:
        Peak bytes with a minimal model, less what that one should take.
    """
    overrides = [*overrides, *MINIMAL_MODEL]
    recipe = load_recipe(path, overrides)
    corpus, _ = open_corpus(recipe)
    layout = recipe_layout(recipe, 1, on_cpu=True)._replace(stages=1, vocabulary_shards=1, teams=1)
    stages = plan_stages(recipe.model, corpus.tokenizer.size)
    model_bytes = stage_memories(recipe, corpus, layout, 0, stages)[0].device
    return run_probe(path, overrides, 2).peak - model_bytes


def stage_memories(
    recipe: Recipe, corpus: Corpus, layout: PlannedLayout, base: int, stages: Sequence[StageContents]
) -> list[RankMemory]:
    """Computes the memory of a rank of each stage.

    Args:
        recipe: the recipe.
        corpus: its corpus.
        layout: how students are laid out over ranks.
        base: bytes of the process itself.
        stages: what the stages hold.

    Returns:
        Bytes of a rank, by stage.
    """
    training_data = open_training_data(recipe, corpus, ParallelLayout())[0]
    shapes = survey(recipe, training_data, layout.data_parallel_size).shapes
    teachers = frozen_teachers(recipe, training_data, layout.data_parallel_size)
    if layout.stages > 1:
        teachers = teachers._replace(layer_streaming=False, eval_states=eval_state_bytes(recipe, layout, shapes))
    size, students = corpus.tokenizer.size, planned_students(recipe, training_data, layout, shapes)
    passes, micro_batches = student_passes(recipe), micro_batches_per_rank(recipe, layout)
    return [
        rank_memory(recipe.model, size, shapes, layout, teachers, passes, base, students, stage, micro_batches)
        for stage in stages
    ]


def stage_contents(recipe: Recipe, corpus: Corpus, layout: PlannedLayout, costs: LayerCosts) -> list[StageContents]:
    """Cuts the recipe's model into the stages of a layout.

    Args:
        recipe: the recipe.
        corpus: its corpus.
        layout: how students are laid out over ranks.
        costs: cost of each entry of the model's layer sequence; asked for where something is cut.

    Returns:
        What the stages hold; one stage where the layout has none.
    """
    rank_vocabulary = layout.rank_vocabulary(corpus.tokenizer.size)
    micro_batches = micro_batches_per_rank(recipe, layout)
    entry_costs = costs() if layout.model_parallel_size > 1 else ()
    return plan_stages(
        recipe.model, rank_vocabulary, layout.stages, entry_costs, micro_batches, layout.vocabulary_shards
    )


def layer_costs(recipe: Recipe, corpus: Corpus, on_cpu: bool) -> LayerCosts:
    """Chooses where the cost of each entry of the model's layer sequence comes from: the file by which the run was cut
    before, or a measurement here; parameters where the recipe says so, or where GPUs are planned for on a machine
    without one.

    Args:
        recipe: the recipe.
        corpus: its corpus.
        on_cpu: whether the ranks compute on CPUs.

    Returns:
        A function that gives the costs (seconds, or numbers of parameters) and computes them once.
    """
    size, file = corpus.tokenizer.size, recipe.directory / stage_balance.FILE

    @cache
    def costs() -> Sequence[float]:
        entries = layer_entries(recipe.model, size)
        by_parameters = recipe.pipeline is not None and recipe.pipeline.balance == "parameters"
        if by_parameters or not (on_cpu or uses_gpu()):
            return stage_balance.by_parameters(entries)
        if recipe.pipeline is not None and file.exists():
            seconds = stage_balance.read_times(file)
            if len(seconds) == len(entries):  # else of a model of another depth
                return seconds
        return stage_balance.by_time(recipe.model, size, recipe.train.max_tokens, recipe.train.loss_implementation)

    return costs


def memory_estimator(recipe: Recipe, base: int, on_cpu: bool) -> EstimateMemory:
    """Makes the function that counts the memory of other layouts.

    Args:
        recipe: the recipe.
        base: bytes of the process itself.
        on_cpu: whether the ranks compute on CPUs.

    Returns:
        A function of layout, padded tokens of a micro-batch and activation checkpointing, which counts the memory of
        the rank that takes most.
    """
    corpus, _ = open_corpus(recipe)
    costs = layer_costs(recipe, corpus, on_cpu)

    def estimate(layout: PlannedLayout, max_tokens: int, checkpointing: bool) -> RankMemory:
        changed = recipe.model_copy(
            update={
                "train": recipe.train.model_copy(update={"max_tokens": max_tokens}),
                "model": recipe.model.model_copy(update={"activation_checkpointing": checkpointing}),
            }
        )
        stages = stage_contents(changed, corpus, layout, costs)
        return max(stage_memories(changed, corpus, layout, base, stages), key=lambda memory: memory.device)

    return estimate

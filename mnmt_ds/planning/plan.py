"""A recipe's plan: its data surveyed, its memory reckoned, and what cannot be reckoned measured."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.build import open_corpus, open_streams
from mnmt_ds.engine.parallel import ds_config, pipeline_engine, stage_balance, vocab_parallel
from mnmt_ds.engine.recipe import Recipe, load_recipe
from mnmt_ds.errors import UserError
from mnmt_ds.models.layer_sequence import layer_entries
from mnmt_ds.planning.layouts import given
from mnmt_ds.planning.memory import PlannedLayout, RankMemory, memory
from mnmt_ds.planning.parameters import parameters
from mnmt_ds.planning.pipeline_stages import StageContents, stages_of
from mnmt_ds.planning.probe import MINUTE, probe
from mnmt_ds.planning.report import RunPlan
from mnmt_ds.planning.survey import foreseen, lessons_of, micro_batches, students_in, survey

CALIBRATION = 10
"""Updates."""
Costs = Callable[[], Sequence[float]]


def make(
    recipe: Recipe, path: Path, overrides: Sequence[str], devices: int | None, gpu: bool, measure: bool, calibrate: bool
) -> RunPlan:
    """The plan of a recipe on so many ranks (None: as few as it allows); UserError where they cannot be shared out to
    its stages, its vocabulary's parts or its split students."""
    on_cpu = not (gpu or torch.cuda.is_available())
    layout = given(recipe, devices, on_cpu)
    if layout.ranks % (layout.teams * layout.parts):
        wanted = [(layout.pipeline, "form {} pipeline stages"), (layout.vocabulary, "share a vocabulary by {}")]
        wanted += [(layout.teams, "be shared by {} students")]
        what = " and ".join(text.format(count) for count, text in wanted if count > 1)
        raise UserError(
            f"{path}: {devices} devices cannot {what}; give --devices a multiple of {layout.teams * layout.parts}"
        )
    config = ds_config.read(recipe.deepspeed)
    pipeline_engine.check(recipe, config)
    vocab_parallel.check(recipe, config, layout.ranks)
    ds_config.resolve(config, recipe.train, layout.data_ranks, str(recipe.deepspeed))
    base = process_bytes(path, overrides) if measure and on_cpu else 0
    corpus, _ = open_corpus(recipe)
    speed = probe(path, overrides, CALIBRATION).tokens_per_second if calibrate else None
    stream = open_streams(recipe, corpus)[0]
    held = held_by(recipe, corpus, layout, costs_of(recipe, corpus, on_cpu))
    found = survey(recipe, stream, layout.data_ranks)
    return RunPlan(
        recipe,
        corpus.tokenizer.size,
        parameters(recipe.model, corpus.tokenizer.size),
        students_in(recipe, stream, layout, found.shapes),
        layout,
        held,
        need(recipe, corpus, layout, base, held),
        found,
        base_measured=bool(base),
        speed=speed,
    )


def process_bytes(path: Path, overrides: Sequence[str]) -> int:
    """Peak bytes of a process that trains, but for its model: a minute model's, less what that one should take."""
    words = [*overrides, *MINUTE]
    recipe = load_recipe(path, words)
    corpus, _ = open_corpus(recipe)
    layout = given(recipe, 1, on_cpu=True)._replace(pipeline=1, vocabulary=1, teams=1)
    own = need(recipe, corpus, layout, 0, stages_of(recipe.model, corpus.tokenizer.size))[0].device
    return probe(path, words, 2).peak - own


def need(
    recipe: Recipe, corpus: Corpus, layout: PlannedLayout, base: int, stages: Sequence[StageContents]
) -> list[RankMemory]:
    """Bytes a rank of a recipe in a layout, at each stage."""
    stream = open_streams(recipe, corpus)[0]
    passes = int(getattr(recipe.method, "passes", 1))
    shapes = survey(recipe, stream, layout.data_ranks).shapes
    lessons = lessons_of(recipe, stream, layout.data_ranks)
    if layout.pipeline > 1:
        lessons = lessons._replace(by_layers=False, foreseen=foreseen(recipe, layout, shapes))
    size, students = corpus.tokenizer.size, students_in(recipe, stream, layout, shapes)
    return [memory(recipe.model, size, shapes, layout, lessons, passes, base, students, stage) for stage in stages]


def held_by(recipe: Recipe, corpus: Corpus, layout: PlannedLayout, costs: Costs) -> list[StageContents]:
    """What the stages of a layout hold; all of the model where it has none."""
    words, many = layout.words(corpus.tokenizer.size), micro_batches(recipe, layout)
    known = costs() if layout.parts > 1 else ()
    return stages_of(recipe.model, words, layout.pipeline, known, many, layout.vocabulary)


def costs_of(recipe: Recipe, corpus: Corpus, on_cpu: bool) -> Costs:
    """The cost of each place of the model's row, once it is asked for: that by which the run was cut before, or
    measured here; by parameters where the recipe says so, or where GPUs are planned for on a machine without one."""
    size, file = corpus.tokenizer.size, recipe.directory / stage_balance.FILE

    @cache
    def costs() -> Sequence[float]:
        by_parameters = recipe.pipeline is not None and recipe.pipeline.balance == "parameters"
        if by_parameters or not (on_cpu or torch.cuda.is_available()):
            return stage_balance.by_parameters(layer_entries(recipe.model, size))
        if recipe.pipeline is not None and file.exists():
            known = [float(value) for value in json.loads(file.read_text(encoding="utf-8"))["seconds"]]
            if len(known) == len(layer_entries(recipe.model, size)):  # else of a model of another depth
                return known
        return stage_balance.by_time(recipe.model, size, recipe.train.max_tokens, recipe.train.loss_implementation)

    return costs


def planner(recipe: Recipe, base: int, on_cpu: bool) -> Callable[[PlannedLayout, int, bool], RankMemory]:
    """Bytes of the rank that takes most, in another layout, with other micro-batches, with or without recomputed
    activations."""
    corpus, _ = open_corpus(recipe)
    costs = costs_of(recipe, corpus, on_cpu)

    def reckon(layout: PlannedLayout, max_tokens: int, again: bool) -> RankMemory:
        changed = recipe.model_copy(
            update={
                "train": recipe.train.model_copy(update={"max_tokens": max_tokens}),
                "model": recipe.model.model_copy(update={"activation_checkpointing": again}),
            }
        )
        held = held_by(changed, corpus, layout, costs)
        return max(need(changed, corpus, layout, base, held), key=lambda one: one.device)

    return reckon

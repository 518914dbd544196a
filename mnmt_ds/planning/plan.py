"""A recipe's plan: its data surveyed, its memory reckoned, and what cannot be reckoned measured."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.build import open_corpus, open_streams
from mnmt_ds.engine.recipe import Recipe, load_recipe, students_of
from mnmt_ds.errors import UserError
from mnmt_ds.planning.layouts import given
from mnmt_ds.planning.memory import Layout, Memory, memory
from mnmt_ds.planning.parameters import parameters
from mnmt_ds.planning.probe import MINUTE, probe
from mnmt_ds.planning.report import Plan
from mnmt_ds.planning.survey import lessons_of, survey

CALIBRATION = 10
"""Updates."""


def make(
    recipe: Recipe, path: Path, overrides: Sequence[str], devices: int, gpu: bool, measure: bool, calibrate: bool
) -> Plan:
    """The plan of a recipe on so many ranks; UserError where it has pipeline stages, which are not reckoned yet."""
    if recipe.pipeline is not None:
        raise UserError(f"{path}: pipeline: stages are not reckoned yet; plan it with pipeline=null")
    on_cpu = not (gpu or torch.cuda.is_available())
    layout = given(recipe, devices, on_cpu)
    base = process_bytes(path, overrides) if measure and on_cpu else 0
    corpus, _ = open_corpus(recipe)
    speed = probe(path, overrides, CALIBRATION).tokens_per_second if calibrate else None
    stream = open_streams(recipe, corpus)[0]
    return Plan(
        recipe,
        corpus.tokenizer.size,
        parameters(recipe.model, corpus.tokenizer.size),
        len(students_of(recipe)),
        layout,
        need(recipe, corpus, layout, base),
        survey(recipe, stream, devices),
        base_measured=bool(base),
        speed=speed,
    )


def process_bytes(path: Path, overrides: Sequence[str]) -> int:
    """Peak bytes of a process that trains, but for its model: a minute model's, less what that one should take."""
    words = [*overrides, *MINUTE]
    recipe = load_recipe(path, words)
    corpus, _ = open_corpus(recipe)
    own = need(recipe, corpus, given(recipe, 1, on_cpu=True), 0).device
    return probe(path, words, 2).peak - own


def need(recipe: Recipe, corpus: Corpus, layout: Layout, base: int) -> Memory:
    """Bytes a rank of a recipe in a layout."""
    stream = open_streams(recipe, corpus)[0]
    passes = int(getattr(recipe.method, "passes", 1))
    shapes = survey(recipe, stream, layout.ranks).shapes
    lessons = lessons_of(recipe, stream, layout.ranks)
    return memory(recipe.model, corpus.tokenizer.size, shapes, layout, lessons, passes, base, len(students_of(recipe)))


def planner(recipe: Recipe, base: int) -> Callable[[Layout, int, bool], Memory]:
    """Bytes a rank in another layout, with other micro-batches, with or without recomputed activations."""
    corpus, _ = open_corpus(recipe)

    def reckon(layout: Layout, max_tokens: int, again: bool) -> Memory:
        changed = recipe.model_copy(
            update={
                "train": recipe.train.model_copy(update={"max_tokens": max_tokens}),
                "model": recipe.model.model_copy(update={"activation_checkpointing": again}),
            }
        )
        return need(changed, corpus, layout, base)

    return reckon

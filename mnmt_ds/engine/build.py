"""From a recipe and a prepared corpus to students that can train."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.distributed import device, seed_of, world_size
from mnmt_ds.engine import ds_config, student
from mnmt_ds.engine.best import Best
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.engine.stream import Stream
from mnmt_ds.engine.student import Student
from mnmt_ds.engine.teaching import make_faculty
from mnmt_ds.errors import UserError
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.objectives.method import Context
from mnmt_ds.objectives.methods import build


def open_corpus(recipe: Recipe) -> tuple[Corpus, list[str]]:
    """The prepared corpus and the run's pairs; UserError names a pair that was not prepared."""
    corpus = Corpus.open(recipe.data.directory)
    pairs = list(recipe.data.pairs)
    missing = [pair for pair in pairs if pair not in corpus.pairs]
    if missing:
        raise UserError(f"{corpus.directory}: {', '.join(missing)} not prepared there; run mnmt-ds prepare again")
    return corpus, pairs


def make_student(
    recipe: Recipe, config: ds_config.Json, run: Path, corpus: Corpus, stream: Stream, dev_tokens: dict[str, int],
    say: Callable[[str], None] = print, name: str = "student",
) -> Student:  # fmt: skip
    """A student on its engine, its method bound to it."""
    torch.manual_seed(seed_of(recipe.train.seed, "weights"))
    model = initialise(Transformer(recipe.model, corpus.tokenizer.size))
    engine = student.initialise_engine(model, config)
    vocabularies: dict[str, Tensor] = {}

    def target_vocabulary(language: str) -> Tensor:
        if language not in vocabularies:
            vocabularies[language] = stream.target_vocabulary(language).to(device())
        return vocabularies[language]

    context = Context(
        pairs=list(recipe.data.pairs),
        device=device(),
        smoothing=recipe.train.label_smoothing,
        implementation=recipe.train.loss_implementation,
        faculty=lambda settings: make_faculty(recipe, settings, run, stream, engine, say),
        quiet_states=lambda batch: student.quiet_states(engine, batch),
        target_vocabulary=target_vocabulary,
    )
    best = Best(context.pairs, recipe.validation.selection, dev_tokens)
    return Student(name, engine, build(recipe.method, context), best, recipe.train.seed)


def description(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    """What a model directory says of itself."""
    return {
        "model": recipe.model.model_dump(mode="json"),
        "vocabulary_size": corpus.tokenizer.size,
        "framing": recipe.framing.model_dump(mode="json"),
        "pairs": list(recipe.data.pairs),
        "tokenizer_hash": corpus.tokenizer.hash,
        "data_hash": corpus.hash,
    }


def fingerprint(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    """What a checkpoint must share with the run that resumes from it."""
    return {
        "data": corpus.hash,
        "tokenizer": corpus.tokenizer.hash,
        "pairs": list(recipe.data.pairs),
        "model": json.loads(json.dumps(recipe.model.model_dump(mode="json"))),
        "method": json.loads(json.dumps(recipe.method.model_dump(mode="json"))),
        "framing": recipe.framing.model_dump(mode="json"),
        "batches_per_update": batches_per_update(recipe.train, world_size()),
        "precision": recipe.train.precision,
        "seed": recipe.train.seed,
    }


def check_fingerprint(found: dict[str, Any], wanted: dict[str, Any], where: Path) -> None:
    """UserError that names what changed since the checkpoint, with both values."""
    for key, value in wanted.items():
        if found.get(key) != value:
            raise UserError(
                f"{where}: written with {key} {found.get(key)!r}, this run has {value!r};"
                f" resume with the former, or train anew in another directory"
            )

"""From a recipe and a prepared corpus to students that can train."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.distributed import device, is_main, on_main_first, seed_of, world_size
from mnmt_ds.engine import ds_config, student
from mnmt_ds.engine.best import Best
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.engine.stream import Stream
from mnmt_ds.engine.student import Student
from mnmt_ds.engine.teaching import make_faculty
from mnmt_ds.engine.walk import Walk
from mnmt_ds.errors import UserError
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.objectives.method import Context
from mnmt_ds.objectives.methods import build
from mnmt_ds.teachers.faculty import Faculty
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.tracking import Tracker


def open_corpus(recipe: Recipe) -> tuple[Corpus, list[str]]:
    """The prepared corpus and the run's pairs; UserError names a pair that was not prepared."""
    corpus = Corpus.open(recipe.data.directory)
    pairs = list(recipe.data.pairs)
    missing = [pair for pair in pairs if pair not in corpus.pairs]
    if missing:
        raise UserError(f"{corpus.directory}: {', '.join(missing)} not prepared there; run mnmt-ds prepare again")
    return corpus, pairs


def open_streams(recipe: Recipe, corpus: Corpus) -> list[Stream]:
    """Every student's training data."""
    return [
        Stream(corpus, list(own.data.pairs), own.framing, own.sampler, own.train, own.model.max_positions)
        for _, own in students_of(recipe)
    ]


def make_students(
    recipe: Recipe, config: ds_config.Json, corpus: Corpus, streams: Sequence[Stream], dev_tokens: dict[str, int],
    tracker: Tracker,
) -> list[Student]:  # fmt: skip
    """The run's students, each on an engine of its own and with a log of its own where there are several."""
    students: list[Student] = []
    for (name, own), stream in zip(students_of(recipe), streams, strict=True):
        engine = make_engine(own, config, corpus)
        method = build(
            own.method, make_context(own, engine, corpus, stream, tracker.say, name if own is not recipe else "")
        )
        best = Best(own.data.pairs, own.validation.selection, dev_tokens)
        log = tracker
        if own is not recipe:
            on_main_first(own.directory.mkdir, 0o777, True, True)
            log = Tracker(own.directory, own.tracking.model_copy(update={"wandb": "off"}), is_main(), {}, own.name)
        students.append(Student(name, engine, method, best, own, Walk(stream), log))
    return students


def make_engine(recipe: Recipe, config: ds_config.Json, corpus: Corpus) -> Any:
    """A model with its first weights, on an engine."""
    torch.manual_seed(seed_of(recipe.train.seed, "weights"))
    return student.initialise_engine(initialise(Transformer(recipe.model, corpus.tokenizer.size)), config)


def make_context(
    recipe: Recipe, engine: Any, corpus: Corpus, stream: Stream, say: Callable[[str], None], apart: str = ""
) -> Context:
    """What a student's method may need of the run; ``apart``: its folder on disks that students share."""
    vocabularies: dict[str, Tensor] = {}

    def target_vocabulary(language: str) -> Tensor:
        if language not in vocabularies:
            vocabularies[language] = stream.target_vocabulary(language).to(device())
        return vocabularies[language]

    def faculty(settings: TeacherSettings) -> Faculty:
        if settings.disk is not None:
            settings = settings.model_copy(update={"disk": settings.disk / apart})
        return make_faculty(recipe, settings, recipe.directory, stream, engine, say)

    return Context(
        pairs=list(recipe.data.pairs),
        device=device(),
        smoothing=recipe.train.label_smoothing,
        implementation=recipe.train.loss_implementation,
        faculty=faculty,
        quiet_states=lambda batch: student.quiet_states(engine, batch),
        target_vocabulary=target_vocabulary,
    )


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
    several = {
        "students": [[name, own.train.seed, own.sampler.model_dump(mode="json")] for name, own in students_of(recipe)]
    }
    return {
        **(several if recipe.students else {}),
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

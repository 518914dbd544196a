"""What a model directory says of itself, and what a checkpoint must share with the run that resumes from it."""

import json
from pathlib import Path
from typing import Any

from mnmt_ds.config import Settings
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.engine.recipe import Recipe, resolved_method, students_of
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.errors import UserError
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.parallel_layout import ParallelLayout


def model_description(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    """What a model directory says of its model.

    Args:
        recipe: of the student.
        corpus: that it is trained on.

    Returns:
        JSON values.
    """
    return {
        "model": recipe.model.model_dump(mode="json", exclude={"init"}),
        "vocabulary_size": corpus.tokenizer.size,
        "framing": recipe.framing.model_dump(mode="json"),
        "pairs": list(recipe.data.pairs),
        "tokenizer_hash": corpus.tokenizer.hash,
        "data_hash": corpus.hash,
        "dev_sets": {pair: corpus.text_hash(pair, "dev") for pair in recipe.data.pairs},
        "sentencepiece": corpus.manifest.get("sentencepiece"),
    }


def run_fingerprint(recipe: Recipe, corpus: Corpus, layout: ParallelLayout) -> dict[str, Any]:
    """What a checkpoint must share with the run that resumes from it.

    Args:
        recipe: of the run.
        corpus: that it is trained on.
        layout: the ranks.

    Returns:
        JSON values.
    """
    dynamic = {"sampler": _sampler_values(recipe.sampler)} if recipe.sampler.name != "temperature" else {}
    students = [[name, each.train.seed, _sampler_values(each.sampler)] for name, each in students_of(recipe)]
    several = {"students": students, **({"simultaneous": True} if recipe.simultaneous else {})}
    return {
        **(several if recipe.students else dynamic),
        "data": corpus.hash,
        "tokenizer": corpus.tokenizer.hash,
        "pairs": list(recipe.data.pairs),
        "model": _model_values(recipe.model),
        "method": json.loads(json.dumps(recipe.method.model_dump(mode="json"))),
        "framing": recipe.framing.model_dump(mode="json"),
        "batches_per_update": batches_per_update(recipe.train, layout.data_parallel_size),
        "precision": recipe.train.precision,
        "seed": recipe.train.seed,
    }


def check_fingerprint(written: dict[str, Any], present: dict[str, Any], where: Path) -> None:
    """Compares a checkpoint's fingerprint with the run's.

    Args:
        written: the checkpoint's.
        present: the run's.
        where: the checkpoint, for the error.

    Raises:
        UserError: that names what has changed since, with both values.
    """
    if "model" in written:  # a setting that came later has its default there
        written = {**written, "model": _model_values(ModelSettings(**written["model"]))}
    if "method" in written:  # older checkpoints have null for what a profile or the pairs decide
        method = resolved_method(written["method"], written.get("pairs", present["pairs"]))
        written = {**written, "method": method}
    if "framing" in written:
        written = {**written, "framing": FramingSettings(**written["framing"]).model_dump(mode="json")}
    for key, value in present.items():
        if written.get(key) != value:
            raise UserError(
                f"{where}: written with {key} {written.get(key)!r}, this run has {value!r};"
                f" resume with the former, or train anew in another directory"
            )


def _sampler_values(sampler: Settings) -> dict[str, Any]:
    """A sampler's settings less the place of chi-IBR's baseline, whose values are in the sampler's state."""
    return sampler.model_dump(mode="json", exclude={"baseline"})


def _model_values(model: ModelSettings) -> dict[str, Any]:
    """The model's settings but for what changes no number of a run that goes on: recomputation, and whence it came."""
    return dict(json.loads(json.dumps(model.model_dump(mode="json", exclude={"activation_checkpointing", "init"}))))

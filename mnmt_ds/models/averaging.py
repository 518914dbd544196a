"""The mean of several models' weights, as a model of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.weights import describe_model, read_plain_weights, weights_identity

SAME = ("vocabulary_size", "framing", "tokenizer_hash")
"""What descriptions of models that are averaged must have in common, beside the shape."""


def distinct_models(directories: Sequence[Path]) -> list[Path]:
    """Removes models that were named before, also by another link.

    Args:
        directories: model directories.

    Returns:
        Those that hold other weights than the ones before them.

    Raises:
        UserError: when one is no model.
    """
    by_weights: dict[str, Path] = {}
    for directory in directories:
        by_weights.setdefault(weights_identity(describe_model(directory)) or str(directory.resolve()), directory)
    return list(by_weights.values())


def average_models(directories: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Averages weights; each model counts the same.

    Args:
        directories: model directories of one architecture and tokenizer; adapters are merged.

    Returns:
        The mean of each weight, in the first model's type, and the description of a model with these weights.

    Raises:
        UserError: when there are fewer than two, or they do not fit together.
    """
    if len(directories) < 2:
        raise UserError(f"{directories[0] if directories else 'average'}: one model has no mean; name several")
    descriptions = [describe_model(directory) for directory in directories]
    shapes = [_shape(directory, facts) for directory, facts in zip(directories, descriptions, strict=True)]
    for directory, shape, facts in zip(directories, shapes, descriptions, strict=True):
        differing = [key for key in SAME if facts[key] != descriptions[0][key]]
        differing += [key for key in shape if key != "dropout" and shape[key] != shapes[0][key]]
        if differing:
            raise UserError(f"{directory}: another {differing[0]} than {directories[0]}; average models of one kind")
    first = read_plain_weights(directories[0])
    kinds = {name: value.dtype for name, value in first.items()}
    total = {name: value.to(torch.float32, copy=True) for name, value in first.items()}
    del first
    for directory in directories[1:]:
        weights = read_plain_weights(directory)
        if weights.keys() != total.keys() or any(weights[name].shape != total[name].shape for name in total):
            raise UserError(f"{directory}: other weights than {directories[0]}; average models of one kind")
        for name, value in weights.items():
            total[name] += value.float()
    for name, value in total.items():
        total[name] = (value / len(directories)).to(kinds[name])
    pairs = dict.fromkeys(pair for facts in descriptions for pair in facts["pairs"])
    data = {facts.get("data_hash") for facts in descriptions}
    averaged = [
        {"model": str(directory), "sha256": facts.get("sha256"), "update": facts.get("update")}
        for directory, facts in zip(directories, descriptions, strict=True)
    ]
    description = {
        "model": shapes[0],
        **{key: descriptions[0][key] for key in SAME},
        "pairs": list(pairs),
        **({"data_hash": data.pop()} if len(data) == 1 and None not in data else {}),
        "averaged": averaged,
    }
    return total, description


def _shape(directory: Path, description: dict[str, Any]) -> dict[str, Any]:
    """A model's settings without adapters and frozen parts."""
    try:
        return ModelSettings(**description["model"]).plain().model_dump(mode="json")
    except (ValueError, TypeError):
        raise UserError(f"{directory / 'model.json'}: no such model; take another checkpoint") from None

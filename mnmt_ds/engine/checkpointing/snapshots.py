"""Weights kept at validations: one model directory an update, shared by all that refer to it.

``snapshots/<update>`` holds the weights; ``best`` and ``best_<pair>`` are links to them, and LSSD's teachers, which
ARE the pairs' best checkpoints, are named by the same updates. A snapshot goes when nothing refers to it any more.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.weights import describe_model, save_model

SHAPE = ("d_model", "ffn", "heads", "encoder_layers", "decoder_layers", "share_embeddings", "max_positions")
"""What a teacher's shape must share with its student's."""


def write(run: Path, update: int, state: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Keeps weights under their update's number; called on the main rank."""
    save_model(run / "snapshots" / str(update), state, description)


def read(run: Path, update: int, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The weights of an update (of some names). UserError where the file is missing, altered, or holds a NaN."""
    return read_model(run / "snapshots" / str(update), names)


def read_expert(
    directory: Path, shape: ModelSettings, tokenizer_hash: str, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Another run's weights as a teacher. UserError where its tokenizer or shape is not the student's, too."""
    description = describe_model(directory)
    if description.get("tokenizer_hash") != tokenizer_hash:
        raise UserError(
            f"{directory}: its tokenizer ({str(description.get('tokenizer_hash'))[:12]}) is not this run's"
            f" ({tokenizer_hash[:12]}); train the expert on the same prepared data"
        )
    own = ModelSettings(**description["model"])
    if odd := [name for name in SHAPE if getattr(own, name) != getattr(shape, name)]:
        raise UserError(f"{directory}: its {', '.join(odd)} differ from the student's; train an expert of that shape")
    return read_model(directory, names)


def read_model(directory: Path, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """A model directory's weights, verified; only those of ``names`` are read, None: all."""
    path = directory / "model.safetensors"
    description = describe_model(directory)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in names or file.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: teacher cannot be read ({error}); resume from an earlier checkpoint") from None
    if digest != description.get("sha256"):
        raise UserError(f"{path}: teacher was altered (its SHA-256 is not model.json's); restore the file")
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: teacher holds NaN or Inf in {name}; resume from an earlier checkpoint")
    return state


def link(run: Path, name: str, update: int) -> None:
    """Lets ``run/name`` point to a snapshot, in one step."""
    temporary = run / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("snapshots") / str(update))
    os.replace(temporary, run / name)


def sweep(run: Path, wanted: Iterable[int]) -> None:
    """Removes the snapshots that nothing refers to."""
    keep = {str(update) for update in wanted}
    for directory in (run / "snapshots").glob("*"):
        if directory.name not in keep:
            shutil.rmtree(directory)

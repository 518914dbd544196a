"""Model directories: ``model.safetensors`` (fp32) beside ``model.json``; nothing is unpickled."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer


def load_state(model: Transformer, state: dict[str, Tensor], where: str) -> None:
    """Loads a state without tied repeats; UserError where names or shapes are not the model's."""
    wanted = {name: parameter for name, parameter in model.named_parameters()}
    missing, extra = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or extra:
        raise UserError(
            f"{where}: not this model's weights (missing {sorted(missing)[:3]}, unknown {sorted(extra)[:3]});"
            " give a checkpoint of the same architecture"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            if parameter.shape != state[name].shape:
                raise UserError(
                    f"{where}: {name} has shape {tuple(state[name].shape)}, the model {tuple(parameter.shape)};"
                    " give a checkpoint of the same vocabulary and size"
                )
            parameter.copy_(state[name])


def save_model(directory: Path, state: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes a model directory, whole or not at all: built under a temporary name, synced, then renamed."""
    temporary = directory.with_name(directory.name + ".tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    weights = temporary / "model.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    with weights.open("rb") as file:
        description = {**description, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    (temporary / "model.json").write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
    publish(temporary, directory)


def publish(temporary: Path, directory: Path) -> None:
    """Syncs a finished directory and renames it into place; an older one there is replaced."""
    for path in [*temporary.rglob("*"), temporary]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    old = directory.with_name(directory.name + ".old")
    _remove(old)
    if directory.exists():
        os.rename(directory, old)
    os.rename(temporary, directory)
    handle = os.open(directory.parent, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    _remove(old)


def describe_model(directory: Path) -> dict[str, Any]:
    """``model.json`` of a model directory; UserError where it is missing or not JSON."""
    path = directory / "model.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no model there; give a run's best, best_<pair> or last_model directory") from None
    except ValueError:
        raise UserError(f"{path}: not JSON; take another checkpoint of the run") from None


def load_model(directory: Path, device: str | torch.device = "cpu") -> tuple[Transformer, dict[str, Any]]:
    """The model of a directory, in eval mode, and its description."""
    description = describe_model(directory)
    model = Transformer(ModelSettings(**description["model"]), description["vocabulary_size"])
    path = directory / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be loaded ({error}); take another checkpoint of the run") from None
    load_state(model, state, str(path))
    return model.to(device).eval(), description


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)

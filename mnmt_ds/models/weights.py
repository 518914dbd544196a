"""Model directories: ``model.safetensors`` (fp32) beside ``model.json``; nothing is unpickled."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import first_altered, read_checked_json, with_checksum
from mnmt_ds.files import replacing_directory, sha256
from mnmt_ds.json_files import reason
from mnmt_ds.models.export import m2m100_names
from mnmt_ds.models.lora import is_adapter, merged
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.weight_files import frozen_file

Ranges = Mapping[str, tuple[int, int]]
"""Of each weight's elements, flattened, the first one and the end of those that are read."""
REMEDY = "restore the file, or take another checkpoint of the run"


def load_state(model: Transformer, state: dict[str, Tensor], where: str) -> None:
    """Loads weights into a model.

    Args:
        model: its weights are overwritten.
        state: weights by name, without tied repeats.
        where: what an error names as their place, such as a file.

    Raises:
        UserError: when names or shapes are not the model's.
    """
    parameters = dict(model.named_parameters())
    missing, extra = parameters.keys() - state.keys(), state.keys() - parameters.keys()
    if missing or extra:
        raise UserError(
            f"{where}: not this model's weights (missing {sorted(missing)[:3]}, unknown {sorted(extra)[:3]});"
            " give a checkpoint of the same architecture"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != state[name].shape:
                raise UserError(
                    f"{where}: {name} has shape {tuple(state[name].shape)}, the model {tuple(parameter.shape)};"
                    " give a checkpoint of the same vocabulary and size"
                )
            parameter.copy_(state[name])


def save_model(directory: Path, state: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes a model directory, whole or not at all.

    Args:
        directory: directory to write; an older one there is replaced.
        state: weights by name, without tied repeats.
        description: what ``model.json`` holds; the weights' SHA-256 and a checksum of its own are added.
    """
    with replacing_directory(directory) as temporary:
        write_model(temporary, state, description)


def write_model(directory: Path, state: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes a model's files into a directory that nobody reads yet.

    Args:
        directory: an empty directory.
        state: weights by name, without tied repeats.
        description: what ``model.json`` holds; the weights' SHA-256 and a checksum of its own are added.
    """
    weights = directory / "model.safetensors"
    write_safetensors(state, weights)
    description = with_checksum({**description, "sha256": sha256(weights)})
    (directory / "model.json").write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")


def write_safetensors(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors into a file; permissions are those of any new file.

    Args:
        state: tensors by name.
        path: file to write.
        metadata: what the file's header also holds.

    Raises:
        OSError: where it cannot be written.
    """
    path.touch()
    permissions = path.stat().st_mode  # as the umask says; save_file makes a file for its owner alone
    try:
        save_file({name: value.contiguous() for name, value in state.items()}, path, metadata)
    except SafetensorError as error:
        match = re.search(r"(?:os error|\bcode:) (\d+)", str(error))  # safetensors 0.8, 0.5
        if match is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(path)) from None
    path.chmod(permissions)


class DescriptionJson(TypedDict):
    """JSON of a ``model.json``, which is checked when it is read."""

    model: dict[str, Any]
    vocabulary_size: Annotated[int, Field(ge=1, le=10_000_000)]
    framing: dict[str, Any]
    pairs: list[str]
    tokenizer_hash: str
    update: NotRequired[int]
    dev: NotRequired[dict[str, float]]
    frozen: NotRequired[str]
    sha256: NotRequired[str]
    names: NotRequired[Literal["m2m_100"]]
    exported: NotRequired[str]


def describe_model(directory: Path) -> dict[str, Any]:
    """Reads ``model.json`` of a model directory.

    Args:
        directory: a model directory.

    Returns:
        Its description.

    Raises:
        UserError: when the file is missing, altered or not JSON.
    """
    path = directory / "model.json"
    try:
        return read_checked_json(path, DescriptionJson)
    except FileNotFoundError:
        raise UserError(f"{path}: no model there; give a run's best, best_<pair> or last directory") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {REMEDY}") from None


def weights_identity(description: Mapping[str, Any]) -> str | None:
    """Returns what tells weights apart, also from their own export.

    Args:
        description: ``model.json``.

    Returns:
        SHA-256 of the weights' file, of an export that of the exported one; None where the description has none.
    """
    return description.get("exported", description.get("sha256"))


def _settings(directory: Path, description: Mapping[str, Any]) -> ModelSettings:
    """The model's shape; UserError where there can be no such model."""
    try:
        return ModelSettings(**description["model"])
    except (ValueError, TypeError) as error:
        fault = " ".join(str(error).split())[:200]
        raise UserError(f"{directory / 'model.json'}: no such model ({fault}); take another checkpoint") from None


def read_weights(directory: Path, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Reads a model directory's weights, verified.

    Args:
        directory: with ``model.safetensors`` and ``model.json``.
        names: of the weights that are read; None: all.

    Returns:
        Tensors on the CPU, by name.

    Raises:
        UserError: where a file is missing or altered, or a weight is not finite.
    """
    path = _verified_file(directory)
    parts = _parts(directory)

    def read(file: Any) -> dict[str, Tensor]:
        if parts is None:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
        stored = parts(file.keys())
        values = {
            name: [file.get_tensor(part) for part in stored[name]] for name in (stored if names is None else names)
        }
        return {name: each[0] if len(each) == 1 else torch.cat(each) for name, each in values.items()}

    return _finite(path, read)


def _parts(directory: Path) -> Callable[[Sequence[str]], dict[str, tuple[str, ...]]] | None:
    """Of an export: what of its file each of our weights consists of, by the names there; None: the names are ours."""
    description = describe_model(directory)
    if "names" not in description:
        return None
    settings = _settings(directory, description)
    return lambda present: m2m100_names(settings, present)


def read_elements(directory: Path, ranges: Ranges) -> dict[str, Tensor]:
    """Reads a part of a model directory's weights, verified: no more of the file than the rows that hold it.

    Args:
        directory: with ``model.safetensors`` and ``model.json``.
        ranges: of each weight that is read, the range of its flattened elements.

    Returns:
        One-dimensional tensors on the CPU, by name; shorter where a range ends beyond the weight.

    Raises:
        UserError: where a file is missing or altered, or an element that is read is not finite.
    """
    if _parts(directory) is not None:
        weights = read_weights(directory, list(ranges))
        return {name: weights[name].flatten()[slice(*ends)] for name, ends in ranges.items()}
    return _finite(
        _verified_file(directory), lambda file: {name: _elements(file, name, *ends) for name, ends in ranges.items()}
    )


def _elements(file: Any, name: str, start: int, stop: int) -> Tensor:
    rows, *rest = file.get_slice(name).get_shape()
    width = math.prod(rest)
    first, end = min(start // width, rows), min(-(-stop // width), rows)
    return file.get_slice(name)[first:end].flatten()[start - first * width : stop - first * width]


def _verified_file(directory: Path) -> Path:
    path, digest = directory / "model.safetensors", describe_model(directory).get("sha256")
    try:
        is_altered = digest is not None and first_altered({path: str(digest)}, directory.resolve()) is not None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from None
    if is_altered:
        raise UserError(f"{path}: was altered (its SHA-256 is not model.json's); {REMEDY}")
    return path


def read_plain_weights(directory: Path) -> dict[str, Tensor]:
    """Reads all weights of a model directory, verified: with what its run does not train, adapters merged.

    Args:
        directory: with ``model.safetensors`` and ``model.json``.

    Returns:
        Tensors on the CPU, by the plain model's names; adapted ones in float32.

    Raises:
        UserError: where a file is missing or altered, or a weight is not finite.
    """
    description = describe_model(directory)
    lora, state = _settings(directory, description).lora, read_weights(directory)
    if "frozen" in description:
        path = frozen_file(directory, description["frozen"])
        state |= _finite(path, lambda file: {name: file.get_tensor(name) for name in list(file.keys())})
    if lora is None:
        return state
    return {name: merged(value, name, state, lora) for name, value in state.items() if not is_adapter(name)}


def _finite(path: Path, read: Callable[[Any], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that are read of a file; UserError where it cannot be read or one is not finite."""
    try:
        with safe_open(path, "pt") as file:
            weights = read(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from None
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: NaN or Inf in {name}; {REMEDY}")
    return weights


def load_model(directory: Path, device: str | torch.device = "cpu") -> tuple[Transformer, dict[str, Any]]:
    """Loads the model of a directory.

    Args:
        directory: a model directory.
        device: where the model is to be; meta: without its weights.

    Returns:
        The model, in eval mode, its adapters merged; and its description.

    Raises:
        UserError: when a file is missing, altered or damaged, or does not hold finite weights of this architecture.
    """
    description = describe_model(directory)
    if str(device) == "meta":
        with torch.device("meta"):
            return Transformer(_settings(directory, description).plain(), description["vocabulary_size"]), description
    model = Transformer(_settings(directory, description).plain(), description["vocabulary_size"])
    load_state(model, read_plain_weights(directory), str(directory / "model.safetensors"))
    return model.to(device).eval(), description

"""Where an analysis lies: RUN/analysis/CHECKPOINT/TASK, sensitivities as safetensors, numbers as JSON.

Shape letters: L languages (or pairs), N parameters.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mnmt_ds.analysis.sensitivity import Sensitivity, flatten
from mnmt_ds.errors import UserError
from mnmt_ds.files import write_bytes, write_json

HASH = "sha256"
"""In a file's metadata: of the tensors' names, shapes and values."""


def analysis_directory(run: Path, checkpoint: str, task: str) -> Path:
    """Returns the directory of a checkpoint's analyses for a task.

    Args:
        run: the run's directory.
        checkpoint: such as ``best``.
        task: translation or cd.

    Returns:
        The directory.
    """
    return run / "analysis" / checkpoint / task


def write_sensitivity(directory: Path, name: str, values: Sensitivity) -> None:
    """Writes the sensitivities of one language (or pair), whole or not at all.

    Args:
        directory: from ``analysis_directory``.
        name: the language or pair.
        values: sensitivities by parameter.
    """
    tensors = {key: value.contiguous() for key, value in values.items()}
    write_bytes(directory / f"{name}.safetensors", save(tensors, {HASH: _hash_of(tensors)}))


def read_sensitivities(run: Path, checkpoint: str, task: str) -> tuple[list[str], Tensor, Sensitivity]:
    """Reads the sensitivities of all languages (or pairs).

    Args:
        run: the run's directory.
        checkpoint: such as ``best``.
        task: translation or cd.

    Returns:
        Names of the languages, their lists as (L, N), and one language's values in the parameters' shapes.

    Raises:
        UserError: where there are not two languages, a file cannot be read or was altered, or they are of different
            models.
    """
    directory = analysis_directory(run, checkpoint, task)
    paths = sorted(directory.glob("*.safetensors"))
    if len(paths) < 2:
        raise UserError(
            f"{directory}: no sensitivities of two languages; run mnmt-ds analyse sensitivity {run}"
            f" --checkpoint {checkpoint} --task {task} first"
        )
    lists, like = [], {}
    for path in paths:
        like = _load(path)
        lists.append(flatten(like))
    if len({len(values) for values in lists}) > 1:
        raise UserError(f"{directory}: made from different models; remove it and run mnmt-ds analyse sensitivity again")
    return [path.stem for path in paths], torch.stack(lists), like


def others_directory(run: Path, checkpoint: str, task: str) -> Path:
    """Returns the directory of the sensitivities on mixed batches of all languages but one.

    Args:
        run: the run's directory.
        checkpoint: such as ``best``.
        task: translation or cd.

    Returns:
        The directory; its files have the name of the language that is left out.
    """
    return analysis_directory(run, checkpoint, task) / "others"


def read_others(run: Path, checkpoint: str, task: str, names: Sequence[str]) -> Tensor:
    """Reads the sensitivities on mixed batches of all languages but one, for each of them.

    Args:
        run: the run's directory.
        checkpoint: such as ``best``.
        task: translation or cd.
        names: of the languages, as ``read_sensitivities`` gives them.

    Returns:
        (L, N).

    Raises:
        UserError: where there are none, or not of these languages.
    """
    directory = others_directory(run, checkpoint, task)
    missing = [name for name in names if not (directory / f"{name}.safetensors").exists()]
    if missing:
        raise UserError(
            f"{directory}: no sensitivities on mixed batches of all but {missing[0]}; run mnmt-ds analyse sensitivity"
            f" {run} --checkpoint {checkpoint} --task {task} again, or give --others mean"
        )
    return torch.stack([flatten(_load(directory / f"{name}.safetensors")) for name in names])


def write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """Writes the numbers beside a picture, whole or not at all.

    Args:
        path: a JSON file.
        numbers: what can be written as JSON.
    """
    write_json(path, numbers)


def _load(path: Path) -> Sensitivity:
    """Reads a file of sensitivities; UserError where that fails or it was altered."""
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get(HASH)
            values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run mnmt-ds analyse sensitivity again") from None
    if written is not None and written != _hash_of(values):
        raise UserError(f"{path}: altered since it was written; run mnmt-ds analyse sensitivity again")
    return values


def _hash_of(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()

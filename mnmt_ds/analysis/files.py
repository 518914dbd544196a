"""Where an analysis lies: RUN/analysis/CHECKPOINT/TASK, sensitivities as safetensors, numbers as JSON."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mnmt_ds.analysis.sensitivity import Sensitivity, flat
from mnmt_ds.errors import UserError


def place(run: Path, checkpoint: str, task: str) -> Path:
    """The directory of a checkpoint's analyses for a task (translation or cd)."""
    return run / "analysis" / checkpoint / task


def write_sensitivity(directory: Path, name: str, values: Sensitivity) -> None:
    """One language's (or pair's) sensitivities."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{name}.safetensors.tmp"
    save_file({key: value.contiguous() for key, value in values.items()}, temporary)
    os.replace(temporary, directory / f"{name}.safetensors")


def read_sensitivities(run: Path, checkpoint: str, task: str) -> tuple[list[str], Tensor, Sensitivity]:
    """Names of the languages, their lists as (L, N), and one of them in the parameters' shapes."""
    directory = place(run, checkpoint, task)
    paths = sorted(directory.glob("*.safetensors"))
    if len(paths) < 2:
        raise UserError(
            f"{directory}: no sensitivities of two languages; run mnmt-ds analyse sensitivity {run}"
            f" --checkpoint {checkpoint} --task {task} first"
        )
    lists, like = [], {}
    for path in paths:
        try:
            like = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({error}); run mnmt-ds analyse sensitivity again") from None
        lists.append(flat(like))
    if len({len(values) for values in lists}) > 1:
        raise UserError(f"{directory}: made from different models; remove it and run mnmt-ds analyse sensitivity again")
    return [path.stem for path in paths], torch.stack(lists), like


def write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """Numbers beside a picture, written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(numbers, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)

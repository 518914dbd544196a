"""DeepSpeed's JSON: "auto" filled from the recipe, every contradiction listed at once, the rest left alone."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from typing_extensions import TypedDict

from mnmt_ds.engine.settings import TrainSettings, batches_per_update
from mnmt_ds.errors import UserError
from mnmt_ds.json_files import read_json
from mnmt_ds.shipped_files import find_file

Json = dict[str, Any]


def read(path: Path) -> Json:
    """Reads a DeepSpeed configuration as it was written.

    Args:
        path: of the JSON file.

    Returns:
        Its values.

    Raises:
        UserError: where it cannot be read or is no JSON object.
    """
    try:
        return dict(read_json(find_file(path), _Shape))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); set 'deepspeed' to a file of ds_configs/"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; mend it") from None


class _Optimizer(TypedDict, total=False):
    params: Json


class _Zero(TypedDict, total=False):
    stage: Annotated[int, Field(ge=0, le=3)]
    offload_optimizer: Json
    offload_param: Json


class _Shape(TypedDict, total=False):
    """The sections that are looked into."""

    optimizer: _Optimizer
    zero_optimization: _Zero
    bf16: Json
    fp16: Json


def known_values(settings: TrainSettings, ranks: int) -> dict[str, Any]:
    """What the recipe decides.

    Args:
        settings: of the training.
        ranks: data-parallel ranks.

    Returns:
        Values by dotted DeepSpeed key.

    Raises:
        UserError: where an update's micro-batches cannot be shared by the ranks.
    """
    total = batches_per_update(settings, ranks)
    if total % ranks:
        raise UserError(
            f"train.batches_per_update: {total} cannot be shared by {ranks} ranks; use a multiple of {ranks}"
        )
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": total // ranks,
        "train_batch_size": total,
        "gradient_clipping": settings.clip_norm,
        "bf16.enabled": settings.precision == "bf16",
        "fp16.enabled": settings.precision == "fp16",
        "optimizer.params.lr": settings.lr,
        "optimizer.params.betas": list(settings.adam_betas),
        "optimizer.params.eps": settings.adam_eps,
        "optimizer.params.weight_decay": settings.weight_decay,
        "steps_per_print": 10**9,
    }


def resolve(config: Json, settings: TrainSettings, ranks: int, where: str) -> Json:
    """Fills every "auto" of a configuration from the recipe.

    Args:
        config: as written.
        settings: of the training.
        ranks: data-parallel ranks.
        where: the file's name, for errors.

    Returns:
        A new configuration.

    Raises:
        UserError: that lists all keys that contradict the recipe.
    """
    filled: Json = json.loads(json.dumps(config))
    faults: list[str] = []
    for dotted, value in known_values(settings, ranks).items():
        *parents, last = dotted.split(".")
        section = filled
        for parent in parents:
            section = section.setdefault(parent, {})
        given = section.get(last, "auto")
        if given == "auto":
            section[last] = value
        elif given != value and last != "steps_per_print":
            faults.append(f"{dotted} is {given!r} there and {value!r} by the recipe")
    for offload in ("offload_optimizer", "offload_param"):
        section = filled.get("zero_optimization", {}).get(offload, {})
        if section.get("pin_memory") == "auto":
            section["pin_memory"] = torch.cuda.is_available()
    faults += [f"{key} is 'auto' and no recipe key fills it" for key in _autos(filled, "")]
    if faults:
        raise UserError(f'{where}: {"; ".join(faults)}; write "auto" there and set the recipe alone')
    return filled


def zero_stage(config: Json) -> int:
    """The ZeRO stage of a configuration.

    Args:
        config: as written or resolved.

    Returns:
        0 to 3.
    """
    return int(config.get("zero_optimization", {}).get("stage", 0))


def dtype(config: Json) -> torch.dtype:
    """The type of weights and activations of a configuration.

    Args:
        config: resolved.

    Returns:
        float32, float16 or bfloat16.
    """
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return next((types[name] for name in types if config.get(name, {}).get("enabled")), torch.float32)


def _autos(section: Any, prefix: str) -> list[str]:
    """Dotted keys whose value is still "auto"."""
    if section == "auto":
        return [prefix]
    if isinstance(section, dict):
        return [dotted for key, value in section.items() for dotted in _autos(value, f"{prefix}.{key}".lstrip("."))]
    return []

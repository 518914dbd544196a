"""DeepSpeed's JSON: "auto" filled from the recipe, every contradiction listed at once, the rest left alone."""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from typing_extensions import TypedDict

from mnmt_ds.distributed import uses_gpu
from mnmt_ds.engine.parallel import ds_config_keys
from mnmt_ds.engine.settings import TrainSettings, batches_per_update
from mnmt_ds.errors import FaultList, UserError
from mnmt_ds.json_files import read_json
from mnmt_ds.shipped_files import find_file

Json = dict[str, Any]
SMALL_BUCKET = 50_000_000
"""Elements of a gradients' buffer that no other rank waits for, or that is reduced while the backward goes on."""


def read(path: Path) -> Json:
    """Reads a DeepSpeed configuration as it was written.

    Args:
        path: of the JSON file.

    Returns:
        Its values.

    Raises:
        UserError: where it cannot be read or is no JSON object; else lists all keys that cannot be used.
    """
    config = parse(path)
    check_keys(config, str(path))
    return config


def parse(path: Path) -> Json:
    """Reads a JSON file of the shape of a DeepSpeed configuration, whatever its keys.

    Args:
        path: of the file.

    Returns:
        Its values.

    Raises:
        UserError: where it cannot be read, or is no such JSON object.
    """
    try:
        config = dict(read_json(find_file(path), _ConfigJson))
        json.loads(find_file(path).read_bytes(), object_pairs_hook=_once)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); set 'deepspeed' to a file of ds_configs/"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; mend it") from None
    return config


def check_keys(config: Json, where: str) -> None:
    """Refuses keys that cannot be used, whatever the recipe says.

    Args:
        config: as written.
        where: the file's name, for errors.

    Raises:
        UserError: that lists them.
    """
    FaultList(f"{where}: {fault}" for fault in ds_config_keys.faults(config)).raise_any()


class _Optimizer(TypedDict, total=False):
    params: Json


class _Zero(TypedDict, total=False):
    stage: Annotated[int, Field(ge=0, le=3)]
    offload_optimizer: Json
    offload_param: Json


class _ConfigJson(TypedDict, total=False):
    """The sections that are looked into."""

    optimizer: _Optimizer
    zero_optimization: _Zero
    bf16: Json
    fp16: Json
    checkpoint: Json


def _once(pairs: list[tuple[str, Any]]) -> Json:
    """An object of the file; a key that stands twice in it is an error."""
    keys = [key for key, _ in pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ValueError(f"key {twice!r} stands twice in one object")
    return dict(pairs)


def known_values(settings: TrainSettings, ranks: int) -> dict[str, Any]:
    """Computes the values of DeepSpeed's configuration that the recipe decides.

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
    optimizer = filled.setdefault("optimizer", {})
    if "type" not in optimizer:
        optimizer |= {"type": "AdamW", "params": {"torch_adam": True, "fused": True, **optimizer.get("params", {})}}
    filled.setdefault("zero_allow_untested_optimizer", True)
    faults: list[str] = []
    for dotted, value in known_values(settings, ranks).items():
        *parents, last = dotted.split(".")
        section = filled
        for parent in parents:
            section = section.setdefault(parent, {})
        present_value = section.get(last, "auto")
        if present_value == "auto":
            section[last] = value
        elif present_value != value and last != "steps_per_print":
            fault = f"{where}: {dotted} is {present_value!r} there and {value!r} by the recipe"
            faults.append(f'{fault}; write "auto" there and set the recipe alone')
    if uses_gpu() and ranks > 1 and zero_stage(filled) in (1, 2):
        # else one reduction follows the whole backward: nearly all models fit in DeepSpeed's bucket of 5e8 numbers
        filled["zero_optimization"] = {"overlap_comm": True, "reduce_bucket_size": SMALL_BUCKET} | filled[
            "zero_optimization"
        ]
    for offload in ("offload_optimizer", "offload_param"):
        section = filled.get("zero_optimization", {}).get(offload, {})
        if section.get("pin_memory") == "auto":
            section["pin_memory"] = uses_gpu()
    faults += [f"{where}: {key} is 'auto' and no recipe key fills it; give a value" for key in _autos(filled, "")]
    FaultList(faults).raise_any()
    return filled


def resolve_alone(config: Json, where: str) -> Json:
    """Fills a configuration by the defaults of a recipe, whatever it says itself of what the recipe decides.

    Args:
        config: as written.
        where: the file's name, for errors.

    Returns:
        A new configuration, of which only what DeepSpeed's file alone decides counts.

    Raises:
        UserError: that lists all keys that are "auto" and which no recipe fills.
    """
    remaining: Json = json.loads(json.dumps(config))
    for dotted in known_values(TrainSettings(), 1):
        *parents, last = dotted.split(".")
        section = remaining
        for parent in parents:
            section = section.get(parent, {})
        section.pop(last, None)
    return resolve(remaining, TrainSettings(), 1, where)


def check_sections(config: Json, where: str) -> None:
    """Refuses keys that DeepSpeed's sections on ZeRO do not have.

    Args:
        config: as written or resolved.
        where: the file's name, for errors.

    Raises:
        UserError: that lists them.
    """
    from deepspeed.runtime.zero import config as zero
    from deepspeed.runtime.zero import offload_config as offload

    section = config.get("zero_optimization", {})
    subsections = {
        "zero_optimization": (section, zero.DeepSpeedZeroConfig),
        "zero_optimization.offload_param": (section.get("offload_param"), offload.DeepSpeedZeroOffloadParamConfig),
        "zero_optimization.offload_optimizer": (
            section.get("offload_optimizer"), offload.DeepSpeedZeroOffloadOptimizerConfig
        ),
    }  # fmt: skip
    unknown = FaultList()
    for name, (values, settings) in subsections.items():
        valid_keys = {field.alias or key for key, field in settings.model_fields.items()} | set(settings.model_fields)
        for key in values if isinstance(values, dict) else ():
            if key not in valid_keys:
                near = difflib.get_close_matches(key, valid_keys, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "leave it out"
                unknown.faults.append(f"{where}: {name}.{key}: DeepSpeed has no such key; {hint}")
    unknown.raise_any()


def check_by_deepspeed(config: Json, where: str) -> None:
    """Checks names and types of all sections by DeepSpeed's own code, before it is given a model.

    Args:
        config: without "auto".
        where: the file's name, for errors.

    Raises:
        UserError: lists keys that DeepSpeed does not know; else the first line of what it says.
    """
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    check_sections(config, where)
    try:
        # the product of batch sizes depends on the ranks, and is filled rightly
        DeepSpeedConfig({key: value for key, value in config.items() if key != "train_batch_size"})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {key}: {first['msg']} (DeepSpeed's {error.title}); mend that key") from None
    except (AssertionError, DeepSpeedConfigError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: DeepSpeed does not take it: {str(error).splitlines()[0]}; mend that key") from None


def check_device(config: Json) -> None:
    """Refuses a type that DeepSpeed does not take on this machine's device, such as fp16 on most processors.

    Args:
        config: resolved.

    Raises:
        UserError: names the device's own types.
    """
    from deepspeed.accelerator import get_accelerator

    device = get_accelerator()
    takes = {"fp16": device.is_fp16_supported, "bf16": device.is_bf16_supported}
    for name, is_supported in takes.items():
        if config.get(name, {}).get("enabled") and not is_supported():
            others = [other for other, supported in takes.items() if supported()]
            raise UserError(
                f"train.precision: {name} is not supported on this machine's {device.device_name()};"
                f" take {' or '.join([*others, 'fp32'])}, or another device"
            )


def zero_stage(config: Json) -> int:
    """Reads the ZeRO stage of a configuration.

    Args:
        config: as written or resolved.

    Returns:
        0 to 3.
    """
    return int(config.get("zero_optimization", {}).get("stage", 0))


def without_large_buckets(config: Json) -> Json:
    """Bounds the buffer that gradients are gathered in, where there is no other rank to reduce them with.

    Args:
        config: resolved.

    Returns:
        The same at ZeRO 0 and 3 and where the bucket's size is given; else with a small one: a gradient that is larger
        goes by without a copy.
    """
    zero = config.get("zero_optimization", {})
    if zero_stage(config) not in (1, 2) or "reduce_bucket_size" in zero:
        return config
    return {**config, "zero_optimization": {**zero, "reduce_bucket_size": SMALL_BUCKET}}


def without_throughput_timer(config: Json) -> Json:
    """Turns off DeepSpeed's throughput timer, which waits for the whole device twice a micro-batch.

    Tokens a second are measured by ``monitoring/meter.py``.

    Args:
        config: resolved.

    Returns:
        The same where it says itself what the timer does.
    """
    return {**config, "timers": {"throughput": {"enabled": False}, **config.get("timers", {})}}


def dtype(config: Json) -> torch.dtype:
    """Reads the dtype of weights and activations from a configuration.

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

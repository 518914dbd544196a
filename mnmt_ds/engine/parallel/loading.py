"""How both engines read a checkpoint, and how whole weights become a model."""

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds import private_apis
from mnmt_ds.errors import UserError
from mnmt_ds.models.layer_sequence import ModelChunk
from mnmt_ds.models.lora import merge_all
from mnmt_ds.models.transformer import Transformer

OPTIMIZER_OPTIONS = ("betas", "eps", "weight_decay")
"""What DeepSpeed would restore of the optimizer's options though the recipe may have changed it."""


def model_with(weights: dict[str, Tensor], like: Transformer | ModelChunk, device: torch.device) -> Transformer:
    """Builds a whole model on a device from given weights, and merges its adapters.

    Args:
        weights: all of them, by name.
        like: layers with the model's ``settings`` and ``vocabulary_size``.
        device: where it goes.

    Returns:
        The model.
    """
    model = Transformer(like.settings.plain(), like.vocabulary_size).to(device, next(iter(weights.values())).dtype)
    model.load_state_dict(merge_all(weights, like.settings.lora), strict=False)
    return model


def load_deepspeed_checkpoint(deepspeed_engine: Any, directory: Path, tag: str, universal: bool) -> bool:
    """Fills an engine from DeepSpeed's files; the optimizer's options and the clipping stay the recipe's.

    The files lack weights that are not trained: the engine has them from the beginning.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
        directory: of the checkpoint.
        tag: the folder in it.
        universal: the files are DeepSpeed's universal ones.

    Returns:
        Whether there was a checkpoint under that tag.

    Raises:
        UserError: where the files hold other objects than a checkpoint has.
    """
    optimizer = deepspeed_engine.optimizer
    options = [{key: group[key] for key in OPTIMIZER_OPTIONS} for group in optimizer.param_groups]
    mode = private_apis.universal_checkpoint(deepspeed_engine) if universal else nullcontext()
    with mode, weights_only(directory / tag):
        all_trained = all(parameter.requires_grad for parameter in deepspeed_engine.module.parameters())
        path, _ = deepspeed_engine.load_checkpoint(str(directory), tag=tag, load_module_strict=all_trained)
    for group, group_options in zip(optimizer.param_groups, options, strict=True):
        group.update(group_options)
    if hasattr(optimizer, "clip_grad"):
        optimizer.clip_grad = deepspeed_engine.gradient_clipping()
    return path is not None


@contextmanager
def weights_only(where: Path) -> Iterator[None]:
    """Restricts what DeepSpeed unpickles to tensors, plain values and classes of its own checkpoints.

    DeepSpeed asks ``torch.load`` for ``weights_only=False``; torch's own switch in the environment overrules it.

    Args:
        where: what is loaded, for the error.

    Returns:
        Nothing: a context manager.

    Raises:
        UserError: where a file asks for anything else; nothing of it is called.
    """
    switches = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")  # both would be refused
    before = {name: value for name in switches if (value := os.environ.pop(name, None)) is not None}
    os.environ[switches[0]] = "1"
    try:
        with torch.serialization.safe_globals(private_apis.checkpoint_globals()):  # type: ignore[no-untyped-call]
            yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        global_name = named[1] if named else "something unreadable"
        raise UserError(
            f"{where}: holds {global_name}, which no checkpoint has; it is not loaded: resume from another one"
        ) from None
    finally:
        del os.environ[switches[0]]
        os.environ.update(before)

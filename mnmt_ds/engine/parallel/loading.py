"""How both engines read a checkpoint, and how whole weights become a model."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds import private_apis
from mnmt_ds.models.layer_sequence import LayerSegment
from mnmt_ds.models.transformer import Transformer


def model_with(weights: dict[str, Tensor], like: Transformer | LayerSegment, device: torch.device) -> Transformer:
    """A whole model on a device.

    Args:
        weights: all of them, by name.
        like: layers with the model's ``settings`` and ``vocabulary_size``.
        device: where it goes.

    Returns:
        The model.
    """
    model = Transformer(like.settings, like.vocabulary_size).to(device, next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=False)
    return model


def load_deepspeed_checkpoint(deepspeed_engine: Any, directory: Path, tag: str, universal: bool) -> bool:
    """Fills an engine from DeepSpeed's files.

    Args:
        deepspeed_engine: a DeepSpeedEngine.
        directory: of the checkpoint.
        tag: the folder in it.
        universal: the files are DeepSpeed's universal ones.

    Returns:
        Whether there was a checkpoint under that tag.
    """
    with private_apis.universal_checkpoint(deepspeed_engine) if universal else nullcontext():
        path, _ = deepspeed_engine.load_checkpoint(str(directory), tag=tag)
    return path is not None

"""Which weights of a model are trained: what ``model.freeze`` and ``model.lora`` say of each name."""

from torch import nn

from mnmt_ds.models.lora import is_adapter
from mnmt_ds.models.settings import ModelSettings

VOCABULARY_WEIGHTS = ("embedding.weight", "source_embedding.weight", "head.weight", "encoder_projection.weight")
"""Weights with one row a word."""


def is_frozen(settings: ModelSettings, name: str) -> bool:
    """Returns whether a weight is not trained.

    Args:
        settings: the model's.
        name: of the weight in the plain model, or of an adapter.

    Returns:
        False where it is trained.
    """
    lora = settings.lora
    if name in VOCABULARY_WEIGHTS:
        return settings.freeze.embeddings if lora is None else not lora.embeddings
    if is_adapter(name):
        return False
    side, _, rest = name.partition(".")
    layer = int(rest.split(".")[0]) if side in ("encoder", "decoder") else -1
    return lora is not None or is_frozen_layer(settings, side.removesuffix("_norm"), layer)


def is_frozen_layer(settings: ModelSettings, side: str, layer: int) -> bool:
    """Returns whether ``model.freeze`` names a layer.

    Args:
        settings: the model's.
        side: encoder or decoder.
        layer: its number; -1: the last norm.

    Returns:
        Whether it is one of the frozen parts.
    """
    freeze = settings.freeze
    return bool(getattr(freeze, side)) or 0 <= layer < int(getattr(freeze, f"{side}_layers"))


def layer_settings(settings: ModelSettings, side: str, layer: int) -> ModelSettings:
    """Returns the settings that a layer is made by: a frozen one gets no adapters.

    Args:
        settings: the model's.
        side: encoder or decoder.
        layer: its number.

    Returns:
        The model's settings, or these without adapters.
    """
    if settings.lora is None or not is_frozen_layer(settings, side, layer):
        return settings
    return settings.model_copy(update={"lora": None})


def freeze(model: nn.Module, settings: ModelSettings) -> None:
    """Marks the frozen weights of a model, or of some of its layers, as not trained.

    Args:
        model: layers under the plain model's names.
        settings: the model's.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(settings, name))

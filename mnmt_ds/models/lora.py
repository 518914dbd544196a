"""Low-rank adapters (LoRA, Hu et al. 2022) in linear maps, with peft's names and values: W + alpha / rank B A.

Self-attention's q, k and v are one matrix here, cross-attention's k and v another: each of these parts has an adapter
of its own, as peft's are in M2M-100's separate maps.

Letters: P adapted parts of a matrix, R rank, I inputs, O outputs of a part.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnmt_ds.kernels.linear import Linear
from mnmt_ds.models.dropout import dropout
from mnmt_ds.models.settings import LoraSettings, ModelSettings

A, B = ".lora_A", ".lora_B"
"""Ends of the adapters' names; what stands before is the name of the map."""
PARTS = {
    "qkv": ("q_proj", "k_proj", "v_proj"), "kv": ("k_proj", "v_proj"), "q": ("q_proj",), "out": ("out_proj",),
    "inner": ("fc1",), "outer": ("fc2",),
}  # fmt: skip
"""Of each of our maps, by the last part of its name, M2M-100's maps that it consists of, stacked by rows."""


class LoraLinear(Linear):
    """A linear map with an adapter for some of its parts.

    Args:
        inputs: I.
        outputs: of all parts together.
        parts: names of the parts, which are equally large.
        lora: rank, scale, dropout and which parts are adapted; one of ``parts`` at least.
    """

    def __init__(self, inputs: int, outputs: int, parts: Sequence[str], lora: LoraSettings) -> None:
        super().__init__(inputs, outputs)
        self.adapted = adapted_parts(parts, lora)
        self.scale, self.rank, self.dropout = lora.alpha / lora.rank, lora.rank, lora.dropout
        self.size = outputs // len(parts)
        self.lora_A = nn.Parameter(torch.empty(len(self.adapted) * lora.rank, inputs))
        self.lora_B = nn.Parameter(torch.empty(len(self.adapted) * self.size, lora.rank))

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Applies map and adapters.

        Args:
            x: (..., I).
            relu: whether negative results become 0.

        Returns:
            (..., outputs).
        """
        y = super().forward(x)
        low = F.linear(dropout(x, self.dropout, self.training), self.lora_A)
        pairs = zip(low.split(self.rank, -1), self.lora_B.split(self.size), strict=True)
        for part, (low_R, up_OR) in zip(self.adapted, pairs, strict=True):
            y.narrow(-1, part * self.size, self.size).add_(F.linear(low_R, up_OR), alpha=self.scale)
        return F.relu(y, inplace=True) if relu else y


def linear(settings: ModelSettings, name: str, inputs: int, outputs: int) -> Linear:
    """Makes one of a layer's maps, with adapters where the settings ask for them.

    Args:
        settings: the layer's; see ``frozen.layer_settings``.
        name: of the map in its module, such as qkv.
        inputs: I.
        outputs: of the whole map.

    Returns:
        The map.
    """
    lora = settings.lora
    if lora is None or not adapted_parts(PARTS[name], lora):
        return Linear(inputs, outputs)
    return LoraLinear(inputs, outputs, PARTS[name], lora)


def adapted_parts(parts: Sequence[str], lora: LoraSettings) -> list[int]:
    """Lists which parts of a map have adapters.

    Args:
        parts: names of its parts.
        lora: the adapters.

    Returns:
        Their numbers.
    """
    return [number for number, part in enumerate(parts) if part in lora.targets]


def is_adapter(name: str) -> bool:
    """Returns whether a weight belongs to an adapter.

    Args:
        name: of a weight.

    Returns:
        Whether it is A or B of an adapter.
    """
    return name.endswith((A, B))


def initialise_adapter(name: str, weight: Tensor) -> None:
    """Draws A as peft does, uniformly within 1 / sqrt(I); B is 0.

    A's values are a function of its name and torch's seed: those of other weights, and of other layouts, are the same.

    Args:
        name: of the weight in the model.
        weight: A, (R, I), or B, (O, R); overwritten.
    """
    if name.endswith(B):
        nn.init.zeros_(weight)
        return
    generator = torch.Generator(weight.device).manual_seed(torch.initial_seed() ^ zlib.crc32(name.encode()))
    weight.uniform_(-1 / math.sqrt(weight.shape[1]), 1 / math.sqrt(weight.shape[1]), generator=generator)


def merged(weight: Tensor, name: str, adapters: Mapping[str, Tensor], lora: LoraSettings) -> Tensor:
    """Adds a map's adapters to its matrix.

    Args:
        weight: of the map, all its parts: (P O, I).
        name: of that weight, such as encoder.0.attention.qkv.weight.
        adapters: weights by name; those of other maps are passed over.
        lora: their rank and scale.

    Returns:
        The sum (P O, I) in float32; ``weight`` itself where the map has no adapter.
    """
    module, _, kind = name.rpartition(".")
    if kind != "weight" or module + A not in adapters:
        return weight
    parts = PARTS[module.rpartition(".")[2]]
    result = weight.float().clone()
    size = len(result) // len(parts)
    pairs = zip(adapters[module + A].float().split(lora.rank), adapters[module + B].float().split(size), strict=True)
    for part, (low_RI, up_OR) in zip(adapted_parts(parts, lora), pairs, strict=True):
        result[part * size : (part + 1) * size] += lora.alpha / lora.rank * (up_OR @ low_RI)
    return result


def merge_all(state: Mapping[str, Tensor], lora: LoraSettings | None) -> dict[str, Tensor]:
    """Merges all adapters of a model.

    Args:
        state: its weights by name.
        lora: its adapters; None: it has none.

    Returns:
        The weights of a plain model, in the types that they have.
    """
    if lora is None:
        return dict(state)
    plain = {name: value for name, value in state.items() if not is_adapter(name)}
    return {name: merged(value, name, state, lora).to(value.dtype) for name, value in plain.items()}

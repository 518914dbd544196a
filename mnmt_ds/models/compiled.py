"""The Transformer's layers as fewer, larger kernels: each layer is compiled whole by ``torch.compile``.

Lengths and numbers of sentences stay symbols, so that no batch compiles anew; layers of one kind share their code.
"""

import functools
from types import MethodType
from typing import Any

import torch
from torch import nn

from mnmt_ds.models.layers import DecoderLayer, EncoderLayer

BACKEND = "inductor"
"""Of ``torch.compile``."""
MOST_VARIANTS = 64
"""Of a kind of layer's code: with and without gradient, dropout, trained weights; one sentence or position."""


def compile_layers(module: nn.Module) -> None:
    """Makes a model's layers run compiled code, from their first pass on.

    A layer stays one module with its parameters and hooks: its ``forward`` alone is replaced, and its parts are called
    within it.

    Args:
        module: holds the layers, at any depth.
    """
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    for layer in module.modules():
        if isinstance(layer, EncoderLayer | DecoderLayer):
            layer.forward = MethodType(_compiled_forward(type(layer), BACKEND), layer)  # type: ignore[arg-type, method-assign]


@functools.cache
def _compiled_forward(kind: Any, backend: str) -> Any:
    return torch.compile(kind.forward, dynamic=True, fullgraph=True, backend=backend)

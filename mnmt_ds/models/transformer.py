"""The encoder-decoder Transformer as a plain list of layers.

Letters: B sentences, S source, T target positions, D width, V vocabulary.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mnmt_ds.batch import PAD
from mnmt_ds.models.frozen import layer_settings
from mnmt_ds.models.layers import (
    DecoderLayer,
    Embedding,
    EncoderLayer,
    OutputProjection,
    TiedOutputProjection,
    UntiedOutputProjection,
)
from mnmt_ds.models.lora import initialise_adapter, is_adapter
from mnmt_ds.models.settings import ModelSettings


class TransformerStates(NamedTuple):
    """Encoder and decoder states, before any projection to the vocabulary."""

    decoder_BTD: Tensor
    encoder_BSD: Tensor
    encoder_projection_VD: Tensor | None = None
    """The encoder's own output projection, where it has one and where a loss is taken."""


class Transformer(nn.Module):
    """M2M100's architecture (Fan et al. 2021); ``encode`` and ``decode`` give states, ``head`` owns the projection.

    Args:
        settings: the shape.
        vocabulary_size: V.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.embedding = Embedding(settings, vocabulary_size)
        untied = settings.share_embeddings != "all"
        self.source_embedding = Embedding(settings, vocabulary_size) if untied else self.embedding
        self.encoder = nn.ModuleList(
            [EncoderLayer(layer_settings(settings, "encoder", i)) for i in range(settings.encoder_layers)]
        )
        self.encoder_norm = nn.LayerNorm(settings.d_model)
        self.decoder = nn.ModuleList(
            [DecoderLayer(layer_settings(settings, "decoder", i)) for i in range(settings.decoder_layers)]
        )
        self.decoder_norm = nn.LayerNorm(settings.d_model)
        self.head = (
            UntiedOutputProjection(settings, vocabulary_size)
            if settings.share_embeddings == "none"
            else TiedOutputProjection(self.embedding)
        )
        own_projection = settings.encoder_projection == "own"
        self.encoder_projection = OutputProjection(settings, vocabulary_size) if own_projection else None

    def encode(self, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the encoder.

        Args:
            source_BS: int64, PAD on the right.

        Returns:
            Encoder states (B, S, D), and a bool mask (B, S) that is True where a token stands.
        """
        mask_BS = source_BS != PAD
        x_BSD = self.source_embedding(source_BS)
        for layer in self.encoder:
            x_BSD = self._run(layer, x_BSD, mask_BS)
        return self.encoder_norm(x_BSD), mask_BS

    def decode(self, decoder_BT: Tensor, memory_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Runs the decoder on a whole target prefix at once.

        Args:
            decoder_BT: int64, decoder input.
            memory_BSD: encoder states.
            mask_BS: bool, True where a source token stands.

        Returns:
            Decoder states (B, T, D).
        """
        x_BTD = self.embedding(decoder_BT)
        for layer in self.decoder:
            x_BTD = self._run(layer, x_BTD, memory_BSD, mask_BS)
        return self.decoder_norm(x_BTD)

    def forward(self, source_BS: Tensor, decoder_BT: Tensor, passes: int = 1) -> TransformerStates:
        """Runs encoder and decoder.

        Args:
            source_BS: int64, PAD on the right.
            decoder_BT: int64, decoder input.
            passes: above 1: the rows are so many stacked copies, which all decode the first copy's encoder states.

        Returns:
            The states of both.
        """
        memory_BSD, mask_BS = self.encode(source_BS)
        sentences = len(memory_BSD) // passes
        shared_BSD = memory_BSD if passes == 1 else memory_BSD[:sentences].repeat(passes, 1, 1)
        return TransformerStates(self.decode(decoder_BT, shared_BSD, mask_BS), memory_BSD)

    def _run(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        """Runs a layer, with activation checkpointing where the settings say so."""
        if self.settings.activation_checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def initialise(model: Transformer) -> Transformer:
    """Draws initial weights as fairseq does.

    Embeddings are N(0, 1/sqrt(D)), maps Xavier uniform (those to q, k and v with gain 1/sqrt(2)), biases zero.

    Args:
        model: its weights are overwritten.

    Returns:
        The model.
    """
    for name, parameter in model.named_parameters():
        initialise_parameter(name, parameter.data, model.settings.d_model)
    return model


def initialise_parameter(name: str, weight: Tensor, width: int) -> None:
    """Draws the initial values of one weight; a norm's are left as they are.

    Args:
        name: the parameter's name in the model; it decides the distribution.
        weight: overwritten.
        width: D.
    """
    if is_adapter(name):
        initialise_adapter(name, weight)
    elif name.endswith(("embedding.weight", "encoder_projection.weight", "head.weight")):
        nn.init.normal_(weight, std=width**-0.5)
        weight[PAD].zero_()
    elif weight.dim() == 2:
        gain = 1 / math.sqrt(2) if name.endswith(("qkv.weight", "cross.q.weight", "kv.weight")) else 1.0
        for matrix in weight.split(width) if gain < 1 else (weight,):
            nn.init.xavier_uniform_(matrix, gain=gain)
    elif name.endswith("bias"):
        nn.init.zeros_(weight)


def parameter_count(model: nn.Module) -> int:
    """Counts distinct parameters.

    Args:
        model: any module.

    Returns:
        Numbers in all parameters; a tied matrix counts once.
    """
    return sum(parameter.numel() for parameter in model.parameters())

"""The encoder-decoder Transformer as a plain list of layers."""

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mnmt_ds.batch import PAD
from mnmt_ds.models.layers import DecoderLayer, Embedding, EncoderLayer, Head, Projection
from mnmt_ds.models.settings import ModelSettings


class TransformerStates(NamedTuple):
    """What the network computes before any projection to the vocabulary."""

    decoder_BTD: Tensor
    encoder_BSD: Tensor
    encoder_projection_VD: Tensor | None = None
    """The encoder's own output projection, where it has one and where a loss is taken."""


class Transformer(nn.Module):
    """M2M100's architecture (Fan et al. 2021); shapes from ``ModelSettings``.

    ``encode`` and ``decode`` give states; ``head`` owns the tied output projection.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.embedding = Embedding(settings, vocabulary_size)
        own = settings.share_embeddings == "decoder"
        self.source_embedding = Embedding(settings, vocabulary_size) if own else self.embedding
        self.encoder = nn.ModuleList([EncoderLayer(settings) for _ in range(settings.encoder_layers)])
        self.encoder_norm = nn.LayerNorm(settings.d_model)
        self.decoder = nn.ModuleList([DecoderLayer(settings) for _ in range(settings.decoder_layers)])
        self.decoder_norm = nn.LayerNorm(settings.d_model)
        self.head = Head(self.embedding)
        own_projection = settings.encoder_projection == "own"
        self.encoder_projection = Projection(settings, vocabulary_size) if own_projection else None

    def encode(self, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states (B, S, D) and the mask (B, S), True where a token stands."""
        mask_BS = source_BS != PAD
        x_BSD = self.source_embedding(source_BS)
        for layer in self.encoder:
            x_BSD = self._run(layer, x_BSD, mask_BS)
        return self.encoder_norm(x_BSD), mask_BS

    def decode(self, decoder_BT: Tensor, memory_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Decoder states (B, T, D) for a whole target prefix at once."""
        x_BTD = self.embedding(decoder_BT)
        for layer in self.decoder:
            x_BTD = self._run(layer, x_BTD, memory_BSD, mask_BS)
        return self.decoder_norm(x_BTD)

    def forward(self, source_BS: Tensor, decoder_BT: Tensor, passes: int = 1) -> TransformerStates:
        """``passes`` above 1: of so many stacked copies of the rows, all decode the first copy's encoder states."""
        memory_BSD, mask_BS = self.encode(source_BS)
        first = len(memory_BSD) // passes
        shared_BSD = memory_BSD if passes == 1 else memory_BSD[:first].repeat(passes, 1, 1)
        return TransformerStates(self.decode(decoder_BT, shared_BSD, mask_BS), memory_BSD)

    def _run(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        if self.settings.activation_checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def initialise(model: Transformer) -> Transformer:
    """Initial weights as fairseq's: embeddings N(0, 1/sqrt(D)), Xavier maps (q, k, v by 1/sqrt(2)), zero biases."""
    for name, parameter in model.named_parameters():
        initialise_parameter(name, parameter.data, model.settings.d_model)
    return model


def initialise_parameter(name: str, weight: Tensor, width: int) -> None:
    """The initial values of one weight; a norm's are left as they are."""
    if name.endswith(("embedding.weight", "encoder_projection.weight")):
        nn.init.normal_(weight, std=width**-0.5)
        weight[PAD].zero_()
    elif weight.dim() == 2:
        gain = 1 / math.sqrt(2) if name.endswith(("qkv.weight", "cross.q.weight", "kv.weight")) else 1.0
        for part in weight.split(width) if gain < 1 else (weight,):
            nn.init.xavier_uniform_(part, gain=gain)
    elif name.endswith("bias"):
        nn.init.zeros_(weight)


def parameter_count(model: nn.Module) -> int:
    """Distinct parameters (a tied matrix counts once)."""
    return sum(parameter.numel() for parameter in model.parameters())

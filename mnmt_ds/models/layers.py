"""The layers of M2M100's Transformer: pre-norm, ReLU, sinusoidal positions, scaled embeddings.

Letters: B sentences, S source, T target positions, L source or target positions, D width, H heads,
Q = D / H the width of one head, V vocabulary.
Self-attention's three projections are one matrix here (q, k, v in that order), cross-attention's k and v another.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnmt_ds.models.dropout import dropout
from mnmt_ds.models.lora import linear
from mnmt_ds.models.row_gradients import RowGradients
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.vocab_parallel import VocabParallelModule, vocab_parallel_embedding

FIRST_POSITION = 2
"""M2M100 counts positions from padding index + 1 = 2."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, H, length, Q)."""

Result = TypeVar("Result")
"""What a loss returns."""


def sinusoids(count: int, width: int) -> Tensor:
    """Makes M2M100's position table: sines in the first half of the columns, cosines in the second.

    Args:
        count: positions.
        width: D, even.

    Returns:
        float32, (count, width).
    """
    half = width // 2
    rate = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / max(half - 1, 1)))
    angle = torch.arange(FIRST_POSITION, FIRST_POSITION + count, dtype=torch.float32)[:, None] * rate[None]
    return torch.cat([angle.sin(), angle.cos()], 1)


class Embedding(VocabParallelModule):
    """Embeds tokens: rows of a matrix (scaled by sqrt(D), unless the settings say no) plus sinusoids, then dropout.

    Args:
        settings: the model's shape.
        vocabulary_size: V.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary_size, settings.d_model))
        self.scale = math.sqrt(settings.d_model) if settings.scale_embedding else 1.0
        self.dropout = settings.dropout
        self.row_gradients: RowGradients | None = None
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(settings.max_positions, settings.d_model), persistent=False)

    def forward(self, token_BT: Tensor, offset: int = 0) -> Tensor:
        """Embeds tokens.

        Args:
            token_BT: int64.
            offset: position of the first column, counted from 0.

        Returns:
            (B, T, D).
        """
        position_TD = self.positions[offset : offset + token_BT.shape[1]]
        if self.vocab_shard is not None:
            x_BTD = vocab_parallel_embedding(token_BT, self.weight, self.vocab_shard)
        elif self.row_gradients is not None:
            x_BTD = self.row_gradients.lookup(token_BT, self.weight)
        else:
            x_BTD = F.embedding(token_BT, self.weight)
        x_BTD = torch.add(position_TD.to(self.weight.dtype), x_BTD, alpha=self.scale)
        return dropout(x_BTD, self.dropout, self.training)


class TiedOutputProjection(VocabParallelModule):
    """The output projection, tied to an embedding. A loss that works from hidden states runs inside its forward.

    Under ZeRO-3 a parameter is whole only within the forward of a module that owns it; so the loss, which needs
    the projection itself and not the logits, is handed in as ``loss(hidden_BTD, projection_VD)``.

    Args:
        embedding: whose weight is used.
    """

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.row_gradients: RowGradients | None = None

    def forward(self, hidden_BTD: Tensor, loss: Callable[[Tensor, Tensor], Result] | None = None) -> Result | Tensor:
        """Applies a loss to the hidden states and the projection, or the projection alone.

        Args:
            hidden_BTD: decoder states.
            loss: called with the states and the (V, D) projection; None: logits are wanted.

        Returns:
            What the loss returns, or logits (B, T, V).
        """
        weight_VD = self.weight if self.row_gradients is None else self.row_gradients.projection(self.weight)
        return loss(hidden_BTD, weight_VD) if loss is not None else F.linear(hidden_BTD, weight_VD)


class UntiedOutputProjection(TiedOutputProjection):
    """An output projection that is tied to nothing; used as ``TiedOutputProjection`` is.

    Args:
        settings: the model's shape.
        vocabulary_size: V.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        VocabParallelModule.__init__(self)
        self.weight = nn.Parameter(torch.empty(vocabulary_size, settings.d_model))
        self.row_gradients = None


class OutputProjection(VocabParallelModule):
    """The encoder's own output projection; a loss gets it as it gets that of ``TiedOutputProjection``.

    Args:
        settings: the model's shape.
        vocabulary_size: V.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary_size, settings.d_model))

    def forward(self, loss: Callable[[Tensor], Result]) -> Result:
        """Applies a loss to the projection.

        Args:
            loss: called with the (V, D) projection.

        Returns:
            What it returns.
        """
        return loss(self.weight)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself.

    Args:
        settings: the model's shape.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.dropout = settings.attention_dropout
        self.qkv = linear(settings, "qkv", settings.d_model, 3 * settings.d_model)
        self.out = linear(settings, "out", settings.d_model, settings.d_model)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projects states to queries, keys and values.

        Args:
            x_BTD: states.

        Returns:
            Queries, keys, values, each (B, H, T, Q).
        """
        q, k, v = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x_BTD: Tensor, mask_BS: Tensor | None, causal: bool) -> Tensor:
        """Attends to the sequence itself.

        Args:
            x_BTD: states.
            mask_BS: bool, True where a key may be seen (S = T here); None: everywhere.
            causal: whether a position sees itself and earlier ones alone.

        Returns:
            (B, T, D).
        """
        q, k, v = self.project(x_BTD)
        return self.out(attend(q, k, v, mask_BS, self.dropout if self.training else 0.0, causal))


class CrossAttention(nn.Module):
    """Multi-head attention of the decoder to the encoder's states.

    Args:
        settings: the model's shape.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.dropout = settings.attention_dropout
        self.q = linear(settings, "q", settings.d_model, settings.d_model)
        self.kv = linear(settings, "kv", settings.d_model, 2 * settings.d_model)
        self.out = linear(settings, "out", settings.d_model, settings.d_model)

    def project_memory(self, memory_BSD: Tensor) -> KeysValues:
        """Projects the encoder's states to keys and values.

        Args:
            memory_BSD: encoder states.

        Returns:
            Keys and values, each (B, H, S, Q).
        """
        k, v = self.kv(memory_BSD).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x_BTD: Tensor, memory: KeysValues, mask_BS: Tensor | None) -> Tensor:
        """Attends to the encoder's states.

        Args:
            x_BTD: decoder states.
            memory: keys and values of the encoder's states, as from ``project_memory``.
            mask_BS: bool, True where a source token stands; None: everywhere.

        Returns:
            (B, T, D).
        """
        q = self.q(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.out(attend(q, *memory, mask_BS, self.dropout if self.training else 0.0, causal=False))


def attend(
    q_BHTQ: Tensor, k_BHSQ: Tensor, v_BHSQ: Tensor, mask_BS: Tensor | None, dropout: float, causal: bool
) -> Tensor:
    """Computes scaled dot-product attention, softmax(q k' / sqrt(Q)) v, and merges the heads.

    Args:
        q_BHTQ: queries.
        k_BHSQ: keys.
        v_BHSQ: values.
        mask_BS: bool, True where a key may be seen; None: everywhere.
        dropout: probability on attention weights.
        causal: whether a position sees itself and earlier ones alone.

    Returns:
        (B, T, D).
    """
    mask = mask_BS[:, None, None, :] if mask_BS is not None else None
    mixed = F.scaled_dot_product_attention(q_BHTQ, k_BHSQ, v_BHSQ, attn_mask=mask, dropout_p=dropout, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between.

    Args:
        settings: the model's shape.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.dropout = settings.activation_dropout
        self.inner = linear(settings, "inner", settings.d_model, settings.ffn)
        self.outer = linear(settings, "outer", settings.ffn, settings.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Applies both linear maps, with ReLU and dropout between.

        Args:
            x_BTD: states.

        Returns:
            (B, T, D).
        """
        return self.outer(dropout(self.inner(x_BTD, relu=True), self.dropout, self.training))


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: x + attention(norm(x)), then x + feed-forward(norm(x)).

    Args:
        settings: the model's shape.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.dropout = settings.dropout
        self.attention_norm = nn.LayerNorm(settings.d_model)
        self.attention = SelfAttention(settings)
        self.ffn_norm = nn.LayerNorm(settings.d_model)
        self.ffn = FeedForward(settings)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x_BSD: states.
            mask_BS: bool, True where a token stands.

        Returns:
            (B, S, D).
        """
        x_BSD = x_BSD + self._drop(self.attention(self.attention_norm(x_BSD), mask_BS, causal=False))
        return x_BSD + self._drop(self.ffn(self.ffn_norm(x_BSD)))

    def _drop(self, x_BLD: Tensor) -> Tensor:
        return dropout(x_BLD, self.dropout, self.training)


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: the encoder's, with cross-attention between; targets are padded on the right.

    Args:
        settings: the model's shape.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.dropout = settings.dropout
        self.attention_norm = nn.LayerNorm(settings.d_model)
        self.attention = SelfAttention(settings)
        self.cross_norm = nn.LayerNorm(settings.d_model)
        self.cross = CrossAttention(settings)
        self.ffn_norm = nn.LayerNorm(settings.d_model)
        self.ffn = FeedForward(settings)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x_BTD: states.
            memory_BSD: encoder states.
            mask_BS: bool, True where a source token stands.

        Returns:
            (B, T, D).
        """
        x_BTD = x_BTD + self._drop(self.attention(self.attention_norm(x_BTD), None, causal=True))
        memory = self.cross.project_memory(memory_BSD)
        x_BTD = x_BTD + self._drop(self.cross(self.cross_norm(x_BTD), memory, mask_BS))
        return x_BTD + self._drop(self.ffn(self.ffn_norm(x_BTD)))

    def _drop(self, x_BLD: Tensor) -> Tensor:
        return dropout(x_BLD, self.dropout, self.training)

"""The layers of M2M100's Transformer: pre-norm, ReLU, sinusoidal positions, scaled embeddings.

Shape letters: B sentences, S source, T target positions, D width, H heads, V vocabulary.
Self-attention's three projections are one matrix here (q, k, v in that order), cross-attention's k and v another.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnmt_ds.models.dropout import dropout
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.vocab_parallel import VocabShard, vocab_parallel_embedding

FIRST_POSITION = 2
"""M2M100 counts positions from padding index + 1 = 2."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, H, length, D / H)."""


def sinusoids(count: int, width: int) -> Tensor:
    """Position table (count, width): sines in the first half of the columns, cosines in the second (M2M100)."""
    half = width // 2
    rate = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / max(half - 1, 1)))
    angle = torch.arange(FIRST_POSITION, FIRST_POSITION + count, dtype=torch.float32)[:, None] * rate[None]
    return torch.cat([angle.sin(), angle.cos()], 1)


class Embedding(nn.Module):
    """Tokens to vectors: sqrt(D)-scaled embedding plus sinusoidal position, then dropout."""

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary_size, settings.d_model))
        self.scale = math.sqrt(settings.d_model)
        self.dropout = settings.dropout
        self.words: VocabShard | None = None
        """Which words the weight's rows are; None: all."""
        self.register_buffer("positions", sinusoids(settings.max_positions, settings.d_model), persistent=False)

    def forward(self, token_BT: Tensor, offset: int = 0) -> Tensor:
        position_TD = self.positions[offset : offset + token_BT.shape[1]]
        x_BTD = (
            F.embedding(token_BT, self.weight)
            if self.words is None
            else vocab_parallel_embedding(token_BT, self.weight, self.words)
        )
        x_BTD = torch.add(position_TD.to(self.weight.dtype), x_BTD, alpha=self.scale)
        return dropout(x_BTD, self.dropout, self.training)


class Head(nn.Module):
    """The output projection, tied to an embedding. A loss that works from hidden states runs inside its forward.

    Under ZeRO-3 a parameter is whole only within the forward of a module that owns it; so the loss, which needs
    the projection itself and not the logits, is handed in as ``score(hidden_BTD, projection_VD)``.
    """

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.words: VocabShard | None = None

    def forward(self, hidden_BTD: Tensor, score: Callable[[Tensor, Tensor], Any] | None = None) -> Any:
        return score(hidden_BTD, self.weight) if score is not None else F.linear(hidden_BTD, self.weight)


class Projection(nn.Module):
    """An output projection of its own; it is handed to a loss as ``Head``'s is."""

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary_size, settings.d_model))
        self.words: VocabShard | None = None

    def forward(self, score: Callable[[Tensor], Any]) -> Any:
        return score(self.weight)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.dropout = settings.attention_dropout
        self.qkv = nn.Linear(settings.d_model, 3 * settings.d_model)
        self.out = nn.Linear(settings.d_model, settings.d_model)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each (B, H, T, D / H)."""
        q, k, v = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x_BTD: Tensor, mask_BS: Tensor | None, causal: bool) -> Tensor:
        q, k, v = self.project(x_BTD)
        return self.out(attend(q, k, v, mask_BS, self.dropout if self.training else 0.0, causal))


class CrossAttention(nn.Module):
    """Multi-head attention of the decoder to the encoder's states."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.dropout = settings.attention_dropout
        self.q = nn.Linear(settings.d_model, settings.d_model)
        self.kv = nn.Linear(settings.d_model, 2 * settings.d_model)
        self.out = nn.Linear(settings.d_model, settings.d_model)

    def project_memory(self, memory_BSD: Tensor) -> KeysValues:
        """Keys and values of the encoder's states, each (B, H, S, D / H)."""
        k, v = self.kv(memory_BSD).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x_BTD: Tensor, memory: KeysValues, mask_BS: Tensor | None) -> Tensor:
        q = self.q(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.out(attend(q, *memory, mask_BS, self.dropout if self.training else 0.0, causal=False))


def attend(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask_BS: Tensor | None, dropout: float, causal: bool
) -> Tensor:
    """Scaled dot-product attention, heads merged: (B, T, D). ``mask_BS`` is True where a key may be seen."""
    mask = mask_BS[:, None, None, :] if mask_BS is not None else None
    mixed = F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=dropout, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.dropout = settings.activation_dropout
        self.inner = nn.Linear(settings.d_model, settings.ffn)
        self.outer = nn.Linear(settings.ffn, settings.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.outer(dropout(F.relu(self.inner(x_BTD), inplace=True), self.dropout, self.training))


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.dropout = settings.dropout
        self.attention_norm = nn.LayerNorm(settings.d_model)
        self.attention = SelfAttention(settings)
        self.ffn_norm = nn.LayerNorm(settings.d_model)
        self.ffn = FeedForward(settings)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        x_BSD = x_BSD + self._drop(self.attention(self.attention_norm(x_BSD), mask_BS, causal=False))
        return x_BSD + self._drop(self.ffn(self.ffn_norm(x_BSD)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class DecoderLayer(nn.Module):
    """As the encoder's, with cross-attention between; target padding needs no mask, since it stands on the right."""

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
        x_BTD = x_BTD + self._drop(self.attention(self.attention_norm(x_BTD), None, causal=True))
        memory = self.cross.project_memory(memory_BSD)
        x_BTD = x_BTD + self._drop(self.cross(self.cross_norm(x_BTD), memory, mask_BS))
        return x_BTD + self._drop(self.ffn(self.ffn_norm(x_BTD)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

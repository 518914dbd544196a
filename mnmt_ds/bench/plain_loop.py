"""The baseline of ``bench throughput``: the same model shape and recipe in plain PyTorch, as anyone would write it.

Letters: B sentences, S source tokens, T target tokens, D width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.models.layers import sinusoids
from mnmt_ds.models.settings import ModelSettings


class PlainTransformer(nn.Module):
    """Baseline model: torch.nn.Transformer, pre-norm, with one tied embedding."""

    positions: Tensor
    """Sinusoids, (positions, D)."""

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        """Makes the model with random weights.

        Args:
            settings: the model's shape.
            vocabulary_size: V.
        """
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, settings.d_model, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=settings.d_model**-0.5)
        self.transformer = nn.Transformer(
            settings.d_model, settings.heads, settings.encoder_layers, settings.decoder_layers, settings.ffn,
            settings.dropout, batch_first=True, norm_first=True,
        )  # fmt: skip
        self.dropout = nn.Dropout(settings.dropout)
        self.register_buffer("positions", sinusoids(settings.max_positions, settings.d_model))

    def forward(self, source_BS: Tensor, decoder_BT: Tensor) -> Tensor:
        """Runs the model.

        Args:
            source_BS: source tokens.
            decoder_BT: the decoder's input tokens.

        Returns:
            Logits (B, T, V).
        """
        padding_BS = source_BS == PAD
        causal_TT = nn.Transformer.generate_square_subsequent_mask(decoder_BT.shape[1], source_BS.device)
        hidden_BTD = self.transformer(
            self._embed(source_BS),
            self._embed(decoder_BT),
            tgt_mask=causal_TT,
            tgt_is_causal=True,
            src_key_padding_mask=padding_BS,
            memory_key_padding_mask=padding_BS,
        )
        return F.linear(hidden_BTD, self.embedding.weight)

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        return self.dropout(x + self.positions[: tokens.shape[1]])


def make(
    settings: ModelSettings, train: TrainSettings, vocabulary_size: int, device: torch.device
) -> Callable[[Batch], None]:
    """Makes a model, and a function that trains it.

    Args:
        settings: the model's shape.
        train: seed, Adam's settings, label smoothing, clipping, precision (bf16 and fp16: autocast).
        vocabulary_size: V.
        device: where the model is.

    Returns:
        Takes one training step on a batch.
    """
    torch.manual_seed(train.seed)
    model = PlainTransformer(settings, vocabulary_size).to(device)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-4, betas=train.adam_betas, eps=train.adam_eps, fused=device.type == "cuda" or None
    )
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(train.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, half, enabled=half is not None):
            logits_BTV = model(batch.source_BS, batch.decoder_BT)
            loss = F.cross_entropy(
                logits_BTV.flatten(0, 1), batch.target_BT.flatten(), ignore_index=PAD,
                label_smoothing=train.label_smoothing,
            )  # fmt: skip
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if train.clip_norm > 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step

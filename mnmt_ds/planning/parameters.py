"""Parameters of a model, counted from its shape (D width, F feed-forward width, V vocabulary)."""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.models.layer_sequence import LayerEntry
from mnmt_ds.models.settings import ModelSettings


class Parameters(NamedTuple):
    """Numbers of parameters."""

    embeddings: int
    """All matrices with a row a word; a tied one once."""
    encoder_layer: int
    decoder_layer: int
    encoder_layers: int
    decoder_layers: int
    final_norms: int

    @property
    def total(self) -> int:
        """Of the whole model."""
        layers = self.encoder_layers * self.encoder_layer + self.decoder_layers * self.decoder_layer
        return self.embeddings + layers + self.final_norms

    @property
    def largest_layer(self) -> int:
        """Of the largest part that ZeRO-3 gathers at once."""
        return max(self.embeddings, self.encoder_layer, self.decoder_layer)


def parameters(m: ModelSettings, vocabulary: int) -> Parameters:
    """Matrices with a row a word: V D each. Attention: 4 D (D + 1). Feed-forward: 2 D F + F + D. A norm: 2 D."""
    d, f = m.d_model, m.ffn
    matrices = 1 + (m.share_embeddings == "decoder") + (m.encoder_projection == "own")
    attention, ffn, norm = 4 * d * (d + 1), 2 * d * f + f + d, 2 * d
    return Parameters(
        embeddings=matrices * vocabulary * d,
        encoder_layer=attention + ffn + 2 * norm,
        decoder_layer=2 * attention + ffn + 3 * norm,
        encoder_layers=m.encoder_layers,
        decoder_layers=m.decoder_layers,
        final_norms=2 * norm,
    )


def of_places(m: ModelSettings, vocabulary: int, row: Sequence[LayerEntry]) -> int:
    """Of some places of a model's row (models/layer_sequence.py); a matrix at several of them counts once."""
    n = parameters(m, vocabulary)
    matrix, norm = vocabulary * m.d_model, n.final_norms // 2
    sizes = {"encoder": n.encoder_layer, "decoder": n.decoder_layer, "encoder_norm": norm, "decoder_norm": norm}
    return sum({part.name: sizes.get(part.kind, matrix) for part in row}.values())

"""Parameters of a model, counted from its shape.

Letters: D width, F feed-forward width, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mnmt_ds.models.frozen import is_frozen
from mnmt_ds.models.layer_sequence import LayerEntry
from mnmt_ds.models.settings import ModelSettings


class ParameterCounts(NamedTuple):
    """Parameter counts of the parts of a model."""

    embeddings: int
    """All matrices with a row a word; a tied one once."""
    encoder_layer: int
    """One encoder layer."""
    decoder_layer: int
    """One decoder layer."""
    encoder_layers: int
    """How many encoder layers there are."""
    decoder_layers: int
    """How many decoder layers there are."""
    final_norms: int
    """The norms after the last encoder and decoder layer together."""

    @property
    def total(self) -> int:
        """Parameters of the whole model."""
        layers = self.encoder_layers * self.encoder_layer + self.decoder_layers * self.decoder_layer
        return self.embeddings + layers + self.final_norms


def count_parameters(m: ModelSettings, vocabulary: int) -> ParameterCounts:
    """Counts a model's parameters.

    Matrices with a row a word: V D each. Attention: 4 D (D + 1). Feed-forward: 2 D F + F + D. A norm: 2 D.

    Args:
        m: the model.
        vocabulary: V.

    Returns:
        Its parameters by part.
    """
    d, f = m.d_model, m.ffn
    matrices = {"all": 1, "decoder": 2, "none": 3}[m.share_embeddings] + (m.encoder_projection == "own")
    attention, ffn, norm = 4 * d * (d + 1), 2 * d * f + f + d, 2 * d
    return ParameterCounts(
        embeddings=matrices * vocabulary * d,
        encoder_layer=attention + ffn + 2 * norm,
        decoder_layer=2 * attention + ffn + 3 * norm,
        encoder_layers=m.encoder_layers,
        decoder_layers=m.decoder_layers,
        final_norms=2 * norm,
    )


def parameters_of_entries(m: ModelSettings, vocabulary: int, entries: Sequence[LayerEntry]) -> int:
    """Counts the parameters of a part of a model.

    Args:
        m: the model.
        vocabulary: V.
        entries: entries of its layer sequence (models/layer_sequence.py); a matrix at several of them counts once.

    Returns:
        Parameters of these entries.
    """
    n = count_parameters(m, vocabulary)
    matrix, norm = vocabulary * m.d_model, n.final_norms // 2
    sizes = {"encoder": n.encoder_layer, "decoder": n.decoder_layer, "encoder_norm": norm, "decoder_norm": norm}
    return sum({entry.name: sizes.get(entry.kind, matrix) for entry in entries}.values())


def trained_parameters(m: ModelSettings, entries: Sequence[LayerEntry]) -> tuple[int, int]:
    """Counts the parameters of a part of a model with frozen parts or adapters.

    Args:
        m: the model.
        entries: entries of its layer sequence; a matrix at several of them counts once.

    Returns:
        All parameters, adapters included, and those that are trained.
    """
    with torch.device("meta"):
        layers = {entry.name: dict(entry.make().named_parameters()) for entry in entries}
    sizes = {f"{layer}.{name}": value.numel() for layer, named in layers.items() for name, value in named.items()}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if not is_frozen(m, name))

"""The Transformer's layers in a sequence, and a chunk of it: what a pipeline stage holds, of a student or a teacher.

Letters: B sentences (K copies of them under intra-distillation), S source, T target positions, L one of the two,
D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mnmt_ds.batch import PAD
from mnmt_ds.models.frozen import is_frozen, layer_settings
from mnmt_ds.models.layers import DecoderLayer, Embedding, EncoderLayer, OutputProjection, UntiedOutputProjection
from mnmt_ds.models.settings import FreezeSettings, ModelSettings

TIED = "embedding"
"""The one module that several entries of the sequence use, and so perhaps several stages: ``embedding.weight``."""

LAST = ("decoder_norm", "projection", "head")
"""What always stands together at the end of the layers, for the loss needs all of it."""


class LayerEntry(NamedTuple):
    """One layer of a model's layer sequence, and how it is made."""

    kind: str
    """source, encoder, encoder_norm, target, decoder, decoder_norm, projection or head."""
    name: str
    """Where the plain model holds the layer, such as encoder.3: weights have the same names in both."""
    make: Callable[[], nn.Module]
    """Makes the layer, not yet initialised."""


def layer_entries(settings: ModelSettings, vocabulary_size: int) -> list[LayerEntry]:
    """Lists the layers of a whole model, in the order in which a micro-batch passes through them.

    The head and the encoder's own projection are used by the loss; states pass by them unchanged.

    Args:
        settings: the model's shape.
        vocabulary_size: V.

    Returns:
        One entry a layer.
    """
    untied = settings.share_embeddings != "all"

    def embedding() -> nn.Module:
        return Embedding(settings, vocabulary_size)

    def norm() -> nn.Module:
        return nn.LayerNorm(settings.d_model)

    entries = [LayerEntry("source", "source_embedding" if untied else TIED, embedding)]
    entries += [
        LayerEntry("encoder", f"encoder.{i}", partial(EncoderLayer, layer_settings(settings, "encoder", i)))
        for i in range(settings.encoder_layers)
    ]
    entries += [LayerEntry("encoder_norm", "encoder_norm", norm), LayerEntry("target", TIED, embedding)]
    entries += [
        LayerEntry("decoder", f"decoder.{i}", partial(DecoderLayer, layer_settings(settings, "decoder", i)))
        for i in range(settings.decoder_layers)
    ]
    entries += [LayerEntry("decoder_norm", "decoder_norm", norm)]
    if settings.encoder_projection == "own":
        entries += [LayerEntry("projection", "encoder_projection", lambda: OutputProjection(settings, vocabulary_size))]
    if settings.share_embeddings == "none":
        return [*entries, LayerEntry("head", "head", lambda: UntiedOutputProjection(settings, vocabulary_size))]
    return [*entries, LayerEntry("head", TIED, embedding)]


def trained_entries(settings: ModelSettings, entries: Sequence[LayerEntry]) -> list[bool]:
    """Returns for each layer whether any weight of it is trained.

    Args:
        settings: the model's.
        entries: its layers.

    Returns:
        One flag a layer.
    """
    if settings.lora is None and settings.freeze == FreezeSettings():
        return [True] * len(entries)
    with torch.device("meta"):
        names = [[f"{entry.name}.{name}" for name, _ in entry.make().named_parameters()] for entry in entries]
    return [not all(is_frozen(settings, name) for name in own) for own in names]


def possible_cuts(entries: Sequence[LayerEntry], trained: Sequence[bool] = ()) -> list[int]:
    """Lists where stages may begin: each has something to train, for DeepSpeed's optimizer wants it; ``LAST`` is one.

    Args:
        entries: the model's layers in order.
        trained: of each layer whether a weight of it is trained; empty: all are.

    Returns:
        Numbers of layers, from 0, and the number of layers.
    """
    last = sum(entry.kind not in LAST for entry in entries)
    ends = [index + 1 for index in range(last) if not trained or trained[index]]
    return [0, *(ends if not trained or any(trained[last:]) else ends[:-1]), len(entries)]


@dataclass
class StageActivations:
    """A micro-batch's inputs and states on their way through the layers."""

    source_BS: Tensor
    decoder_BT: Tensor
    passes: int = 1
    """K: the rows are so many stacked copies."""
    shared_memory: bool = False
    """All copies' decoders look at the first copy's encoder states."""
    x_BLD: Tensor | None = None
    """The newest states: of the encoder (L = S), then of the decoder (L = T)."""
    memory_BSD: Tensor | None = None
    """The encoder's final states, once it is through."""

    def cross_attention_memory(self) -> Tensor:
        """Returns the encoder states that the decoder layers attend to.

        Returns:
            (B, S, D).
        """
        assert self.memory_BSD is not None
        if not self.shared_memory or self.passes == 1:
            return self.memory_BSD
        return self.memory_BSD[: len(self.memory_BSD) // self.passes].repeat(self.passes, 1, 1)


class ModelChunk(nn.Module):
    """Some consecutive layers of a model, from ``start`` to before ``stop``, with the whole model's parameter names.

    Between segments the states are passed as ONE tensor, so that one gradient comes back: (B, S, D) in the encoder,
    (B, S + T, D) with the encoder's states first in the decoder.

    Args:
        settings: the model's shape.
        vocabulary_size: V.
        entries: the whole sequence, as from ``layer_entries``.
        start: index of the chunk's first layer.
        stop: one past the index of its last.
    """

    def __init__(
        self, settings: ModelSettings, vocabulary_size: int, entries: Sequence[LayerEntry], start: int, stop: int
    ) -> None:
        super().__init__()
        self.settings, self.vocabulary_size = settings, vocabulary_size
        self.entries, self.start, self.stop = entries, start, stop
        for entry in entries[start:stop]:
            *parents, name = entry.name.split(".")
            parent: nn.Module = self
            for parent_name in parents:
                if parent_name not in dict(parent.named_children()):
                    parent.add_module(parent_name, nn.Module())
                parent = parent.get_submodule(parent_name)
            if name not in dict(parent.named_children()):
                parent.add_module(name, entry.make())

    def layers(self) -> list[nn.Module]:
        """Lists the chunk's layers.

        Returns:
            One module an entry; a tied one stands at each of its entries.
        """
        return [self.get_submodule(entry.name) for entry in self.entries[self.start : self.stop]]

    @property
    def projection_VD(self) -> nn.Parameter:
        """The output projection, where this chunk holds it."""
        return self.get_submodule(self.entries[-1].name).weight  # type: ignore[return-value]

    def forward(self, activations: StageActivations) -> StageActivations:
        """Runs the chunk's layers.

        Args:
            activations: what arrived at this chunk; changed in place.

        Returns:
            The same object.
        """
        mask_BS = activations.source_BS != PAD
        memory_BSD: Tensor | None = None
        for entry, layer in zip(self.entries[self.start : self.stop], self.layers(), strict=True):
            match entry.kind:
                case "source":
                    activations.x_BLD = layer(activations.source_BS)
                case "encoder":
                    activations.x_BLD = self._run(layer, activations.x_BLD, mask_BS)
                case "encoder_norm":
                    activations.memory_BSD, activations.x_BLD = layer(activations.x_BLD), None
                case "target":
                    activations.x_BLD = layer(activations.decoder_BT)
                case "decoder":
                    memory_BSD = activations.cross_attention_memory() if memory_BSD is None else memory_BSD
                    activations.x_BLD = self._run(layer, activations.x_BLD, memory_BSD, mask_BS)
                case "decoder_norm":
                    activations.x_BLD = layer(activations.x_BLD)
        return activations

    def pack(self, activations: StageActivations) -> Tensor:
        """Joins the states that leave this chunk.

        Args:
            activations: as from ``forward``.

        Returns:
            One tensor, (B, S, D) or (B, S + T, D).
        """
        states = [x for x in (activations.memory_BSD, activations.x_BLD) if x is not None]
        return states[0] if len(states) == 1 else torch.cat(states, 1)

    def input_shape(self, activations: StageActivations) -> tuple[int, int, int]:
        """Computes the shape of the states that arrive from the chunk before this one.

        Args:
            activations: the micro-batch; its tokens alone are read.

        Returns:
            (B, S, D) or (B, S + T, D).
        """
        length = activations.source_BS.shape[1]
        if self.entries[self.start].kind not in ("encoder", "encoder_norm", "target"):
            length += activations.decoder_BT.shape[1]
        return len(activations.source_BS), length, self.settings.d_model

    def unpack(self, states_BLD: Tensor, activations: StageActivations) -> StageActivations:
        """Unpacks the states that arrive from the chunk before this one into a micro-batch's activations.

        Args:
            states_BLD: as that chunk's ``pack`` gave them; L = S or S + T.
            activations: the micro-batch; changed in place.

        Returns:
            The same object.
        """
        kind, source_length = self.entries[self.start].kind, activations.source_BS.shape[1]
        if kind in ("encoder", "encoder_norm"):
            activations.x_BLD = states_BLD
        elif kind == "target":
            activations.memory_BSD = states_BLD
        else:
            lengths = [source_length, states_BLD.shape[1] - source_length]
            memory_BSD, activations.x_BLD = states_BLD.split(lengths, 1)
            activations.memory_BSD = memory_BSD.contiguous()  # lest each layer keeps a copy for its backward pass
        return activations

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Runs a layer, with activation checkpointing where the settings say so."""
        if self.settings.activation_checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

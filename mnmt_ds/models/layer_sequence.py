"""The Transformer's layers in a row, and a segment of it: what a pipeline stage holds, of a student or a teacher.

Shape letters: B sentences (K copies of them under intra-distillation), S source, T target positions, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mnmt_ds.batch import PAD
from mnmt_ds.models.layers import DecoderLayer, Embedding, EncoderLayer, Projection
from mnmt_ds.models.settings import ModelSettings

TIED = "embedding"
"""The one matrix that several places of the row use, and so perhaps several stages: ``embedding.weight``."""


class LayerEntry(NamedTuple):
    """A place in the row of layers."""

    kind: str
    """source, encoder, encoder_norm, target, decoder, decoder_norm, projection or head."""
    name: str
    """Where the plain model holds its layer, such as encoder.3: weights have the same names in both."""
    make: Callable[[], nn.Module]


def layer_entries(settings: ModelSettings, vocabulary_size: int) -> list[LayerEntry]:
    """The whole row; the head and the encoder's own projection are used by the loss and pass the states on."""
    own = settings.share_embeddings == "decoder"

    def embedding() -> nn.Module:
        return Embedding(settings, vocabulary_size)

    def norm() -> nn.Module:
        return nn.LayerNorm(settings.d_model)

    row = [LayerEntry("source", "source_embedding" if own else TIED, embedding)]
    row += [
        LayerEntry("encoder", f"encoder.{i}", lambda: EncoderLayer(settings)) for i in range(settings.encoder_layers)
    ]
    row += [LayerEntry("encoder_norm", "encoder_norm", norm), LayerEntry("target", TIED, embedding)]
    row += [
        LayerEntry("decoder", f"decoder.{i}", lambda: DecoderLayer(settings)) for i in range(settings.decoder_layers)
    ]
    row += [LayerEntry("decoder_norm", "decoder_norm", norm)]
    if settings.encoder_projection == "own":
        row += [LayerEntry("projection", "encoder_projection", lambda: Projection(settings, vocabulary_size))]
    return [*row, LayerEntry("head", TIED, embedding)]


@dataclass
class StageActivations:
    """A micro-batch on its way along the row."""

    source_BS: Tensor
    decoder_BT: Tensor
    passes: int = 1
    """K stacked copies of the rows."""
    shared_memory: bool = False
    """All copies' decoders look at the first one's encoder states."""
    x_BLD: Tensor | None = None
    """The states under way: of the encoder (L = S), then of the decoder (L = T)."""
    memory_BSD: Tensor | None = None
    """The encoder's states, once it is through."""

    def seen_BSD(self) -> Tensor:
        """What the decoder layers look at."""
        assert self.memory_BSD is not None
        if not self.shared_memory or self.passes == 1:
            return self.memory_BSD
        return self.memory_BSD[: len(self.memory_BSD) // self.passes].repeat(self.passes, 1, 1)


class LayerSegment(nn.Module):
    """The layers from place ``first`` to before ``last`` of a row, under the plain model's names.

    Between segments the states travel as ONE tensor, so that one gradient comes back: (B, S, D) in the encoder,
    (B, S + T, D) with the encoder's states first in the decoder.
    """

    def __init__(
        self, settings: ModelSettings, vocabulary_size: int, row: Sequence[LayerEntry], first: int, last: int
    ) -> None:
        super().__init__()
        self.settings, self.vocabulary_size = settings, vocabulary_size
        self.row, self.first, self.last = row, first, last
        for part in row[first:last]:
            *outer, name = part.name.split(".")
            home: nn.Module = self
            for step in outer:
                if step not in dict(home.named_children()):
                    home.add_module(step, nn.Module())
                home = home.get_submodule(step)
            if name not in dict(home.named_children()):
                home.add_module(name, part.make())

    def layers(self) -> list[nn.Module]:
        """The layer of each place; a tied one stands at each of its places."""
        return [self.get_submodule(part.name) for part in self.row[self.first : self.last]]

    @property
    def projection_VD(self) -> nn.Parameter:
        """The output projection, where this segment holds it."""
        return self.get_submodule(TIED).weight  # type: ignore[return-value]

    def forward(self, flow: StageActivations) -> StageActivations:
        """The flow, carried along this segment."""
        mask_BS = flow.source_BS != PAD
        seen_BSD: Tensor | None = None
        for part, layer in zip(self.row[self.first : self.last], self.layers(), strict=True):
            match part.kind:
                case "source":
                    flow.x_BLD = layer(flow.source_BS)
                case "encoder":
                    flow.x_BLD = self._run(layer, flow.x_BLD, mask_BS)
                case "encoder_norm":
                    flow.memory_BSD, flow.x_BLD = layer(flow.x_BLD), None
                case "target":
                    flow.x_BLD = layer(flow.decoder_BT)
                case "decoder":
                    seen_BSD = flow.seen_BSD() if seen_BSD is None else seen_BSD
                    flow.x_BLD = self._run(layer, flow.x_BLD, seen_BSD, mask_BS)
                case "decoder_norm":
                    flow.x_BLD = layer(flow.x_BLD)
        return flow

    def pack(self, flow: StageActivations) -> Tensor:
        """The states that leave this segment, as one tensor."""
        held = [states for states in (flow.memory_BSD, flow.x_BLD) if states is not None]
        return held[0] if len(held) == 1 else torch.cat(held, 1)

    def arriving(self, flow: StageActivations) -> tuple[int, int, int]:
        """The shape of the states that arrive at this segment, from the segment before it."""
        length = flow.source_BS.shape[1]
        if self.row[self.first].kind not in ("encoder", "encoder_norm", "target"):
            length += flow.decoder_BT.shape[1]
        return len(flow.source_BS), length, self.settings.d_model

    def unpack(self, states_BLD: Tensor, flow: StageActivations) -> StageActivations:
        """Puts the states that arrive at this segment back into the flow."""
        kind, source_S = self.row[self.first].kind, flow.source_BS.shape[1]
        if kind in ("encoder", "encoder_norm"):
            flow.x_BLD = states_BLD
        elif kind == "target":
            flow.memory_BSD = states_BLD
        else:
            memory_BSD, flow.x_BLD = states_BLD.split([source_S, states_BLD.shape[1] - source_S], 1)
            flow.memory_BSD = memory_BSD.contiguous()  # lest each layer keeps a copy for its backward pass
        return flow

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.settings.activation_checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

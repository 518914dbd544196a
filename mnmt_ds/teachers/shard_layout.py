"""How a model is cut over ranks: ZeRO-3's own cut, so that a rank's part of a snapshot is a copy of what it holds.

Each parameter, flattened, is cut into one piece a rank (the last padded); a rank's shard is its pieces, one after
another, the output projection's first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnmt_ds.distributed import RankGroup


class ShardPiece(NamedTuple):
    """A parameter's part in every rank's shard."""

    name: str
    shape: torch.Size
    start: int
    """Where it begins in a shard."""
    length: int
    """ceil(elements / ranks)."""


class ShardLayout(NamedTuple):
    """A model's cut over ``ranks`` ranks."""

    pieces: tuple[ShardPiece, ...]
    ranks: int
    head: int
    """Elements of a shard that hold the output projection: its first ones."""

    @property
    def length(self) -> int:
        """Elements of a shard."""
        return self.pieces[-1].start + self.pieces[-1].length

    def between(self, start: int, stop: int) -> list[ShardPiece]:
        """The pieces in a range of a shard that was cut at pieces' ends."""
        return [piece for piece in self.pieces if start <= piece.start < stop]


def shard_layout(model: nn.Module, head: nn.Parameter, ranks: int) -> ShardLayout:
    """The cut of a model whose output projection is ``head``; at ZeRO-3 its parameters may be partitioned already."""
    named = sorted(model.named_parameters(), key=lambda item: item[1] is not head)
    pieces: list[ShardPiece] = []
    start = 0
    for name, parameter in named:
        shape = torch.Size(getattr(parameter, "ds_shape", parameter.shape))
        pieces.append(ShardPiece(name, shape, start, -(-shape.numel() // ranks)))
        start += pieces[-1].length
    return ShardLayout(tuple(pieces), ranks, pieces[0].length)


def extract_shard(
    layout: ShardLayout, parameters: Mapping[str, Tensor], ranks: RankGroup, dtype: torch.dtype
) -> Tensor:
    """This rank's shard of whole parameters, copied to the CPU."""
    parts = {}
    for piece in layout.pieces:
        flat = parameters[piece.name].detach().flatten()
        parts[piece.name] = flat[ranks.rank * piece.length : (ranks.rank + 1) * piece.length]
    return assemble_shard(layout, parts, dtype)


def assemble_shard(layout: ShardLayout, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """A shard in CPU memory (pinned where there is a GPU) of a rank's pieces; what a last piece lacks is 0."""
    shard = torch.zeros(layout.length, dtype=dtype, pin_memory=torch.cuda.is_available())
    for piece in layout.pieces:
        part = parts[piece.name].detach().flatten()[: piece.length]
        shard[piece.start : piece.start + len(part)].copy_(part)
    return shard


def fill_parameters(
    layout: ShardLayout, pieces: Iterable[ShardPiece], shards_RL: Tensor, first: int, into: Mapping[str, Tensor]
) -> None:
    """Writes whole parameters from all ranks' shards, of which ``shards_RL`` holds the columns from ``first`` on."""
    for piece in pieces:
        columns_RP = shards_RL[:, piece.start - first : piece.start - first + piece.length]
        into[piece.name].copy_(columns_RP.reshape(-1)[: piece.shape.numel()].view(piece.shape))


def buckets(pieces: Sequence[ShardPiece], most: int) -> list[tuple[int, int]]:
    """Ranges (start, stop) of a shard that hold whole pieces and at most ``most`` elements, or one piece."""
    ranges: list[tuple[int, int]] = []
    for piece in pieces:
        stop = piece.start + piece.length
        if ranges and piece.start == ranges[-1][1] and stop - ranges[-1][0] <= most:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((piece.start, stop))
    return ranges

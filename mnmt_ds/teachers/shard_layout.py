"""How a model is cut over ranks: as ZeRO-3 cuts it, so that a rank's shard of a snapshot is a copy of what it holds.

Each parameter, flattened, is cut into one piece a rank (the last one padded). A rank's shard is its pieces, one after
another, the output projection's first.

Letters: R ranks, L elements of a range of shards, P elements of a piece.
"""

from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnmt_ds.distributed import RankGroup, uses_gpu


class ShardPiece(NamedTuple):
    """A parameter's piece, at the same place in every rank's shard."""

    name: str
    shape: torch.Size
    """Shape of the whole parameter."""
    start: int
    """First element of the piece in a shard."""
    length: int
    """ceil(elements of the parameter / ranks)."""


class ShardLayout(NamedTuple):
    """Layout of a model's parameters in the shards of all ranks."""

    pieces: tuple[ShardPiece, ...]
    projection_length: int
    """Elements of a shard that hold the output projection: its first ones."""

    @property
    def length(self) -> int:
        """Elements of a shard."""
        return self.pieces[-1].start + self.pieces[-1].length if self.pieces else 0

    def between(self, start: int, stop: int) -> list[ShardPiece]:
        """Lists the pieces in a range of a shard.

        Args:
            start: first element.
            stop: end of the range.

        Returns:
            The pieces of which the range holds an element, in their order.
        """
        first = bisect_right(self.pieces, start, key=lambda piece: piece.start + piece.length)
        return list(takewhile(lambda piece: piece.start < stop, self.pieces[first:]))


def shard_layout(
    model: nn.Module, projection: nn.Parameter, ranks: int, names: Container[str] | None = None
) -> ShardLayout:
    """Computes how a model, or some of its parameters, is cut.

    Args:
        model: the model; at ZeRO-3 its parameters may be partitioned already.
        projection: its output projection, or another parameter that is to come first.
        ranks: number of shards.
        names: of the parameters that shards hold; None: all.

    Returns:
        The layout.
    """
    stored_parameters = [item for item in model.named_parameters() if names is None or item[0] in names]
    named = sorted(stored_parameters, key=lambda item: item[1] is not projection)
    pieces: list[ShardPiece] = []
    start = 0
    for name, parameter in named:
        shape = torch.Size(getattr(parameter, "ds_shape", parameter.shape))
        pieces.append(ShardPiece(name, shape, start, -(-shape.numel() // ranks)))
        start += pieces[-1].length
    has_projection = bool(named) and named[0][1] is projection
    return ShardLayout(tuple(pieces), pieces[0].length if has_projection else 0)


def own_ranges(layout: ShardLayout, ranks: RankGroup) -> dict[str, tuple[int, int]]:
    """Computes which elements of the parameters a rank's shard holds.

    Args:
        layout: how the model is cut.
        ranks: the ranks that hold the shards.

    Returns:
        Of each parameter, flattened, the first element and the end; a last one may lie beyond it.
    """
    return {p.name: (ranks.rank * p.length, (ranks.rank + 1) * p.length) for p in layout.pieces}


def extract_shard(
    layout: ShardLayout, parameters: Mapping[str, Tensor], ranks: RankGroup, dtype: torch.dtype
) -> Tensor:
    """Copies this rank's shard of whole parameters to the CPU.

    Args:
        layout: how the model is cut.
        parameters: whole parameters, by name.
        ranks: the ranks that hold the shards.
        dtype: type of the shard.

    Returns:
        The shard, (length,).
    """
    own_pieces = {
        name: parameters[name].detach().flatten()[start:stop]
        for name, (start, stop) in own_ranges(layout, ranks).items()
    }
    return assemble_shard(layout, own_pieces, dtype)


def assemble_shard(layout: ShardLayout, own_pieces: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Concatenates a rank's pieces in CPU memory, pinned where there is a GPU.

    Args:
        layout: how the model is cut.
        own_pieces: this rank's piece of each parameter, by name; a last piece may be short or too long.
        dtype: type of the shard.

    Returns:
        The shard, (length,); 0 where a piece is short.
    """
    shard = torch.zeros(layout.length, dtype=dtype, pin_memory=uses_gpu())
    for piece in layout.pieces:
        values = own_pieces[piece.name].detach().flatten()[: piece.length]
        shard[piece.start : piece.start + len(values)].copy_(values)
    return shard


def fill_parameters(
    pieces: Iterable[ShardPiece], shards_RL: Tensor, offset: int, parameters: Mapping[str, Tensor]
) -> None:
    """Writes parameters, or parts of them, from a range of all ranks' shards; nothing is copied twice.

    Args:
        pieces: of the parameters to write; of a piece that is cut by the range's ends, the part in the range is.
        shards_RL: the range of every rank's shard.
        offset: the shard's element at which the range begins.
        parameters: where to write, contiguous, by the pieces' names.
    """
    end = offset + shards_RL.shape[1]
    for piece in pieces:
        first, last = max(offset, piece.start), min(end, piece.start + piece.length)
        part_RP = shards_RL[:, first - offset : last - offset]
        flat, at = parameters[piece.name].view(-1), first - piece.start
        whole = max(0, min(len(part_RP), (len(flat) - at - part_RP.shape[1]) // piece.length + 1))
        if whole:  # ranks whose part lies within the parameter
            flat.as_strided((whole, part_RP.shape[1]), (piece.length, 1), flat.storage_offset() + at).copy_(
                part_RP[:whole]
            )
        rest = flat[whole * piece.length + at :][: part_RP.shape[1]]
        if whole < len(part_RP) and len(rest):  # the last rank that has some; behind it is padding
            rest.copy_(part_RP[whole, : len(rest)])


def buckets(pieces: Sequence[ShardPiece], max_elements: int) -> list[tuple[int, int]]:
    """Cuts a sequence of pieces into ranges of a shard that are sent at once, within pieces as well.

    Args:
        pieces: the pieces, in their order.
        max_elements: largest length of a range.

    Returns:
        Ranges (start, stop), as few and as equal as can be.
    """
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        if runs and piece.start == runs[-1][1]:
            runs[-1] = (runs[-1][0], piece.start + piece.length)
        else:
            runs.append((piece.start, piece.start + piece.length))
    ranges = []
    for start, stop in runs:
        count = -(-(stop - start) // max(1, max_elements))
        ends = [start + (stop - start) * i // count for i in range(count + 1)]
        ranges += list(pairwise(ends))
    return ranges

"""How teachers' weights are sent: an all-to-all of shards in which every rank receives the teacher that it needs.

Letters: R ranks, C elements of a shard's range, U distinct teachers that some rank needs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.distributed import RankGroup
from mnmt_ds.teachers.shard_layout import ShardLayout, buckets
from mnmt_ds.teachers.shard_storage import ShardStorage, Version

MAX_ELEMENTS_PER_EXCHANGE = 64 << 20
"""Elements that a rank receives at once; it sends as many at most. A fetch takes both beside the teacher itself."""


class FetchCost(NamedTuple):
    """What it takes at most that each rank receives a whole teacher; of one rank."""

    exchanges: int
    """All-to-alls, one after another."""
    copies: int
    """Copies of ranges of its shards to the device: one an exchange and distinct teacher."""
    messages: int
    """Messages that it sends to other ranks."""
    received: int
    """Bytes that it receives, its own shard's included; it sends as many."""


def fetch_cost(elements: int, projection: int, ranks: int, itemsize: int, distinct: int) -> FetchCost:
    """Computes what a fetch takes at most.

    Args:
        elements: of a teacher.
        projection: elements of its output projection, which is fetched by itself where nothing else is needed.
        ranks: that hold a shard each; all of them receive.
        itemsize: bytes of an element.
        distinct: distinct teachers that there are.

    Returns:
        Counts and bytes of one rank.
    """
    shards = [-(-part // ranks) for part in (projection, elements - projection)]
    exchanges = sum(-(-shard // max(1, MAX_ELEMENTS_PER_EXCHANGE // ranks)) for shard in shards)
    copies = exchanges * min(ranks, distinct)
    return FetchCost(exchanges, copies, exchanges * (ranks - 1), sum(shards) * ranks * itemsize)


def exchange_ranges(layout: ShardLayout, ranks: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Cuts shards into the ranges of a fetch's exchanges.

    Args:
        layout: of the shards.
        ranks: number of shards.

    Returns:
        The ranges (start, stop) of the output projection, and those of all that follows it.
    """
    projection, length = layout.projection_length, MAX_ELEMENTS_PER_EXCHANGE // ranks
    pieces = layout.pieces
    split = 1 if projection else 0
    return buckets(pieces[:split], length), buckets(pieces[split:], length)


def distinct_teachers(versions: Sequence[Version | None]) -> list[Version]:
    """Lists the teachers that some rank needs: a rank copies the shard of each to its device once.

    Args:
        versions: the teacher that each rank needs; None: none.

    Returns:
        The versions, in the order of the first rank that needs each.
    """
    return list(dict.fromkeys(version for version in versions if version is not None))


def all_to_all_shards(
    storage: ShardStorage,
    ranks: RankGroup,
    device: torch.device,
    versions: Sequence[Version | None],
    start: int,
    stop: int,
) -> Tensor | None:
    """Sends this rank's shards to the ranks that need them, and receives all ranks' shards of its own teacher.

    Args:
        storage: this rank's shards.
        ranks: the ranks that hold the shards.
        device: that sends and receives the shards.
        versions: the teacher that each rank needs, equal on all ranks; None: none.
        start: first element of the range that is sent, in every shard.
        stop: end of the range.

    Returns:
        The range of every rank's shard, (R, stop - start), in the storage's type; None where this rank needs none.
    """
    distinct = distinct_teachers(versions)
    if not distinct:
        return None
    receives, length = versions[ranks.rank] is not None, stop - start
    if ranks.size == 1:
        return storage.get(distinct[0], start, stop).to(device, non_blocking=True)[None]
    sent_UC = torch.empty(len(distinct), length, dtype=storage.dtype, device=device)
    for row_C, version in zip(sent_UC, distinct, strict=True):
        row_C.copy_(storage.get(version, start, stop), non_blocking=True)
    order = [distinct.index(version) for version in versions if version is not None]
    if order != list(range(len(distinct))):
        index = torch.tensor(order).to(device, non_blocking=True)
        sent_UC = sent_UC.index_select(0, index)  # a row for each rank that receives
    received_RC = torch.empty(ranks.size if receives else 0, length, dtype=storage.dtype, device=device)
    size = storage.dtype.itemsize * length
    dist.all_to_all_single(
        received_RC.flatten().view(torch.uint8),
        sent_UC.flatten().view(torch.uint8),
        output_split_sizes=[size if receives else 0] * ranks.size,
        input_split_sizes=[size if version is not None else 0 for version in versions],
        group=ranks.group,
    )
    return received_RC if receives else None

"""The one way in which teachers' weights travel: an all-to-all of shards, every rank receiving the teacher it wants."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.distributed import RankGroup
from mnmt_ds.teachers.shard_storage import ShardStorage, Version

BUCKET = 16 << 20
"""Elements that travel at once; what a fetch takes on the device beside the teacher itself."""


def all_to_all_shards(
    shard_storage: ShardStorage,
    ranks: RankGroup,
    device: torch.device,
    wanted: Sequence[Version | None],
    start: int,
    stop: int,
) -> Tensor | None:
    """Elements ``start`` to ``stop`` of every rank's shard (R, stop - start) of the teacher that this rank wants.

    ``wanted`` has an entry a rank and is equal on all; None where this rank wants nothing.
    """
    if not any(version is not None for version in wanted):
        return None
    mine = wanted[ranks.rank]
    shards = [shard_storage.get(v, start, stop).to(device, non_blocking=True) for v in wanted if v is not None]
    if ranks.size == 1:
        return shards[0][None]
    length = stop - start
    received_RC = torch.empty(ranks.size if mine is not None else 0, length, dtype=shard_storage.dtype, device=device)
    size = shard_storage.dtype.itemsize * length
    dist.all_to_all_single(
        received_RC.flatten().view(torch.uint8),
        torch.cat(shards).view(torch.uint8),
        output_split_sizes=[size if mine is not None else 0] * ranks.size,
        input_split_sizes=[size if version is not None else 0 for version in wanted],
        group=ranks.group,
    )
    return None if mine is None else received_RC

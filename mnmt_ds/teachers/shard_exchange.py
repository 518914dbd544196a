"""How teachers' weights are sent: an all-to-all of shards in which every rank receives the teacher that it needs.

Letters: R ranks, C elements of a shard's range.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.distributed import RankGroup
from mnmt_ds.teachers.shard_storage import ShardStorage, Version

MAX_ELEMENTS_PER_EXCHANGE = 16 << 20
"""Elements that are sent at once, over all ranks: what a fetch takes on the device beside the teacher itself."""


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
    if not any(version is not None for version in versions):
        return None
    receives = versions[ranks.rank] is not None
    shards = [storage.get(v, start, stop).to(device, non_blocking=True) for v in versions if v is not None]
    if ranks.size == 1:
        return shards[0][None]
    length = stop - start
    received_RC = torch.empty(ranks.size if receives else 0, length, dtype=storage.dtype, device=device)
    size = storage.dtype.itemsize * length
    dist.all_to_all_single(
        received_RC.flatten().view(torch.uint8),
        torch.cat(shards).view(torch.uint8),
        output_split_sizes=[size if receives else 0] * ranks.size,
        input_split_sizes=[size if version is not None else 0 for version in versions],
        group=ranks.group,
    )
    return received_RC if receives else None

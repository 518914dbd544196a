"""Which rank caches which block: a table that every rank keeps for all, so that nobody has to ask.

All ranks know all ranks' requests, and update the table by the same rule. Only a block that was lost from a file, on
one rank, is news: ``gather_lost`` tells all ranks of it.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist

from mnmt_ds.distributed import RankGroup
from mnmt_ds.teachers.cache_blocks import CachePlan, Ints
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.state_storage import BlockKey

NO_OWNER = -1
"""Stands for the owner of a block that no rank has cached."""


class BlockOwners:
    """Table of the ranks that hold each cached block, and of the bytes that each rank has left."""

    def __init__(self, plan: CachePlan, ranks: int) -> None:
        """Starts with no block cached.

        Args:
            plan: sizes of blocks and of each rank's cache.
            ranks: data-parallel ranks, the possible owners.
        """
        self._plan = plan
        self._owners: dict[tuple[Version, int], Ints] = {}
        self._free_bytes = [plan.memory_bytes + plan.disk_bytes] * ranks
        self._used_bytes: dict[Version, list[int]] = {}

    def of(self, version: Version, pair: int) -> Ints:
        """Returns the owners of a teacher's states of a pair.

        Args:
            version: the teacher.
            pair: number of the pair.

        Returns:
            The data-parallel rank that owns each block, or ``NO_OWNER``; (blocks,). Changes with the table.
        """
        key = (version, pair)
        if key not in self._owners:
            self._owners[key] = np.full(len(self._plan.blocks[pair].rows), NO_OWNER, np.int64)
        return self._owners[key]

    def assign(self, key: BlockKey, rank: int) -> bool:
        """Makes a rank the owner of a block that it has computed, where the block has none and the rank has room.

        Args:
            key: the block.
            rank: the data-parallel rank.

        Returns:
            Whether the rank has become the owner.
        """
        owners, size = self.of(key.version, key.pair), self._plan.block_bytes(key.pair, key.block)
        if owners[key.block] != NO_OWNER or size > self._free_bytes[rank]:
            return False
        owners[key.block] = rank
        self._free_bytes[rank] -= size
        self._used_bytes.setdefault(key.version, [0] * len(self._free_bytes))[rank] += size
        return True

    def release(self, key: BlockKey, rank: int) -> None:
        """Removes a lost block from its owner.

        Args:
            key: the block.
            rank: its owner.
        """
        self.of(key.version, key.pair)[key.block] = NO_OWNER
        size = self._plan.block_bytes(key.pair, key.block)
        self._free_bytes[rank] += size
        self._used_bytes[key.version][rank] -= size

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops the blocks of all other teachers.

        Args:
            versions: the teachers to keep.
        """
        kept_versions = set(versions)
        self._owners = {key: owners for key, owners in self._owners.items() if key[0] in kept_versions}
        for version in [v for v in self._used_bytes if v not in kept_versions]:
            used = self._used_bytes.pop(version)
            self._free_bytes = [free + size for free, size in zip(self._free_bytes, used, strict=True)]

    def used_bytes(self, rank: int) -> int:
        """Sums a rank's cached blocks.

        Args:
            rank: the data-parallel rank.

        Returns:
            Bytes, in memory and on disk.
        """
        return sum(used[rank] for used in list(self._used_bytes.values()))  # list(): the background thread adds some


def gather_lost(
    lost: list[BlockKey], all_ranks: RankGroup, num_stages: int, num_owners: int, device: torch.device
) -> list[list[BlockKey]]:
    """Gathers on all ranks which cached blocks were lost; all of them call this together.

    Only ranks of the last stage cache states. There, ranks that share a vocabulary cache the same blocks: a block that
    one of them has lost is lost to all, since all must compute it again together. With 2 stages, 2 data-parallel
    ranks and a vocabulary split over 2 ranks::

        stage 0         rank  0  1 | 2  3      cache nothing
        stage 1 (last)  rank  4  5 | 6  7      cache states
        data-parallel rank     0   |   1       the owner in BlockOwners

        result: [lost of 4 or of 5, lost of 6 or of 7]

    Args:
        lost: the blocks that this rank has lost.
        all_ranks: all ranks, in the order of the picture.
        num_stages: pipeline stages.
        num_owners: data-parallel ranks.
        device: this rank's device.

    Returns:
        The lost blocks of each owner, each block once; an empty list where nothing was lost.
    """
    if all_ranks.size == 1:
        return [lost]
    count = torch.tensor(len(lost), device=device)
    dist.all_reduce(count, group=all_ranks.group)
    if not int(count):
        return []
    lost_by_rank: list[list[BlockKey]] = [[] for _ in range(all_ranks.size)]
    dist.all_gather_object(lost_by_rank, lost, group=all_ranks.group)
    return merge_lost(lost_by_rank, num_stages, num_owners)


def merge_lost(lost_by_rank: list[list[BlockKey]], num_stages: int, num_owners: int) -> list[list[BlockKey]]:
    """Joins the lost blocks of the last stage's ranks that cache the same blocks; see the picture of ``gather_lost``.

    Args:
        lost_by_rank: lost blocks of all ranks.
        num_stages: pipeline stages.
        num_owners: data-parallel ranks.

    Returns:
        The lost blocks of each owner, each block once, in the order of the ranks.
    """
    ranks_per_stage = len(lost_by_rank) // num_stages
    ranks_per_owner = ranks_per_stage // num_owners
    last_stage = lost_by_rank[-ranks_per_stage:]
    merged = []
    for first in range(0, ranks_per_stage, ranks_per_owner):
        copies = last_stage[first : first + ranks_per_owner]
        merged.append(list(dict.fromkeys(key for keys in copies for key in keys)))
    return merged

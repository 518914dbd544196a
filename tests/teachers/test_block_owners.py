"""Which rank caches which block: room, loss, the rank arithmetic of stages and vocabulary shards; the cache's plan."""

import numpy as np
import pytest

from mnmt_ds.best_values import BestValues
from mnmt_ds.data.batching import PairLengths
from mnmt_ds.errors import UserError
from mnmt_ds.teachers.block_owners import NO_OWNER, BlockOwners, merge_lost
from mnmt_ds.teachers.cache_blocks import CachePlan, cut_into_blocks, plan_cache
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.state_storage import BlockKey

LENGTHS = PairLengths(np.array([0, 1, 3, 4]), np.array([5, 5, 6, 6]), np.array([4, 5, 6, 6]))
"""Four sentences, of 4 to 6 target tokens; sentence 2 is not used."""


def plan(memory_bytes: int) -> CachePlan:
    """Both of the pair's blocks are cached, 10 bytes a row: blocks of 90 and 120 bytes."""
    return CachePlan((cut_into_blocks(LENGTHS, 12),), (2,), 10, memory_bytes, 0)


def test_blocks_by_hand() -> None:
    blocks = plan(0).blocks[0]
    assert [sorted(members) for members in blocks.sentences] == [[0, 1], [3, 4]] and list(blocks.rows) == [9, 12]
    assert list(blocks.block_of) == [0, 0, -1, 1, 1] and list(blocks.length) == [4, 5, 0, 6, 6]
    assert sorted(blocks.first_row[[0, 1]]) in ([0, 4], [0, 5]) and sorted(blocks.first_row[[3, 4]]) == [0, 6]


def test_the_first_rank_with_room_owns_a_block() -> None:
    owners = BlockOwners(plan(memory_bytes=100), ranks=2)
    small, large = BlockKey(7, 0, 0), BlockKey(7, 0, 1)
    assert owners.assign(small, 1) and not owners.assign(small, 0), "it has an owner"
    assert not owners.assign(large, 0), "120 bytes do not fit into 100"
    assert list(owners.of(7, 0)) == [1, NO_OWNER] and (owners.used_bytes(0), owners.used_bytes(1)) == (0, 90)
    assert not owners.assign(BlockKey(8, 0, 0), 1), "90 of 100 bytes are used"
    owners.release(small, 1)
    assert list(owners.of(7, 0)) == [NO_OWNER, NO_OWNER] and owners.used_bytes(1) == 0
    assert owners.assign(BlockKey(8, 0, 0), 1)
    owners.keep_only([7])
    assert owners.used_bytes(1) == 0 and owners.assign(small, 1)


def test_lost_blocks_of_two_stages_two_data_ranks_and_two_vocabulary_shards() -> None:
    """The picture of ``gather_lost``: ranks 4 and 5 cache the same, so do 6 and 7; ranks 0 to 3 cache nothing."""
    a, b, c = (BlockKey(1, 0, block) for block in range(3))
    assert merge_lost([[], [], [], [], [a], [a, b], [], [c]], num_stages=2, num_owners=2) == [[a, b], [c]]
    assert merge_lost([[a], [], [b, c]], num_stages=1, num_owners=3) == [[a], [], [b, c]]


def test_auto_caches_pairs_that_are_used_whole_and_fit() -> None:
    """Two pairs of 21 rows of 2 * 4 bytes each; 0.5 and 2 passes between two validations."""
    lengths, passes = [LENGTHS, LENGTHS], [0.5, 2.0]
    auto = plan_cache(TeacherSettings(), lengths, passes, max_tokens=12, width=4, ranks=1)
    assert auto is not None and auto.admitted == (0, 2) and auto.cached_bytes() == 21 * 8
    small = TeacherSettings(cache="ram", memory_gib=80 / 2**30)
    one_block = plan_cache(small, lengths, passes, max_tokens=12, width=4, ranks=1)
    assert one_block is not None and one_block.admitted == (0, 1), "9 rows fit, the other 12 do not"
    assert plan_cache(TeacherSettings(cache="off"), lengths, passes, 12, 4, 1) is None
    with pytest.raises(UserError, match=r"set teachers\.disk"):
        plan_cache(TeacherSettings(cache="disk"), lengths, passes, 12, 4, 1)


def test_best_values_by_hand() -> None:
    """A tie is no improvement; a pair without a value has no update."""
    best = BestValues(["a-en", "b-en"])
    assert best.updates() == set()
    assert best.update_lowest({"a-en": 2.0, "b-en": 3.0}, 10) == ["a-en", "b-en"]
    assert best.update_lowest({"a-en": 2.0, "b-en": 2.5}, 20) == ["b-en"]
    assert best == {"a-en": (2.0, 10), "b-en": (2.5, 20)} and best.updates() == {10, 20}

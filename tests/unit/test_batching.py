"""Order and batches: functions of (seed, epoch, index); nothing twice, nothing missed."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.data.batching import PairLengths, batch_bounds, draw_sentences, length_order, plan_epoch, usable_lengths
from mnmt_ds.data.framing import FramingSettings, frame_of
from mnmt_ds.data.loader import RankBatches, collate, iterate_updates
from mnmt_ds.distributed import seed_of
from mnmt_ds.samplers.temperature import counts, probabilities


class Listed:
    """Sentences that carry their own number as their only piece."""

    def __init__(self, lengths: PairLengths) -> None:
        self.lengths = lengths

    def pieces(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(self.lengths.source[index] - 2, index + 10), np.full(self.lengths.target[index] - 1, index + 10)


def pairs_of(sizes: list[int]) -> list[PairLengths]:
    maker = np.random.default_rng(0)
    return [PairLengths(np.arange(n), maker.integers(3, 30, n), maker.integers(2, 30, n)) for n in sizes]


def test_an_epoch_at_temperature_1_holds_every_sentence_once() -> None:
    lengths = pairs_of([50, 200, 7])
    plan = plan_epoch(lengths, [50, 200, 7], [0, 0, 0], seed=1, epoch=0, max_tokens=120, batches_per_update=3)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for k, pair in enumerate(plan.pair):
        seen[int(pair)] += plan.sentence[plan.start[k] : plan.start[k + 1]].tolist()
    assert [sorted(seen[pair]) for pair in range(3)] == [list(range(n)) for n in (50, 200, 7)]
    assert sum(plan.divisor(u) for u in range(plan.updates)) == sum(
        int(table_lengths.target.sum()) for table_lengths in lengths
    )


def test_no_sentence_comes_twice_before_all_came_once() -> None:
    drawn = np.concatenate([draw_sentences(10, 4, 4 * epoch, seed=3, pair=1) for epoch in range(10)])
    for permutation in range(4):
        assert sorted(drawn[10 * permutation : 10 * permutation + 10]) == list(range(10))


def test_seeds_and_epochs_differ_and_repeat() -> None:
    lengths = pairs_of([80, 80])
    make = lambda seed, epoch: plan_epoch(  # noqa: E731
        lengths, [80, 80], [80 * epoch] * 2, seed=seed, epoch=epoch, max_tokens=99, batches_per_update=1
    )
    assert make(1, 0).sentence.tolist() == make(1, 0).sentence.tolist()
    assert make(1, 0).sentence.tolist() != make(1, 1).sentence.tolist()
    assert make(1, 0).sentence.tolist() != make(2, 0).sentence.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=80), st.integers(40, 200))
def test_batches_keep_the_budget_and_lose_nothing(sizes: list[tuple[int, int]], budget: int) -> None:
    source, target = np.array(sizes).T
    order = length_order(source, target)
    starts = batch_bounds(source[order], target[order], budget)
    assert starts[0] == 0 and starts[-1] == len(sizes) and (np.diff(starts) > 0).all()
    for first, last in zip(starts[:-1], starts[1:]):
        rows = order[first:last]
        assert len(rows) * max(source[rows].max(), target[rows].max()) <= budget


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_same_updates(ranks: int, workers: int) -> None:
    """The union over ranks of update u is update u of the plan, whatever the ranks and workers."""
    lengths = pairs_of([40, 90])
    plan = plan_epoch(lengths, [40, 90], [0, 0], seed=5, epoch=2, max_tokens=100, batches_per_update=4)
    frames = [frame_of(FramingSettings(), 5 + p, 8) for p in range(2)]
    tables = [Listed(table_lengths) for table_lengths in lengths]
    streams = [
        list(iterate_updates(RankBatches(plan, tables, frames, rank, ranks), 3, workers)) for rank in range(ranks)
    ]
    assert all(len(stream) == plan.updates - 3 for stream in streams)
    for u in range(3, plan.updates):
        batches = [batch for stream in streams for batch in stream[u - 3] if batch.tokens]
        numbers = range(4 * u, min(4 * u + 4, len(plan.pair)))
        assert sorted(b.sentence_B.tolist() for b in batches) == sorted(
            plan.sentence[plan.start[k] : plan.start[k + 1]].tolist() for k in numbers
        )
        assert sum(batch.tokens for batch in batches) == plan.divisor(u) == batches[0].divisor


def test_a_plan_takes_few_bytes_a_sentence() -> None:
    """Kept lengths 12 (number, source, target), the plan 4 and its batches; while it is made, one pair is drawn."""
    pairs, size = 20, 4000
    maker = np.random.default_rng(0)
    sides = [maker.integers(3, 60, (2, size), np.int32) for _ in range(pairs)]
    tracemalloc.start()
    try:
        lengths = [usable_lengths(source, target, 2, 1, 100) for source, target in sides]
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        plan_epoch(
            lengths, [size] * pairs, [7] * pairs, seed=1, epoch=3, max_tokens=1024, batches_per_update=4
        )  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1] - kept
    finally:
        tracemalloc.stop()
    assert kept / (pairs * size) < 13 and peak / (pairs * size) < 20


def test_numbers_of_32_bits_permute_as_those_of_64() -> None:
    size, offset = 1000, 300
    seed = seed_of(3, "draw", 1, 0)
    expected = np.random.Generator(np.random.Philox(seed)).permutation(size)[offset : offset + 9]
    assert draw_sentences(size, 9, offset, seed=3, pair=1).tolist() == expected.tolist()


def test_collate_by_hand() -> None:
    class Two:
        def pieces(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return [(np.array([10, 11, 12]), np.array([20])), (np.array([13]), np.array([21, 22]))][index]

    frame = frame_of(FramingSettings(encoder_langtok="src", decoder_langtok="tgt"), 101, 102)
    batch = collate(Two(), [0, 1], frame, pair=3, divisor=9)
    assert batch.source_BS.tolist() == [[101, 10, 11, 12, EOS], [101, 13, EOS, PAD, PAD]]
    assert batch.decoder_BT.tolist() == [[102, 20, PAD], [102, 21, 22]]
    assert batch.target_BT.tolist() == [[20, EOS, PAD], [21, 22, EOS]]
    assert (batch.tokens, batch.pair, batch.divisor) == (5, 3, 9)
    end = frame_of(
        FramingSettings(encoder_langtok="src", encoder_langtok_position="end", decoder_langtok="none"), 101, 102
    )
    batch = collate(Two(), [1], end, 0, 1)
    assert batch.source_BS.tolist() == [[13, 101]]
    assert batch.decoder_BT.tolist() == [[EOS, 21, 22]]


def test_temperature_by_hand() -> None:
    assert probabilities([100, 900], 1.0) == pytest.approx([0.1, 0.9])
    assert probabilities([100, 900], 2.0) == pytest.approx([0.25, 0.75])
    assert counts([0.25, 0.75], 10) == [3, 7] or counts([0.25, 0.75], 10) == [2, 8]
    assert sum(counts(probabilities([3, 5, 900], 5.0), 908)) == 908
    assert min(counts([0.0001, 0.9999], 20)) == 1

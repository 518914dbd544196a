"""Held-out sets: what is chosen, by hand; that nothing leaks, for any input."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnmt_ds.data import holdout
from mnmt_ds.data.held_out_text import held_out_text, join_held_out
from mnmt_ds.data.holdout import RowHashes
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import assign_splits, split_of_rows

HIGH = 1 << 63


def test_first_occurrences() -> None:
    np.testing.assert_array_equal(
        holdout.first_occurrences(np.array([5, 3, 5, 3, 1], np.uint64)), [True, True, False, False, True]
    )


def test_cap_keeps_the_lowest_hashes_of_each_domain() -> None:
    domain = np.array([0, 0, 0, 1, 0], np.uint16)
    pair = np.array([9, 2, 5, 7, 1], np.uint64)
    usable = np.array([True, True, True, True, False])
    np.testing.assert_array_equal(holdout.apply_domain_cap(domain, pair, usable, 2), [False, True, True, True, False])


def test_held_out_takes_lowest_keys_of_each_half() -> None:
    key = np.array([9, HIGH + 4, 3, HIGH + 1, 3, 7, HIGH + 9, 1], np.uint64)
    usable = np.array([True] * 7 + [False])
    # six keys (3, 7, 9 | +1, +4, +9): a quarter is one
    dev, test = holdout.choose_held_out_rows(key, usable, 5, 5)
    np.testing.assert_array_equal(dev, [2])
    np.testing.assert_array_equal(test, [3])
    many = np.arange(100, dtype=np.uint64) * np.uint64((1 << 64) // 100 + 1)
    dev, test = holdout.choose_held_out_rows(many, np.ones(100, bool), 3, 4)
    np.testing.assert_array_equal(dev, [0, 1, 2])
    np.testing.assert_array_equal(test, [50, 51, 52, 53])


def test_training_leaves_out_held_rows_and_takes_lowest_hashes() -> None:
    pair = np.array([50, 10, 40, 20, 30, 5], np.uint64)
    masks = {"held-out key": np.arange(6) == 1, "held-out source": np.isin(np.arange(6), [1, 5])}
    rows, counts = holdout.choose_training_rows(pair, np.ones(6, bool), masks, 2)
    np.testing.assert_array_equal(rows, [3, 4])
    assert counts == {"held-out key": 1, "held-out source": 1, "over limit": 2}


KEYS = st.lists(st.integers(0, 60).map(lambda n: n * (2**64 // 61)), min_size=0, max_size=80)


@given(pairs=st.lists(KEYS, min_size=1, max_size=4), dev=st.integers(1, 9), test=st.integers(0, 9))
def test_no_held_out_key_is_in_any_training_set(pairs: list[list[int]], dev: int, test: int) -> None:
    names = [f"x{i}-en" for i in range(len(pairs))]
    settings = DataSettings.model_validate({"pairs": names, "split": {"dev": dev, "test": test}})
    texts = {}
    for i, (name, keys) in enumerate(zip(names, pairs, strict=True)):
        key = np.array(keys, np.uint64)
        pair = np.arange(len(keys), dtype=np.uint64) * np.uint64(7919) + np.uint64(i)
        other = key // np.uint64(3) if i % 2 else pair  # of odd pairs, three sentences share a source
        texts[name] = {"train": RowHashes(key, other, key, pair, np.zeros(len(keys), np.uint16))}
    assignments = {name: assign_splits(settings, texts[name]) for name in names}
    held_out = join_held_out([held_out_text(name, texts[name], assignments[name].held_out) for name in names])
    held: dict[int, set[int]] = {holdout.DEV: set(), holdout.TEST: set()}
    trained: set[int] = set()
    for name in names:
        train = texts[name]["train"]
        split_N, counts = split_of_rows(settings, name, train, assignments[name], held_out)
        assert int((split_N == holdout.DEV).sum()) <= dev
        assert int((split_N == holdout.TEST).sum()) <= test
        assert int((split_N == holdout.DROPPED).sum()) == sum(counts.values())
        trained |= set(train.key[split_N == holdout.TRAIN].tolist())
        held_sources = train.source[(split_N == holdout.DEV) | (split_N == holdout.TEST)]
        assert not np.isin(train.source[split_N == holdout.TRAIN], held_sources).any()
        for role in held:
            held[role] |= set(train.key[split_N == role].tolist())
    assert not trained & (held[holdout.DEV] | held[holdout.TEST])
    assert not held[holdout.DEV] & held[holdout.TEST]


def test_a_pairs_sets_do_not_depend_on_the_order_of_its_text() -> None:
    draw = np.random.default_rng(1)
    key, pair = draw.integers(0, 2**64, (2, 500), np.uint64)
    settings = DataSettings.model_validate(
        {"pairs": ["fr-en"], "split": {"dev": 30, "test": 20}, "max_train": {"*": 100}}
    )

    def chosen(order: np.ndarray) -> list[set[int]]:
        train = RowHashes(key[order], pair[order], key[order], pair[order], np.zeros(500, np.uint16))
        assignment = assign_splits(settings, {"train": train})
        held_out = held_out_text("fr-en", {"train": train}, assignment.held_out)
        split_N, _ = split_of_rows(settings, "fr-en", train, assignment, held_out)
        return [set(pair[order][split_N == role].tolist()) for role in (holdout.TRAIN, holdout.DEV, holdout.TEST)]

    first = chosen(np.arange(500))
    assert [len(rows) for rows in first] == [100, 30, 20]
    assert chosen(draw.permutation(500)) == first

"""The position in the data counts sentences: however a resumed run cuts an epoch's rest, it has each sentence once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.engine.build import open_corpus, open_training_data
from mnmt_ds.engine.dataloading.data_iterator import DataIterator, position_from_updates
from mnmt_ds.engine.dataloading.position import Cut, position_of
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.parallel_layout import ParallelLayout
from tests.tiny import recipe

DENOISING = {
    "framing": {"encoder_langtok_position": "end"},
    "denoising": {"tasks": [{"name": "cd"}], "ratio": 0.2},
    "method": {"name": "by_task", "tasks": {"translation": {"name": "translation"}, "cd": {"name": "denoising"}}},
}
Drawn = Counter[tuple[int, int]]
"""How often each sentence of each pair or denoising source was drawn."""


def data(corpus: Path, **sections: Any) -> TrainingData:
    made = recipe(corpus, Path("run"), **sections)
    return open_training_data(made, open_corpus(made)[0], ParallelLayout())[0]


def draw(iterator: DataIterator, updates: int | None = None) -> Drawn:
    """Takes updates, or the rest of the epoch; what they drew."""
    drawn: Drawn = Counter()
    while not iterator.epoch_ended and updates != 0:
        first = iterator.update_in_plan * iterator.plan.batches_per_update
        for k in range(first, min(first + iterator.plan.batches_per_update, len(iterator.plan.pair))):
            rows = iterator.plan.sentence[iterator.plan.start[k] : iterator.plan.start[k + 1]]
            drawn.update((int(iterator.plan.pair[k]), int(row)) for row in rows)
        iterator.update_done()
        updates = None if updates is None else updates - 1
    return drawn


def coming(iterator: DataIterator) -> list[Any]:
    """What the coming update's micro-batches hold."""
    batches = next(iterator.training_data.iterate_updates(iterator.plan, iterator.update_in_plan))
    return [(batch.pair, batch.sentence_B.tolist(), batch.source_BS.tolist()) for batch in batches]


def resumed(iterator: DataIterator, training_data: TrainingData) -> DataIterator:
    """Goes on in another process, with what a checkpoint holds."""
    other = DataIterator(training_data)
    other.start(position_of(json.loads(json.dumps(iterator.position.values()))))
    other.trained = list(iterator.trained)
    return other


LEGS = {
    "larger": ({}, [{"max_tokens": 400}]),
    "smaller": ({}, [{"max_tokens": 30}]),
    "accumulation": ({}, [{"batches_per_update": 1}, {"batches_per_update": 7}]),
    "several": (
        {"sampler": {"temperature": 3}},
        [{"max_tokens": 60, "batches_per_update": 2}, {"max_tokens": 500}, {"max_tokens": 96}],
    ),
    "an update": ({}, [{"max_tokens": 2000, "batches_per_update": 100}]),
    "blocks": (
        {**DENOISING, "denoising": {"tasks": [{"name": "cd"}], "unit": "block", "block_tokens": 60}},
        [{"max_tokens": 70}, {"max_tokens": 30}, {"max_tokens": 300}],
    ),
    "denoising": (DENOISING, [{"max_tokens": 400}, {"max_tokens": 50, "batches_per_update": 9}]),
}
"""Sections of a recipe, and its ``train`` in each leg after the first."""


@pytest.mark.parametrize("name", LEGS)
def test_an_epoch_in_legs_has_its_sentences_once(tiny_corpus: Path, name: str) -> None:
    """Of each leg another budget or number of micro-batches, from mid-epoch on; then a whole epoch of the last."""
    sections, legs = LEGS[name]
    whole = DataIterator(data(tiny_corpus, **sections))
    expected = draw(whole)
    iterator = DataIterator(data(tiny_corpus, **sections))
    for epoch in range(2):
        drawn: Drawn = Counter()
        for leg in [{}, *legs] if epoch == 0 else []:
            iterator = resumed(iterator, data(tiny_corpus, **sections, train=leg))
            drawn += draw(iterator, 3)
        drawn += draw(iterator)
        assert drawn == expected
        assert iterator.epochs == pytest.approx(epoch + 1)
        iterator.next_epoch()
        whole = DataIterator(data(tiny_corpus, **sections, train=legs[-1]))
        draw(whole)
        whole.next_epoch()
        expected = draw(whole)


def test_with_nothing_changed_what_comes_is_what_came(tiny_corpus: Path) -> None:
    whole = DataIterator(data(tiny_corpus, **DENOISING))
    iterator = DataIterator(data(tiny_corpus, **DENOISING))
    for _ in range(2 * whole.plan.updates + 3):
        if whole.update % 5 == 3:
            iterator = resumed(iterator, data(tiny_corpus, **DENOISING))
        for each in (whole, iterator) if whole.epoch_ended else ():
            each.next_epoch()
        if whole.update % 5 == 4:
            assert coming(iterator) == coming(whole)
        assert draw(whole, 1) == draw(iterator, 1)
        assert (iterator.epochs, iterator.epoch_end) == (whole.epochs, whole.epoch_end)
        assert json.dumps(iterator.position.values()) == json.dumps(whole.position.values())


def test_what_is_too_long_for_a_smaller_budget_is_left_out_and_said(tiny_corpus: Path) -> None:
    """It comes again in the same epoch where the budget grows; the next epoch of a smaller one permutes the rest."""
    iterator = DataIterator(data(tiny_corpus))
    drawn = draw(iterator, 2)
    small = resumed(iterator, data(tiny_corpus, train={"max_tokens": 9}))
    assert "are longer than 9 tokens and left out" in small.describe_cut()
    longest = small.training_data.lengths
    left = draw(resumed(small, small.training_data))
    assert all(row in longest[pair].sentence for pair, row in left)
    left_out = sum(map(len, (lengths.sentence for lengths in iterator.training_data.lengths))) - (drawn + left).total()
    assert left_out > 0 and f"; {left_out} are longer" in small.describe_cut()
    taken = draw(small, 3)
    large = resumed(small, data(tiny_corpus, train={"max_tokens": 300}))
    assert drawn + taken + draw(large) == draw(DataIterator(data(tiny_corpus)))
    draw(small)
    small.next_epoch()
    assert draw(small) == Counter((pair, int(row)) for pair, part in enumerate(longest) for row in part.sentence)


def test_a_sampler_or_ratio_that_changed_is_that_of_the_next_epoch(tiny_corpus: Path) -> None:
    for before, now in (({}, {"sampler": {"temperature": 50}}), (DENOISING, {"denoising": {"ratio": 2.0}})):
        whole = DataIterator(data(tiny_corpus, **before))
        expected = draw(whole)
        iterator = DataIterator(data(tiny_corpus, **before))
        drawn = draw(iterator, 4)
        sections = {**before, **{name: {**before.get(name, {}), **values} for name, values in now.items()}}
        iterator = resumed(iterator, data(tiny_corpus, **sections))
        assert drawn + draw(iterator) == expected
        iterator.next_epoch()
        whole.next_epoch()
        assert draw(iterator) != draw(whole)


def test_items_of_text_go_on_where_another_ratio_left_them(tiny_corpus: Path) -> None:
    """No item comes twice before all came once, whatever the ratios of the epochs were."""
    first = data(tiny_corpus, **DENOISING)
    segment = first.whole_epoch(0)
    for ratio in (0.2, 1.4, 0.5):
        other = data(tiny_corpus, **{**DENOISING, "denoising": {"tasks": [{"name": "cd"}], "ratio": ratio}})
        following = other.next_epoch(segment, segment.trained, other.sampler.probabilities)
        for language, items in segment.items.items():
            assert following.items[language].first == items.first + items.drawn
        segment = following


@pytest.mark.parametrize("sections", [{}, DENOISING], ids=["plain", "denoising"])
def test_positions_that_count_updates_are_read(tiny_corpus: Path, sections: dict[str, Any]) -> None:
    """As version 0.1.0 wrote them: with a segment, and without; by another budget than the present one."""
    whole = DataIterator(data(tiny_corpus, **sections))
    draw(whole)
    whole.next_epoch()
    drawn, trained = draw(whole, 3), list(whole.position.segment.trained)
    written = [whole.update, 1, 3, [whole.training_data.sampler.probabilities, trained, 0, 0]]
    cut, denoising = Cut(96, 4), whole.training_data.denoising
    settings = denoising.settings if denoising is not None else None
    for values in (written, written[:3]):
        read = position_from_updates(values, data(tiny_corpus, **sections), cut, settings)
        assert json.dumps(read.values()) == json.dumps(whole.position.values())
        other = data(tiny_corpus, **sections, train={"max_tokens": 300})
        iterator = DataIterator(other)
        iterator.start(position_from_updates(values, other, cut, settings))
        iterator.trained = list(whole.trained)
        rest = draw(iterator)
        again = DataIterator(data(tiny_corpus, **sections))
        draw(again)
        again.next_epoch()
        assert drawn + rest == draw(again)


def test_a_new_distribution_within_an_epoch_also_behind_a_cut(tiny_corpus: Path) -> None:
    iterator = DataIterator(data(tiny_corpus))
    draw(iterator, 2)
    iterator = resumed(iterator, data(tiny_corpus, train={"max_tokens": 200}))
    draw(iterator, 1)
    done = sum(iterator.trained)
    iterator.training_data.sampler.distribution.set([0.6, 0.3, 0.1])
    iterator.replan()
    assert iterator.position.segment.done == done
    draw(iterator)
    assert sum(iterator.trained) == sum(iterator.training_data.sizes)

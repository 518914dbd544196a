"""Dev sets as batches: each rank makes its own alone, and all take equally many steps."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mnmt_ds.batch import Batch
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.engine.dataloading import training_data
from mnmt_ds.engine.dataloading.training_data import dev_batches, dev_tokens
from mnmt_ds.engine.monitoring.validation import validate
from mnmt_ds.parallel_layout import ParallelLayout, RankGroup


def of_ranks(corpus: Corpus, size: int, max_tokens: int = 128) -> list[training_data.DevBatches]:
    """What each of some data-parallel ranks holds."""
    groups = [RankGroup(rank, size) for rank in range(size)]
    tokens = dev_tokens(corpus, corpus.pairs, FramingSettings(), 64)
    return [
        dev_batches(corpus, tokens, FramingSettings(), max_tokens, 64, ParallelLayout(group, group)) for group in groups
    ]


def same(one: Batch, other: Batch) -> bool:
    return one.pair == other.pair and one.divisor == other.divisor and torch.equal(one.source_BS, other.source_BS)


def test_ranks_share_the_batches_of_one(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.open(tiny_corpus)
    (whole,) = of_ranks(corpus, 1)
    assert whole.steps == len(whole.batches) > 4
    made = []
    monkeypatch.setattr(
        training_data, "collate", lambda *args: made.append(args) or Batch(*[None] * 3, *args[3:4], *[None] * 3)
    )
    of_ranks(corpus, 4)
    assert len(made) <= len(whole.batches) + 3  # the ranks together, not each of them
    monkeypatch.undo()
    ranks = of_ranks(corpus, 4)
    assert {rank.steps for rank in ranks} == {-(-len(whole.batches) // 4)}
    for number, batch in enumerate(whole.batches):
        assert same(ranks[number % 4].batches[number // 4], batch)
    assert sum(len(rank.batches) for rank in ranks) == len(whole.batches)
    assert sum(batch.tokens for batch in whole.batches) == sum(
        dev_tokens(corpus, corpus.pairs, FramingSettings(), 64).values()
    )


def test_a_rank_without_a_batch_takes_part(tiny_corpus: Path) -> None:
    corpus = Corpus.open(tiny_corpus)
    ranks = of_ranks(corpus, 16, max_tokens=1 << 20)  # a batch a pair
    count = len(corpus.pairs)
    assert [len(rank.batches) for rank in ranks] == [1] * count + [0] * (16 - count)
    assert all(rank.steps == 1 and same(rank.empty, ranks[0].batches[0]) for rank in ranks[count:])


def test_every_rank_runs_every_step_of_a_validation(tiny_corpus: Path) -> None:
    """Also those that it does not count: an engine runs a batch when its figures are asked for."""
    corpus = Corpus.open(tiny_corpus)
    for rank in of_ranks(corpus, 16, max_tokens=1 << 20):
        run = []

        def eval_metrics(batches: list[Batch], compute_loss: Any, run: list[Batch] = run) -> Iterator[dict[str, Any]]:
            for batch in batches:
                run.append(batch)
                yield {"ce": torch.ones(2), "nll": torch.ones(1)}

        layout = SimpleNamespace(device="cpu", sum_over_ranks=lambda sums: sums + 1.0)
        engine: Any = SimpleNamespace(layout=layout, eval_metrics=eval_metrics)
        found = validate(engine, rank, corpus.pairs, lambda *_: {})
        assert len(run) == rank.steps == 1
        assert all(row["loss"] == row["nll"] == 1.0 for row in found.values())  # 1/1 or, of its own batch, 2/2

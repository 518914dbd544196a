"""Dev sets as batches: each rank makes its own alone, and all take equally many steps."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.engine.dataloading import dev_batches as module
from mnmt_ds.engine.dataloading.dev_batches import dev_batches, dev_tokens
from mnmt_ds.engine.monitoring.validation import validate
from mnmt_ds.parallel_layout import ParallelLayout, RankGroup
from tests.spawn import on_ranks
from tests.tiny import recipe, zero


def of_ranks(corpus: Corpus, size: int, max_tokens: int = 128) -> list[module.DevBatches]:
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
        module, "collate", lambda *args: made.append(args) or Batch(*[None] * 3, *args[3:4], *[None] * 3)
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


def measure(corpus: str, folder: str, mixed: bool) -> list[dict[str, dict[str, float]]]:
    """Dev figures of a few layouts, after an update; with a small budget, so that there are several batches."""
    from mnmt_ds.engine.loop import Training

    module.MIXED_FROM = 1 if mixed else 64
    found = []
    for name, sections in LAYOUTS.items():
        stage, run = int(name[4]) if name.startswith("zero") else 0, Path(folder) / f"{name}-{mixed}"
        values = recipe(
            Path(corpus), run, deepspeed=zero(stage, run), validation={"max_tokens": 128}, **{"model": {}, **sections}
        )
        training = Training(values, resume=False)
        assert (training.dev.pairs is not None) == mixed
        found.append(validate(training.first.engine, training.dev, training.pairs, training.plain_loss_function))
        training.close()
        if training.lock is not None:
            training.lock.close()
    return found


def measure_both(corpus: str, folder: str) -> list[list[dict[str, dict[str, float]]]]:
    return [measure(corpus, folder, mixed) for mixed in (False, True)]


LAYOUTS: dict[str, dict[str, Any]] = {
    "zero1": {}, "zero3": {}, "stages": {"pipeline": {"stages": 2}}, "words": {"tensor": {"vocabulary": 2}},
}  # fmt: skip


def test_mixed_batches_measure_the_same(tiny_corpus: Path, tmp_path: Path) -> None:
    """Each pair's figures, on every layout; and every sentence stands in one batch, framed as its pair is."""
    [(apart, mixed), other] = on_ranks(2, measure_both, str(tiny_corpus), str(tmp_path))
    assert other == [apart, mixed]
    for layout, one, two in zip(LAYOUTS, apart, mixed, strict=True):
        assert one.keys() == two.keys() and len({row["loss"] for row in one.values()}) == len(one)
        for pair, row in one.items():
            assert two[pair] == pytest.approx(row, rel=2e-6), (layout, pair)


def test_mixed_batches_hold_every_sentence_once(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.open(tiny_corpus)
    apart = [batch for batch in of_ranks(corpus, 1)[0].batches]
    monkeypatch.setattr(module, "MIXED_FROM", 1)
    for at_once in (1 << 20, 13):
        monkeypatch.setattr(module, "MIXED_AT_ONCE", at_once)
        (whole,) = of_ranks(corpus, 1)
        ranks = of_ranks(corpus, 3)
        assert {rank.steps for rank in ranks} == {-(-whole.steps // 3)}
        assert all(rank.pairs is not None and len(rank.pairs) == len(rank.batches) for rank in ranks)
        assert at_once < 1 << 20 or (
            len(whole.batches) < len(apart) and max(len(set(p)) for p in whole.pairs or ()) == 3
        )
        expected = sorted(row for batch in apart for row in rows_of(batch, [batch.pair] * len(batch.sentence_B)))
        for shares in ([whole], ranks):
            found = [
                row
                for rank in shares
                for b, p in zip(rank.batches, rank.pairs or (), strict=True)
                for row in rows_of(b, p)
            ]
            assert sorted(found) == expected
    ranks = of_ranks(corpus, 64)
    assert [len(rank.batches) for rank in ranks][-1] == 0 and len({rank.steps for rank in ranks}) == 1
    assert all(torch.equal(rank.empty.source_BS, ranks[-1].empty.source_BS) for rank in ranks[-3:])


def rows_of(batch: Batch, pairs: Any) -> list[tuple[int, int, str, str, str]]:
    """Pair, number and tokens of each sentence."""
    tensors = batch.source_BS, batch.decoder_BT, batch.target_BT
    texts = [[str([token for token in row if token != PAD]) for row in tensor.tolist()] for tensor in tensors]
    return list(zip(map(int, pairs), batch.sentence_B.tolist(), *texts, strict=True))

"""Which messages bring teachers to 512 ranks: the schedule of a fetch without tensors, against its formula."""

from collections import Counter

import pytest
import torch
from torch import nn

from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.teachers.shard_exchange import MAX_ELEMENTS_PER_EXCHANGE, distinct_teachers, fetch_cost
from mnmt_ds.teachers.shard_layout import ShardLayout, shard_layout
from mnmt_ds.teachers.sharded_teachers import BufferTable, FetchRequest, planned_exchanges

RANKS, HALF = 512, 2


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """NLLB's 3.3B shape, without memory."""
    with torch.device("meta"):
        return Transformer(ModelSettings.model_validate({"preset": "nllb_3.3b"}), 256_206)


@pytest.fixture(scope="module")
def layout(model: nn.Module) -> ShardLayout:
    return shard_layout(model, model.head.weight, RANKS)  # type: ignore[union-attr, arg-type]


def simulate(layout: ShardLayout, table: BufferTable, versions: list[int | None], projection: bool) -> Counter[str]:
    """Counts of the busiest rank: what it sends, receives and copies."""
    requests = [None if v is None else FetchRequest(v, projection) for v in versions]
    counts: Counter[str] = Counter()
    received = [0] * RANKS
    for served, start, stop in planned_exchanges(table.plan_transfers(requests, layout), layout):
        receivers = [rank for rank, transfer in enumerate(served) if transfer]
        assert 0 < (stop - start) * RANKS <= MAX_ELEMENTS_PER_EXCHANGE
        counts["exchanges"] += 1
        counts["copies"] += len(distinct_teachers([transfer.version if transfer else None for transfer in served]))
        counts["messages"] += len(receivers) - (RANKS - 1 in receivers)  # of the last rank
        for rank in receivers:
            received[rank] += (stop - start) * RANKS * HALF
    return counts + Counter(received=max(received))


def test_a_fetch_takes_what_the_formula_says(model: nn.Module, layout: ShardLayout) -> None:
    """All ranks need another teacher each time: at most the formula's, and all of it where teachers are enough."""
    elements, projection = sum(p.numel() for p in model.parameters()), model.head.weight.numel()  # type: ignore[union-attr, operator]
    assert 3.2e9 < elements < 3.4e9
    for distinct in (1, 64, 2000):
        table = BufferTable(RANKS)
        for number in range(4):
            versions: list[int | None] = [number * distinct + rank % distinct for rank in range(RANKS)]
            found, cost = (
                simulate(layout, table, versions, False),
                fetch_cost(elements, projection, RANKS, HALF, distinct),
            )
            assert found["exchanges"] == cost.exchanges == 51
            assert found["copies"] == cost.copies == 51 * min(distinct, RANKS)
            assert found["messages"] == cost.messages == 51 * (RANKS - 1)
            assert found["received"] == pytest.approx(cost.received, rel=1e-3)  # pieces are padded each for itself
    assert simulate(layout, table, versions, False) == Counter()  # all is there


def test_some_ranks_need_some_of_it(layout: ShardLayout) -> None:
    """Cached states want the projection alone; the rest follows once the whole teacher is asked for."""
    table = BufferTable(RANKS)
    versions: list[int | None] = [7 if rank % 2 else None for rank in range(RANKS)]
    first = simulate(layout, table, versions, True)
    assert (
        first["received"] == layout.projection_length * RANKS * HALF and first["messages"] == first["exchanges"] * 255
    )
    rest = simulate(layout, table, versions, False)
    assert rest["received"] == (layout.length - layout.projection_length) * RANKS * HALF
    assert simulate(layout, table, [9] * RANKS, False)["copies"] == first["exchanges"] + rest["exchanges"]

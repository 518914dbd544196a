"""Ranks of a layout: as DeepSpeed's topology numbers them, every rank in one place; data shared out evenly."""

import pytest

from mnmt_ds.distributed import RankGroup
from mnmt_ds.parallel_layout import ParallelLayout, plan_layout


def layouts(size: int, stages: int, shards: int) -> list[ParallelLayout]:
    """The layout seen from each rank."""
    groups = [RankGroup(rank, size) for rank in range(size)]
    return [
        ParallelLayout(group, group, pipeline_parallel_size=stages, vocab_parallel_size=shards) for group in groups
    ]  # fmt: skip


@pytest.mark.parametrize(("stages", "shards", "data"), [(1, 1, 4), (2, 1, 2), (1, 2, 3), (2, 2, 2), (3, 2, 1)])
def test_ranks_are_deepspeeds(stages: int, shards: int, data: int) -> None:
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    size = stages * shards * data
    topology = PipeModelDataParallelTopology(stages, shards, data)
    places = set()
    for rank, layout in enumerate(layouts(size, stages, shards)):
        coordinate = topology.get_coord(rank)
        place = (layout.pipeline_parallel_rank, layout.data_parallel_rank, layout.vocab_parallel_rank)
        assert place == (coordinate.pipe, coordinate.data, coordinate.model), rank
        assert layout.data_parallel_size == data
        places.add(place)
    assert len(places) == size


def test_micro_batch_indices_of_an_update_are_taken_once() -> None:
    """On two data-parallel ranks of three micro-batches each; stages share theirs."""
    indices = [[layout.update_index(index) for index in range(3)] for layout in layouts(4, 2, 1)]
    assert indices == [[0, 2, 4], [1, 3, 5]] * 2


def test_teams_of_planned_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours form a team; one process plans for itself."""
    monkeypatch.setenv("WORLD_SIZE", "6")
    seen = []
    for rank in range(6):
        monkeypatch.setenv("RANK", str(rank))
        layout = plan_layout(teams=2)
        seen.append((layout.team, layout.ranks.rank, layout.ranks.size, layout.job.rank))
    assert seen == [(0, 0, 3, 0), (0, 1, 3, 1), (0, 2, 3, 2), (1, 0, 3, 3), (1, 1, 3, 4), (1, 2, 3, 5)]
    assert ParallelLayout().data_parallel_size == 1 and ParallelLayout().is_main

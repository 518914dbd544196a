"""Every rank launches the collectives that it shares with another rank in the same order as that one, as NCCL wants it.

Background jobs are launched by their caller, as on GPUs of several ranks.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.teachers import background
from tests.engine.test_pipeline import Case, settings
from tests.engine.test_students import run_recipe
from tests.spawn import on_ranks

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_to_all", "all_to_all_single", "broadcast",
    "reduce_scatter", "reduce_scatter_tensor", "reduce", "gather", "scatter", "barrier",
)  # fmt: skip
Call = tuple[str, tuple[int, ...], int]
"""Name, ranks, and numbers of its first tensor where these must be equal."""


def record(log: list[Call], patch: pytest.MonkeyPatch) -> None:
    """Writes down every collective that this rank launches from now on."""

    def recorded(name: str) -> Any:
        original = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            group = next((x for x in (*arguments, *options.values()) if isinstance(x, dist.ProcessGroup)), None)
            tensor = next((x for x in arguments if isinstance(x, Tensor)), None)
            size = tensor.numel() if name in ("all_reduce", "broadcast") and tensor is not None else 0
            log.append((name, tuple(dist.get_process_group_ranks(group or dist.group.WORLD)), size))
            return original(*arguments, **options)

        return call

    for name in COLLECTIVES:
        patch.setattr(dist, name, recorded(name))


def train_recorded(what: str, corpus: str, folder: str) -> list[Call]:
    """A small run; the collectives of this rank in order."""
    from mnmt_ds.engine.loop import train

    log: list[Call] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "runs_in_caller", lambda device, ranks: True)
        record(log, patch)
        if what == "lssd":
            train(settings(corpus, folder, Case("lssd", 0, 1), updates=6))
        elif what == "pipeline":
            train(settings(corpus, folder, Case("lssd", 2, 1), updates=6))
        else:
            train(run_recipe(corpus, folder, "bi", 1).model_copy(update={"placement": "split"}))
    return log


def first_difference(calls: list[list[Call]]) -> str:
    """The first call that two ranks share and launch at different places among those that they share; empty: none."""
    for a, b in itertools.combinations(range(len(calls)), 2):
        shared = [[call for call in calls[rank] if a in call[1] and b in call[1]] for rank in (a, b)]
        for number, (x, y) in enumerate(itertools.zip_longest(*shared)):
            if x != y:
                return f"call {number}: rank {a} launches {x}, rank {b} {y}"
    return ""


def test_a_difference_is_seen() -> None:
    one, two = ("all_reduce", (0, 1), 4), ("barrier", (0, 1), 0)
    alone = ("all_reduce", (0,), 1)
    assert first_difference([[alone, one, two], [one, two]]) == ""
    assert "call 0" in first_difference([[one, two], [two, one]])
    assert "call 1" in first_difference([[one, two], [one]])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lssd", "pareto", "pipeline"])
def test_ranks_launch_in_one_order(tiny_corpus: Path, tmp_path: Path, what: str) -> None:
    calls = on_ranks(2, train_recorded, what, str(tiny_corpus), str(tmp_path / "run"))
    assert len(calls[0]) > 20 and first_difference(calls) == ""

"""Projection split over two ranks by vocabulary, evenly and not: the definition's loss, sums and gradients."""

import itertools
from typing import Any

import torch
import torch.distributed as dist

from mnmt_ds.kernels.ce_with_teacher import Gate, ce_with_teacher
from tests.kernels.cases import case, numbers, outcome
from tests.spawn import on_ranks

MIXES = [
    {"gates": (Gate("adaptive"),), "temperature": 2.0, "masked": True},
    {"gates": (Gate("selective", "token", below=0.2), Gate()), "passes": 2},
    {},
]
FIRST = (25, 31)
"""Words of the first rank."""


def _rank() -> list[tuple[dict[str, list[float]], list[Any], list[Any]]]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    group, rank, results = parallel_state.get_tensor_model_parallel_group(), dist.get_rank(), []
    for mix, first in itertools.product(MIXES, FIRST):
        c = case(words=50, **mix).to(torch.float64)
        words = slice(first) if rank == 0 else slice(first, 50)
        teachers = [
            t._replace(
                projection_VE=t.projection_VE[words],
                vocabulary_V=None if t.vocabulary_V is None else t.vocabulary_V[words],
            )
            for t in c.teachers
        ]
        hidden, projection = c.hidden.requires_grad_(), c.projection[words].clone().requires_grad_()
        sums = ce_with_teacher(hidden, projection, c.target, teachers, **c.options, group=group)
        gradients = torch.autograd.grad(sums.loss, (hidden, projection))
        # plain numbers: a tensor in a queue dies with the process that sent it
        plain = {name: value.tolist() for name, value in numbers(sums).items()}
        results.append((plain, *(gradient.tolist() for gradient in gradients)))
    return results


def exactly(numbers: list[Any]) -> torch.Tensor:
    """Nested lists back to float64."""
    return torch.tensor(numbers, dtype=torch.float64)


def test_two_ranks_agree_with_the_definition() -> None:
    ranks = on_ranks(2, _rank)
    for i, (mix, _) in enumerate(itertools.product(MIXES, FIRST)):
        sums, hidden, projection = outcome(case(words=50, **mix).to(torch.float64), "reference")
        for name, value in numbers(sums).items():
            for rank in ranks:
                torch.testing.assert_close(exactly(rank[i][0][name]), value, msg=lambda m, n=name: f"{n}: {m}")
        for rank in ranks:
            torch.testing.assert_close(exactly(rank[i][1]), hidden)
        torch.testing.assert_close(torch.cat([exactly(rank[i][2]) for rank in ranks]), projection)


def _nan_on_one_rank(place: int) -> list[bool]:
    """Loss and this rank's gradients where one rank's words hold a NaN: MAX over gloo loses it."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    group, rank = parallel_state.get_tensor_model_parallel_group(), dist.get_rank()
    c = case(words=50)
    projection = (c.projection[:25] if rank == 0 else c.projection[25:]).clone()
    if rank == place:
        projection[3] = float("nan")
    hidden, projection = c.hidden.requires_grad_(), projection.requires_grad_()
    sums = ce_with_teacher(hidden, projection, c.target, **c.options, group=group)
    gradients = torch.autograd.grad(sums.loss, (hidden, projection))
    return [bool(value.isnan().any()) for value in (sums.loss, *gradients)]


def test_a_nan_of_one_rank_reaches_all() -> None:
    for place in (0, 1):
        assert on_ranks(2, _nan_on_one_rank, place) == [[True] * 3] * 2

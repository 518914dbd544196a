"""Every implementation of the fused loss by its name: the reference's sums and gradients, in parts, and of nothing.

Ranks with data of their own are the parts. Over ranks that share a vocabulary there is one implementation, whatever
name is asked for; `tests/kernels/test_vocab_parallel.py` holds it to the reference on two ranks, split evenly and not.

Shape letters: K passes, B sentences, T target positions, D and E widths of student and teacher, V vocabulary.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.kernels.implementations import NAMES, resolve_implementation
from mnmt_ds.kernels.types import Gate, LossSums, Teacher

PAD, PASSES = 1, 2
every_implementation = pytest.mark.parametrize("name", NAMES)


class Scored(NamedTuple):
    """A loss with its gradients."""

    sums: LossSums
    hidden_BTD: Tensor
    """Gradient of the decoder states."""
    projection_VD: Tensor
    """Gradient of the projection."""


def score(name: str, target_BT: Tensor, rows: slice = slice(None)) -> Scored:
    """The loss of some rows of a small problem with passes and an adaptive teacher."""
    try:
        resolve_implementation(name, torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))
    generator = torch.Generator().manual_seed(3)
    batch, length = target_BT.shape
    hidden_KBTD = torch.randn(PASSES, batch, length, 8, generator=generator)
    projection_VD = torch.randn(37, 8, generator=generator).requires_grad_()
    teacher_BTE = torch.randn(batch, length, 6, generator=generator)
    teacher_VE = torch.randn(37, 6, generator=generator)
    hidden_BTD = hidden_KBTD[:, rows].flatten(0, 1).requires_grad_()
    teacher = Teacher(teacher_BTE[rows], teacher_VE, 0.7, Gate("adaptive", "sentence", 2.0))
    sums = ce_with_teacher(
        hidden_BTD, projection_VD, target_BT[rows], (teacher,), smoothing=0.1, gold_weight=0.6, passes=PASSES,
        divergence_weight=0.5, pad=PAD, implementation=name,
    )  # fmt: skip
    sums.loss.backward()  # type: ignore[no-untyped-call]
    assert hidden_BTD.grad is not None and projection_VD.grad is not None
    return Scored(sums, hidden_BTD.grad, projection_VD.grad)


def some_targets() -> Tensor:
    """Three sentences of different lengths, (3, 5)."""
    target_BT = torch.randint(2, 37, (3, 5), generator=torch.Generator().manual_seed(5))
    target_BT[1, 3:] = target_BT[2, 1:] = PAD
    return target_BT


@every_implementation
def test_sums_and_gradients_are_the_references(name: str) -> None:
    wanted, mine = score("reference", some_targets()), score(name, some_targets())
    assert float(wanted.sums.loss.detach()) > 1 and float(wanted.projection_VD.abs().max()) > 0.1
    for field in ("loss", "ce", "nll", "kd", "gate", "divergence", "tokens"):
        torch.testing.assert_close(getattr(mine.sums, field), getattr(wanted.sums, field), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.hidden_BTD, wanted.hidden_BTD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.projection_VD, wanted.projection_VD, rtol=1e-4, atol=1e-5)


@every_implementation
def test_a_batch_in_parts_has_the_same_loss(name: str) -> None:
    """The loss is a sum over tokens: micro-batches add up, whatever rank has them."""
    whole = score(name, some_targets())
    parts = [score(name, some_targets(), rows) for rows in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(part.sums.loss for part in parts), whole.sums.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sum(part.projection_VD for part in parts), whole.projection_VD, rtol=1e-4, atol=1e-5)


@every_implementation
def test_an_empty_micro_batch_costs_nothing(name: str) -> None:
    empty = score(name, torch.full((1, 1), PAD))
    assert float(empty.sums.loss.detach()) == 0.0 and float(empty.sums.tokens) == 0.0
    assert not empty.hidden_BTD.any() and not empty.projection_VD.any()
    assert all(bool(value.isfinite().all()) for value in empty.sums if isinstance(value, Tensor))

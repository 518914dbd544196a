"""The torch.library operator: PyTorch's own checks, and a whole graph under torch.compile."""

import os
from collections.abc import Callable

import pytest
import torch

from mnmt_ds.kernels.ce_with_teacher import Gate, LossSums, Teacher, ce_with_teacher
from mnmt_ds.kernels.operator import ce_with_teacher_op
from tests.kernels.cases import Case, case, numbers

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("PRETEND_GPU")), reason="torch's compiler asks the GPU that it is told of"
)


@pytest.mark.parametrize("implementation", ["chunked", "auto"])
def test_opcheck(implementation: str) -> None:
    c = case(words=20, gates=(Gate(),))
    t = c.teachers[0]
    arguments = (
        c.hidden.requires_grad_(), c.projection.requires_grad_(), c.target, [t.hidden_BTE], [t.projection_VE],
        [torch.ones(()), torch.ones(())], [torch.empty(0, dtype=torch.bool)], [1.0, 0.0, 2.0, 0.0, 0.0, 1.0],
        0.1, 1, 0.0, 1, implementation, True, True,
    )  # fmt: skip
    torch.library.opcheck(ce_with_teacher_op, arguments)


def test_compile_keeps_the_graph() -> None:
    c = case(words=20, gates=(Gate("adaptive"),), passes=2)

    def loss(hidden: torch.Tensor, projection: torch.Tensor, teacher_hidden: torch.Tensor) -> LossSums:
        teacher: Teacher = c.teachers[0]._replace(hidden_BTE=teacher_hidden)
        return ce_with_teacher(hidden * 2, projection, c.target, [teacher], **c.options)

    assert_compiled_equals_eager(loss, c, c.teachers[0].hidden_BTE)


def test_compile_without_a_teacher() -> None:
    c = case(words=20)

    def loss(hidden: torch.Tensor, projection: torch.Tensor) -> LossSums:
        return ce_with_teacher(hidden, projection, c.target, **c.options)

    assert_compiled_equals_eager(loss, c)


def assert_compiled_equals_eager(loss: Callable[..., LossSums], c: Case, *others: torch.Tensor) -> None:
    """The same sums and gradients, in one graph."""
    leaves = (c.hidden.requires_grad_(), c.projection.requires_grad_())
    eager = loss(*leaves, *others)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves, *others)
    for name, value in numbers(eager).items():
        torch.testing.assert_close(numbers(compiled)[name], value, msg=name)
    torch.testing.assert_close(torch.autograd.grad(compiled.loss, leaves), torch.autograd.grad(eager.loss, leaves))

"""Teachers cut to their most probable words: by hand, against the definition, and what is refused."""

import math

import pytest
import torch

from mnmt_ds.errors import UserError
from mnmt_ds.kernels import top_k
from mnmt_ds.kernels.ce_with_teacher import Gate, Teacher, ce_with_teacher
from tests.kernels.cases import Case, case


def gradients(c: Case, implementation: str) -> list[torch.Tensor]:
    hidden, projection = (x.clone().requires_grad_() for x in (c.hidden, c.projection))
    sums = ce_with_teacher(hidden, projection, c.target, c.teachers, **c.options, implementation=implementation)
    sums.loss.backward()
    assert hidden.grad is not None and projection.grad is not None
    return [sums.loss.detach(), *sums.kd, *sums.gate, *sums.teacher_probability, *sums.agreement, sums.ce,
            hidden.grad, projection.grad]  # fmt: skip


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_definition(monkeypatch: pytest.MonkeyPatch, passes: int, masked: bool) -> None:
    """Loss, statistics and gradients, beside a teacher with all words, over several chunks."""
    monkeypatch.setattr(top_k, "CHUNK", 250 * 3)
    c = case(4, 6, passes=passes, gates=(Gate(), Gate("adaptive"), Gate()), temperature=0.6, masked=masked)
    c = c.to(torch.float64)
    c = c._replace(teachers=[t._replace(top_k=k) for t, k in zip(c.teachers, (4, 0, 999), strict=True)])
    for ours, definition in zip(gradients(c, "chunked"), gradients(c, "reference"), strict=True):
        torch.testing.assert_close(ours, definition, rtol=1e-12, atol=1e-12)


def test_two_of_three_words_by_hand() -> None:
    """Teacher logits (log 4, log 2, log 1), T 2, k 2: shares 2 : sqrt 2; the student is uniform."""
    logits = torch.tensor([[math.log(4)], [math.log(2)], [0.0]])
    teacher = Teacher(torch.ones(1, 1, 1), logits, 0.5, temperature=2.0, top_k=2)
    hidden, projection = torch.ones(1, 1, 1), torch.tensor([[0.0], [2 * math.log(2)], [0.0]])  # at T 2: 1 : 2 : 1
    for implementation in ("auto", "reference"):
        sums = ce_with_teacher(
            hidden, projection, torch.zeros(1, 1, dtype=torch.long), [teacher], smoothing=0.0, gold_weight=0.0, pad=-1,
            implementation=implementation,
        )  # fmt: skip
        first = 2 / (2 + math.sqrt(2))
        kd = 4 * (first * math.log(4) + (1 - first) * math.log(2))
        assert sums.kd[0].item() == pytest.approx(kd, rel=1e-6)
        assert sums.loss.item() == pytest.approx(0.5 * kd, rel=1e-6)
        assert sums.teacher_probability[0].item() == pytest.approx(4 / 7)
        assert sums.agreement[0].item() == 0.0 and sums.gate[0].item() == 1.0


def test_all_words_are_the_whole_distribution_and_gates_are_refused() -> None:
    c = case(gates=(Gate(),), temperature=0.6)
    cut = c._replace(teachers=[c.teachers[0]._replace(top_k=250)])
    for ours, whole in zip(gradients(cut, "auto"), gradients(c, "auto"), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)
    gated = c._replace(teachers=[c.teachers[0]._replace(top_k=4, gate=Gate("adaptive"))])
    with pytest.raises(UserError, match="top_k 4 with gate adaptive; give 0, or gate whole"):
        gradients(gated, "auto")


def test_a_batch_of_padding_alone() -> None:
    c = case(2, 3, gates=(Gate(),))
    c = c._replace(target=torch.ones_like(c.target), teachers=[c.teachers[0]._replace(top_k=3)])
    loss, *_, dhidden, dprojection = gradients(c, "auto")
    assert loss == 0 and not dhidden.any() and not dprojection.any()

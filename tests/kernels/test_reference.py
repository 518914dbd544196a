"""The definition itself: by hand, against autograd, and its limits."""

import math

import pytest
import torch
from torch.nn import functional as F

from mnmt_ds.kernels.ce_with_teacher import Gate, Teacher, ce_with_teacher
from mnmt_ds.kernels.reference import x_divergence
from tests.kernels.cases import case

GATES = (Gate("adaptive", "token", 1.5), Gate("selective", "sentence", below=0.2))


def test_smoothed_ce_is_pytorchs() -> None:
    c = case(sentences=2, words=11)
    sums = ce_with_teacher(c.hidden, c.projection, c.target, implementation="reference")
    logits = F.linear(c.hidden, c.projection).flatten(0, 1)
    expected = F.cross_entropy(logits, c.target.flatten(), label_smoothing=0.1, ignore_index=1, reduction="sum")
    torch.testing.assert_close(sums.loss, expected)
    assert sums.tokens == (c.target != 1).sum()


def test_two_words_by_hand() -> None:
    """Student (1/4, 3/4), teacher (1/2, 1/2), gold word 0: every sum by hand."""
    hidden, projection = torch.ones(1, 1, 1), torch.tensor([[0.0], [math.log(3)]])
    teacher = Teacher(torch.ones(1, 1, 1), torch.zeros(2, 1), 0.5, Gate("adaptive", cap=1.5))
    for implementation in ("reference", "chunked", "auto"):
        sums = ce_with_teacher(
            hidden, projection, torch.zeros(1, 1, dtype=torch.long), [teacher], smoothing=0.2, pad=-1,
            implementation=implementation,
        )  # fmt: skip
        ce = 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
        kd = 0.5 * math.log(4) + 0.5 * math.log(4 / 3)
        assert sums.ce.item() == pytest.approx(ce, rel=1e-6)
        assert sums.nll.item() == pytest.approx(math.log(4), rel=1e-6)
        assert sums.kd[0].item() == pytest.approx(1.5 * kd, rel=1e-6)  # P(teacher) / P(student) = 2, cut at 1.5
        assert sums.loss.item() == pytest.approx(ce + 0.5 * 1.5 * kd, rel=1e-6)
        assert sums.gate[0].item() == 1.5
        assert sums.student_probability_B.item() == pytest.approx(0.25)
        assert sums.teacher_probability[0].item() == pytest.approx(0.5)
        assert sums.agreement[0].item() == 0.0  # the teacher's tie goes to word 0


def test_x_divergence_is_both_kl_terms() -> None:
    logp = torch.randn(3, 2, 4, 9, dtype=torch.float64).log_softmax(-1)
    mean = logp.exp().mean(0)
    both = (logp.exp() * (logp - mean.log()) + mean * (mean.log() - logp)).sum(-1).mean(0)
    torch.testing.assert_close(x_divergence(logp), both)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize("passes", [1, 2])
def test_gradcheck(implementation: str, passes: int) -> None:
    c = case(2, 2, 3, 7, passes, (Gate(), Gate("whole")), temperature=1.7, masked=True).to(torch.float64)

    def loss(hidden: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        return ce_with_teacher(
            hidden, projection, c.target, c.teachers, **c.options, implementation=implementation
        ).loss

    assert torch.autograd.gradcheck(loss, (c.hidden.requires_grad_(), c.projection.requires_grad_()))


@pytest.mark.parametrize("implementation", ["reference", "chunked", "auto"])
def test_gates_at_their_boundaries(implementation: str) -> None:
    """A teacher equal to the student: as good, not better; ratio exactly 1."""
    c = case(sentences=1)
    expected = {Gate("selective"): 1.0, Gate("selective", strict=True, below=0.2): 0.2, Gate("adaptive", cap=2.0): 1.0}
    expected |= {Gate("adaptive", cap=0.5): 0.5, Gate("selective", "token"): 1.0, Gate("whole"): 1.0}
    for gate, value in expected.items():
        teacher = Teacher(c.hidden, c.projection, 1.0, gate)
        sums = ce_with_teacher(c.hidden, c.projection, c.target, [teacher], implementation=implementation)
        torch.testing.assert_close(sums.gate[0], torch.tensor([value]), rtol=1e-6, atol=0)
        assert sums.agreement[0].item() == 1.0


@pytest.mark.parametrize("implementation", ["reference", "chunked", "cpu"])
@pytest.mark.parametrize("passes", [1, 2])
def test_sums_of_sentences_are_those_of_each_alone(implementation: str, passes: int) -> None:
    """In a batch with padding and an empty sentence; not there where nobody asks."""
    torch.manual_seed(4)
    hidden, projection = torch.randn(passes * 5, 7, 16), torch.randn(53, 16)
    target = torch.randint(2, 53, (5, 7))
    for row, length in enumerate((7, 3, 0, 1, 5)):
        target[row, length:] = 1
    options = {"smoothing": 0.1, "passes": passes, "implementation": implementation}
    sums = ce_with_teacher(hidden, projection, target, sentence_sums=True, **options)  # type: ignore[arg-type]
    assert sums.ce_B is not None and sums.nll_B is not None
    for row in range(5):
        own = hidden.unflatten(0, (passes, 5))[:, row]
        alone = ce_with_teacher(own, projection, target[row : row + 1], **options)  # type: ignore[arg-type]
        torch.testing.assert_close(sums.ce_B[row], alone.ce, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(sums.nll_B[row], alone.nll, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sums.ce_B.sum(), sums.ce)
    assert float(sums.ce_B[2]) == 0
    assert ce_with_teacher(hidden, projection, target, **options).ce_B is None  # type: ignore[arg-type]

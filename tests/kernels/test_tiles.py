"""bfloat16 through matrix tiles: the definition's sums and gradients, in any number of chunks and threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mnmt_ds.kernels import cpu, tiles
from mnmt_ds.kernels.ce_with_teacher import Gate, ce_with_teacher
from mnmt_ds.kernels.chunk_loop import compute_chunks
from mnmt_ds.kernels.implementations import CPU, TILES, select_implementation
from mnmt_ds.kernels.loss_inputs import flatten
from mnmt_ds.kernels.types import LossOptions
from tests.kernels.cases import Case, case, numbers, outcome

SHAPES = [(1, 1, 32, 5), (3, 7, 64, 250), (4, 33, 96, 1000), (2, 17, 32, 513)]


@pytest.fixture(autouse=True)
def _has_tiles() -> Iterator[None]:
    if cpu.why_unavailable() or not torch.ops.mnmt_ds_cpu.has_tiles():
        pytest.skip("no matrix tiles here")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_gradients_are_the_definitions(shape: tuple[int, ...], smoothing: float) -> None:
    """Sums as exact as in float32; gradients lose a rounding to bfloat16 (1/512 at most) twice, not more."""
    given = case(*shape, smoothing=smoothing, seed=1).to(torch.bfloat16)
    exact, ours = outcome(given.to(torch.float64), "reference"), outcome(given, "cpu")
    for name, value in numbers(exact[0]).items():
        torch.testing.assert_close(numbers(ours[0])[name].double(), value.double(), rtol=1e-5, atol=1e-5, msg=name)
    for mine, theirs in zip(ours[1:], exact[1:], strict=True):
        assert mine.dtype == torch.bfloat16 and relative(mine, theirs) < 2 / 512


def test_chunks_and_threads_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(5, 30, 64, 1500).to(torch.bfloat16)
    one = outcome(given, "cpu")
    monkeypatch.setattr(tiles, "MAX_TOKENS", 40)
    chunked = outcome(given, "cpu")
    torch.set_num_threads(3)
    threaded = outcome(given, "cpu")
    for other in (chunked, threaded):
        assert relative(other[0].loss, one[0].loss) < 1e-6
        assert max(relative(a, b) for a, b in zip(other[1:], one[1:], strict=True)) < 1 / 512


def test_a_product_of_torch_before_and_after() -> None:
    """Tiles that another library set up are as it left them."""
    a, b = torch.randn(64, 96).bfloat16(), torch.randn(96, 80).bfloat16()
    before = a @ b
    outcome(case(2, 9, 32, 300).to(torch.bfloat16), "cpu")
    assert torch.equal(a @ b, before)


def test_targets_out_of_the_vocabulary_and_huge_logits() -> None:
    given = case(2, 4, 32, 250).to(torch.bfloat16)
    given = given._replace(hidden=given.hidden.sign() * 50, projection=given.projection.sign() * 66.5)
    exact, ours = outcome(given.to(torch.float64), "reference"), outcome(given, "cpu")
    torch.testing.assert_close(ours[0].loss.double(), exact[0].loss, rtol=1e-6, atol=0)
    assert all(torch.isfinite(gradient).all() for gradient in ours[1:])
    nan = given._replace(hidden=given.hidden.clone().fill_(float("nan")))
    assert ce_with_teacher(nan.hidden, nan.projection, nan.target, implementation="cpu").loss.isnan()


def test_what_goes_through_tiles() -> None:
    """One pass without teachers in bfloat16, at a multiple of 32 widths; all else goes on as before."""

    def chosen(given: Case) -> object:
        options = LossOptions(passes=given.options.get("passes", 1))
        return select_implementation(
            "cpu", flatten(given.hidden, given.projection, given.target, given.teachers, options)
        )

    assert chosen(case(2, 4, 32, 50).to(torch.bfloat16)) is TILES
    assert chosen(case(2, 4, 32, 50)) is CPU
    assert chosen(case(2, 4, 40, 50).to(torch.bfloat16)) is CPU
    assert chosen(case(2, 4, 32, 50, 2).to(torch.bfloat16)) is CPU
    assert chosen(case(2, 4, 32, 50, gates=(Gate(),)).to(torch.bfloat16)) is CPU


@pytest.mark.parametrize("scale", [1.0, 1 / 37])
def test_late_gradients_are_the_early_ones(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in the backward pass or in the forward, over one group of tokens or several: bit for bit alike."""
    given = case(5, 30, 64, 1500).to(torch.bfloat16)
    inputs = flatten(given.hidden, given.projection, given.target, (), LossOptions(smoothing=0.1))
    early = compute_chunks(inputs, TILES, True, True)
    for group in (1024, 40):
        monkeypatch.setattr(tiles, "MAX_TOKENS", group)
        hidden, projection = (x.clone().requires_grad_() for x in (given.hidden, given.projection))
        loss = ce_with_teacher(hidden, projection, given.target, smoothing=0.1, implementation="cpu").loss
        (loss * scale).backward(retain_graph=True)
        assert early.dprojection_VD is not None and early.dhidden_KND is not None
        factor = torch.tensor(scale)
        assert torch.equal(projection.grad, (early.dprojection_VD * factor).bfloat16())
        rows = hidden.grad.flatten(0, 1)[inputs.rows_N]
        if group == 1024:
            assert torch.equal(rows, (early.dhidden_KND[0] * factor).bfloat16())
        else:
            assert relative(rows, early.dhidden_KND[0] * factor) < 1 / 512
        assert int(hidden.grad.flatten(0, 1).any(1).sum()) == len(rows)
        (loss * scale).backward()  # the graph was kept
        assert relative(projection.grad, 2 * early.dprojection_VD * factor) < 1 / 256


def test_late_gradients_of_frozen_ends() -> None:
    given = case(2, 9, 32, 300).to(torch.bfloat16)

    def gradients(*trained: bool) -> list[Tensor | None]:
        ends = [x.clone().requires_grad_(wanted) for x, wanted in zip(given[:2], trained, strict=True)]
        ce_with_teacher(*ends, given.target, smoothing=0.1, implementation="cpu").loss.backward()
        return [end.grad for end in ends]

    both = gradients(True, True)
    for frozen in (0, 1):
        found = gradients(frozen != 0, frozen != 1)
        assert found[frozen] is None
        assert torch.equal(found[1 - frozen], both[1 - frozen])

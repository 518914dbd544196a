"""Dropout on a CPU: in fp32 one pass of C++, to the bit what PyTorch's own operations give with the same draws."""

import pytest
import torch
from torch import Tensor

from mnmt_ds.models import dropout as module
from mnmt_ds.models.dropout import STEPS, dropout


def draw(x: Tensor, dy: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Result and gradient from a fixed seed."""
    torch.manual_seed(3)
    x = x.detach().requires_grad_()
    y = dropout(x, probability, training=True)
    return y.detach(), torch.autograd.grad(y, x, dy)[0]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("threads", [1, 3])
def test_kernel_and_pytorch_give_the_same_bits(
    probability: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not module._has_kernel():
        pytest.skip("no C++ library here")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    special = torch.randn(70_001)
    special[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    cases = [special, torch.randn(5, 7, 33), torch.randn(33, 4).t(), torch.randn(6, 8, 2)[:, 2:5], torch.empty(0, 3)]
    calls = 0
    kernel = module._apply

    def counted(x: Tensor, bits: Tensor, threshold: int) -> Tensor:
        nonlocal calls
        calls += 1
        return kernel(x, bits, threshold)

    monkeypatch.setattr(module, "_apply", counted)
    for x in cases:
        dy = torch.randn(*x.shape[::-1]).permute(*reversed(range(x.dim())))
        ours = draw(x, dy, probability)
        monkeypatch.setattr(module, "_has_kernel", lambda: False)
        plain = draw(x, dy, probability)
        monkeypatch.undo()
        monkeypatch.setattr(module, "_apply", counted)
        for mine, theirs in zip(ours, plain, strict=True):
            assert mine.shape == theirs.shape
            assert torch.equal(mine.isnan(), theirs.isnan())
            bits = [torch.where(t.isnan(), 0.0, t).contiguous().view(torch.int32) for t in (mine, theirs)]
            assert torch.equal(*bits)
    torch.set_num_threads(before)
    assert calls == 2 * len(cases)


def test_share_scale_and_what_is_left_alone() -> None:
    x = torch.ones(200_000)
    y = dropout(x, 0.25, training=True)
    assert abs(float((y == 0).float().mean()) - 0.25) < 0.01
    assert set(y.unique().tolist()) == {0.0, torch.tensor(STEPS / (STEPS - STEPS // 4)).item()}
    assert dropout(x, 0.25, training=False) is x and dropout(x, 0.0, training=True) is x
    assert dropout(x.bfloat16(), 0.25, training=True).dtype == torch.bfloat16
    with torch.no_grad():
        assert not dropout(x, 0.25, training=True).requires_grad

"""Every implementation against float64: at most twice the error of the definition run in the same dtype."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mnmt_ds.kernels.ce_with_teacher import Gate, ce_with_teacher
from mnmt_ds.kernels.implementations import resolve_implementation
from tests.kernels.cases import HAS_GPU, Case, case, numbers, outcome

IMPLEMENTATIONS = ["chunked", "cpu"] + (["cuda"] if HAS_GPU else [])
SHAPES = [(1, 1, 1, 7), (3, 5, 7, 250), (1, 33, 40, 4093), (4, 9, 300, 131), (2, 4, 5, 1)]
MIXES = [
    {},
    {"smoothing": 0.0},
    {"gates": (Gate(),)},
    {"gates": (Gate("adaptive"),), "temperature": 2.0, "masked": True},
    {"gates": (Gate("selective", "token", below=0.2), Gate("adaptive", "sentence", 1.5))},
    {"passes": 2},
    {"passes": 2, "gates": (Gate("selective"),), "temperature": 0.5},
    {"passes": 3, "gates": (Gate("adaptive", "token"), Gate())},
]


@pytest.fixture(autouse=True)
def _runs(request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params.get("implementation") if hasattr(request.node, "callspec") else None
    if name == "cpu":
        from mnmt_ds.kernels import cpu

        why = cpu.why_unavailable()
        if why:
            pytest.skip(why)


def assert_bounded(given: Case, implementation: str, label: str) -> None:
    """err <= 2 * err(the definition in the same dtype) + a few units in the last place, for loss and each gradient."""
    exact = outcome(given.to(torch.float64), "reference")
    plain, ours = outcome(given, "reference"), outcome(given, implementation)
    for name, e, p, o in zip(
        ("loss", "hidden", "projection"), (exact[0].loss, *exact[1:]), (plain[0].loss, *plain[1:]),
        (ours[0].loss, *ours[1:]),
    ):  # fmt: skip
        atol = 2e-6 * max(1.0, e.abs().max().item())
        error, allowed = (o.double() - e).abs().max().item(), 2 * (p.double() - e).abs().max().item() + atol
        assert error <= allowed, f"{name} {label}: {error:.2e} > {allowed:.2e}"
        assert o.dtype == p.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_error_bound(implementation: str, dtype: torch.dtype) -> None:
    for shape, mix in itertools.product(SHAPES, MIXES):
        given = case(*shape, **mix).to(dtype)
        assert_bounded(given, implementation, f"{shape} {mix}")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_sum(implementation: str) -> None:
    for shape, mix in itertools.product(SHAPES, MIXES):
        given = case(*shape, **mix, seed=3)
        expected = numbers(outcome(given.to(torch.float64), "reference")[0])
        computed = numbers(outcome(given, implementation)[0])
        for name in expected:
            torch.testing.assert_close(
                computed[name],
                expected[name],
                rtol=1e-4,
                atol=1e-4,
                msg=f"{name} {shape} {mix}: {computed[name]} {expected[name]}",
            )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_huge_logits(implementation: str) -> None:
    """Logits of +-1e4: finite, and the gradients of the definition."""
    given = case(2, 4, 3, 250, 2, (Gate("adaptive"),))
    given = given._replace(hidden=given.hidden.sign() * 50, projection=given.projection.sign() * 66.5)
    assert (given.hidden @ given.projection.T).abs().max() > 9_900
    assert_bounded(given, implementation, "huge")


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "reference"])
def test_padding_alone_and_poisoned_padding(implementation: str) -> None:
    given = case(2, 3)
    given = given._replace(target=torch.ones_like(given.target))
    sums, hidden, projection = outcome(given, implementation)
    assert sums.loss == 0 and sums.tokens == 0 and not hidden.any() and not projection.any()
    given = case(2, 6)
    clean = outcome(given, implementation)
    given.hidden[given.target == 1] = torch.nan
    sums, hidden, projection = outcome(given, implementation)
    torch.testing.assert_close((sums.loss, projection), (clean[0].loss, clean[2]))
    assert not hidden[given.target == 1].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_chunks_do_not_matter(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(6, 40, 8, 67, 2, (Gate("adaptive"),))
    whole = outcome(given, implementation)
    from mnmt_ds.kernels import implementations

    for name in ("CHUNKED", "CPU", "CUDA"):
        small = getattr(implementations, name)._replace(max_chunk_tokens=lambda inputs: 9)
        monkeypatch.setattr(implementations, name, small)
    torch.testing.assert_close(outcome(given, implementation)[1:], whole[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["chunked", "cpu"])
def test_gradient_alone_twice_and_never(implementation: str) -> None:
    given = case(gates=(Gate("adaptive"),))
    expected = outcome(given, implementation)
    for which in (0, 1):
        leaves = [x.clone().requires_grad_(i == which) for i, x in enumerate((given.hidden, given.projection))]
        loss = ce_with_teacher(
            *leaves, given.target, given.teachers, **given.options, implementation=implementation
        ).loss
        first = torch.autograd.grad(loss * 3, leaves[which], retain_graph=True)[0].clone()
        second = torch.autograd.grad(loss * 0.5, leaves[which])[0]
        torch.testing.assert_close(first, expected[1 + which] * 3)
        torch.testing.assert_close(second, expected[1 + which] * 0.5)
    with torch.no_grad():
        sums = ce_with_teacher(
            given.hidden, given.projection.requires_grad_(), given.target, given.teachers, **given.options,
            implementation=implementation,
        )  # fmt: skip
    torch.testing.assert_close(sums.loss, expected[0].loss.detach())
    assert not sums.loss.requires_grad


@pytest.mark.parametrize("implementation", ["chunked", "cpu"])
def test_gradients_add_up_while_the_graph_is_kept(implementation: str) -> None:
    given = case(gates=(Gate("adaptive"),))
    expected = outcome(given, implementation)[2]
    projection = given.projection.detach().clone().requires_grad_()
    sums = ce_with_teacher(
        given.hidden, projection, given.target, given.teachers, **given.options, implementation=implementation
    )
    for times, keep in ((1, True), (2, True), (3, False)):
        sums.loss.backward(retain_graph=keep)
        torch.testing.assert_close(projection.grad, expected * times)


@pytest.mark.parametrize("implementation", ["cpu"])
def test_threads_that_help_each_other_change_no_bit(implementation: str) -> None:
    """More threads than cores finish in any order; callers side by side have a buffer each."""
    small, large = case(2, 9, 7, 500), case(6, 30, 20, 4093, 2, (Gate("adaptive"),))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        first = [outcome(given, implementation) for given in (large, small, large)]
        for _ in range(5):
            again = outcome(large, implementation)
            assert all(torch.equal(a, b) for a, b in zip(first[0][1:], again[1:], strict=True))
        with ThreadPoolExecutor(2) as pool:
            parallel = pool.map(outcome, [large, small] * 4, [implementation] * 8)
            for result, expected in zip(parallel, first[:2] * 4, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(result[1:], expected[1:], strict=True))
        torch.set_num_threads(1)
        torch.testing.assert_close(outcome(large, implementation)[1:], first[0][1:], rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_training_is_the_same_with_and_without() -> None:
    """200 updates of a small model by Adam: the reference's losses and ours."""
    curves = []
    for implementation in ("reference", resolve_implementation("auto", torch.device("cpu"))):
        torch.manual_seed(0)
        embed = torch.randn(50, 12)
        weight = (torch.randn(50, 12) * 0.1).requires_grad_()
        mix = torch.eye(12).requires_grad_()
        optimizer = torch.optim.Adam([weight, mix], 3e-3)
        losses = []
        for step in range(200):
            data = torch.Generator().manual_seed(step)
            source = torch.randint(2, 50, (4, 6), generator=data)
            loss = ce_with_teacher(
                embed[source] @ mix, weight, (source * 7) % 48 + 2, implementation=implementation
            ).loss
            optimizer.zero_grad()
            (loss / 24).backward()
            optimizer.step()
            losses.append(loss.item() / 24)
        curves.append(torch.tensor(losses))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=1e-4)
    assert curves[0][-1] < 0.7 * curves[0][0]

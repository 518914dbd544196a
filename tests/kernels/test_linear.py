"""Linear layers through the C++ kernels: torch's results in float64, and bits that depend on a row's own numbers alone.

Letters: N rows, I inputs, O outputs.
"""

import ctypes
import itertools
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mnmt_ds.kernels import build, linear_choice
from mnmt_ds.kernels.linear import Linear, chosen, linear, use

SHAPES = [
    (1, 1, 1), (1, 37, 5), (7, 3, 31), (14, 128, 32), (15, 129, 33), (61, 257, 67), (113, 1031, 30), (1500, 40, 45),
    (2, 64, 1100), (0, 5, 3), (5, 0, 3),
]  # fmt: skip
"""N, I, O: about the sizes of tiles, segments and blocks."""


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    before, threads = chosen(), torch.get_num_threads()
    if reason := use("cpu"):
        pytest.skip(reason)
    yield
    use(before)
    torch.set_num_threads(threads)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


def results(x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, relu: bool = False) -> dict[str, Tensor]:
    """The layer's result and all gradients."""
    ends = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    ends = {name: value.detach().requires_grad_() for name, value in ends.items()}
    y = linear(*ends.values(), relu=relu) if bias is not None else linear(*ends.values(), None, relu)
    return {"y": y.detach(), **dict(zip(ends, torch.autograd.grad(y, list(ends.values()), dy), strict=True))}


def assert_bounded(ours: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """err <= 2 * err(torch's products) + a few units in the last place of the largest number."""
    assert ours.keys() == exact.keys()
    for name, e in exact.items():
        if not e.numel():
            assert ours[name].shape == e.shape
            continue
        error = (ours[name].double() - e).abs().max().item()
        allowed = 2 * (plain[name].double() - e).abs().max().item() + 2e-6 * max(1.0, e.abs().max().item())
        assert error <= allowed, f"{name} {tuple(e.shape)}: {error:.2e} > {allowed:.2e}"


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_are_torchs_in_float64(shape: tuple[int, int, int], biased: bool, relu: bool) -> None:
    rows, inputs, outputs = shape
    given = [draw(rows, inputs), draw(outputs, inputs, seed=1), draw(outputs, seed=2) if biased else None]
    dy = draw(rows, outputs, seed=3)
    ours = results(*given, dy, relu)
    use("torch")
    plain = results(*given, dy, relu)
    exact = results(*(None if t is None else t.double() for t in given), dy.double(), relu)
    if relu:  # where rounding decides the sign, all count a gradient or none does
        sure = ((exact["y"] > 1e-4) | (F.linear(*(None if t is None else t.double() for t in given)) < -1e-4)).float()
        use("cpu")
        ours = results(*given, dy * sure, relu)
        use("torch")
        plain = results(*given, dy * sure, relu)
        exact = results(*(None if t is None else t.double() for t in given), (dy * sure).double(), relu)
    assert_bounded(ours, plain, exact)


def test_inputs_of_other_layouts() -> None:
    """Sentences, transposed and expanded tensors, slices of a batch, and a weight that is a transposed view."""
    weight, bias = draw(40, 24), draw(40)
    for x in (draw(3, 5, 24), draw(24, 7).t(), draw(4, 9, 24)[:, 2:6], draw(1, 24).expand(6, 24), draw(24)):
        ours, wide = linear(x, weight, bias), F.linear(x.double(), weight.double(), bias.double())
        torch.testing.assert_close(ours.double(), wide, rtol=1e-5, atol=1e-5)
        dy = draw(*reversed(wide.shape)).permute(*reversed(range(wide.dim())))
        torch.testing.assert_close(
            results(x, weight, bias, dy)["x"].double(), dy.double() @ weight.double(), rtol=1e-5, atol=1e-5
        )
    view = draw(24, 40).t()
    torch.testing.assert_close(linear(draw(5, 24), view), F.linear(draw(5, 24), view), rtol=1e-4, atol=1e-5)


def test_a_row_depends_on_itself_alone_and_threads_change_no_bit() -> None:
    x, weight, bias, dy = draw(301, 300), draw(190, 300), draw(190), draw(301, 190)
    one = results(x, weight, bias, dy, relu=True)
    for rows in (1, 13, 14, 99, 300):
        for rows_of in (slice(0, rows), slice(301 - rows, 301)):
            part = results(x[rows_of], weight, bias, dy[rows_of], relu=True)
            assert torch.equal(part["y"], one["y"][rows_of]) and torch.equal(part["x"], one["x"][rows_of])
    for threads in (2, 3):
        torch.set_num_threads(threads)
        threaded = results(x, weight, bias, dy, relu=True)
        assert all(torch.equal(threaded[name], value) for name, value in one.items())
        again = results(x, weight, bias, dy, relu=True)
        assert all(torch.equal(threaded[name], value) for name, value in again.items())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 alone has these instruction sets")
def test_bits_do_not_depend_on_the_width_of_registers(tmp_path: Path) -> None:
    """A run may go on on another processor: AVX2 and AVX-512 give the same sums."""
    compiler = build.cpu_recipe().link[0]
    source, library = Path(__file__).with_name("linear_on_cpu.cpp"), tmp_path / "avx2.so"
    flags = ["-std=c++20", "-O3", "-march=x86-64-v3", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math"]
    subprocess.run([compiler, *flags, "-fopenmp", "-fPIC", "-shared", str(source), "-o", str(library)], check=True)
    avx2 = ctypes.CDLL(str(library))
    avx2.run.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 8
    for rows, inputs, outputs in ((61, 257, 67), (1500, 40, 45), (3, 2100, 31)):
        x, weight, bias, dy = draw(rows, inputs), draw(outputs, inputs), draw(outputs), draw(rows, outputs)
        expected = results(x, weight, bias, dy, relu=True)
        found = {name: torch.empty_like(value) for name, value in expected.items()}
        avx2.run(
            rows, inputs, outputs, *(t.data_ptr() for t in (x, weight, bias, dy)),
            *(found[name].data_ptr() for name in ("y", "x", "weight", "bias")),
        )  # fmt: skip
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_not_a_number_and_infinity_are_not_lost() -> None:
    x, weight = draw(20, 9), draw(33, 9)
    x[3, 2], x[5, 1] = float("nan"), float("inf")
    y = linear(x, weight, None, relu=True)
    assert y[3].isnan().all() and y[5].isinf().any() and torch.isfinite(y[[0, 4, 6, 19]]).all()


def test_what_is_not_trained_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frozen layer no gradient is computed and no input kept; without a graph nothing is."""
    wanted = {"x": draw(6, 5), "weight": draw(4, 5), "bias": draw(4)}
    whole = results(*wanted.values(), draw(6, 4))
    for names in itertools.chain.from_iterable(itertools.combinations(wanted, n) for n in (1, 2)):
        ends = {name: value.clone().requires_grad_(name in names) for name, value in wanted.items()}
        y = linear(*ends.values())
        kept = [t for t in y.grad_fn.saved_tensors if t is not None]  # type: ignore[union-attr]
        assert any(t.shape == (6, 5) for t in kept) == ("weight" in names)
        y.backward(draw(6, 4))
        for name, end in ends.items():
            assert torch.equal(end.grad, whole[name]) if name in names else end.grad is None
    layer = Linear(5, 4)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert layer(wanted["x"]).grad_fn is None
    assert torch.equal(layer(wanted["x"]).detach(), layer(wanted["x"].clone().requires_grad_()).detach())


def test_recomputed_activations_and_accumulated_gradients() -> None:
    layer, x = Linear(24, 40), draw(50, 24).requires_grad_()
    layer(x, relu=True).square().sum().backward()
    first = [x.grad.clone(), layer.weight.grad.clone(), layer.bias.grad.clone()]
    checkpoint(layer, x, True, use_reentrant=False).square().sum().backward()
    for end, value in zip((x, layer.weight, layer.bias), first, strict=True):
        assert torch.equal(end.grad, 2 * value)


def test_other_types_and_autocast_stay_torchs() -> None:
    layer, x = Linear(24, 40), draw(50, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    wide = Linear(24, 40).bfloat16()
    assert torch.equal(wide(x.bfloat16(), relu=True), F.linear(x.bfloat16(), wide.weight, wide.bias).relu())
    with pytest.raises(RuntimeError, match="rows of 24 numbers"):
        layer(draw(50, 23))


def test_the_choice_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "extensions"
    directory.mkdir(mode=0o700)
    library = directory / "cpu-abc.so"
    monkeypatch.setattr(build, "extensions_directory", lambda: directory)
    monkeypatch.setattr(build, "build", lambda recipe, where: library)
    measurements = [{"torch": 2.0, "cpu": 1.0}, {"torch": 1.0, "cpu": 2.0}]
    monkeypatch.setattr(linear_choice, "measure", lambda: measurements.pop(0))
    first = linear_choice.measured_choice()
    assert first.name == "cpu" and "2.00 times" in first.reason
    assert linear_choice.measured_choice() == first
    kept = next(directory.glob("linear-cpu-abc-*.json"))
    kept.write_text("{", encoding="utf-8")  # spoilt: measured anew
    assert linear_choice.measured_choice().name == "torch" and not measurements

    def fails(recipe: object, where: object) -> Path:
        raise build.BuildError("no C++ compiler")

    monkeypatch.setattr(build, "build", fails)
    assert linear_choice.measured_choice() == ("torch", "no kernels: no C++ compiler")


def test_a_measurement_leaves_no_trace() -> None:
    state = torch.get_rng_state()
    measured = linear_choice.measure()
    assert all(seconds > 0 for seconds in measured.values())
    assert chosen() == "cpu" and torch.equal(torch.get_rng_state(), state)

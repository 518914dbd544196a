"""The Triton implementation in Triton's interpreter: run by test_triton.py with TRITON_INTERPRET=1.

The interpreter must be asked for before Triton is imported, so these tests have a process of their own.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.kernels import implementations, triton_loss
from mnmt_ds.kernels.ce_with_teacher import Gate, ce_with_teacher
from mnmt_ds.kernels.loss_inputs import LossInputs
from tests.kernels.cases import Case, case, numbers, outcome
from tests.kernels.test_bounds import assert_bounded
from tests.kernels.test_cuda_on_cpu import _wide

SHAPES = [(1, 1, 8, 7), (3, 5, 16, 250), (3, 9, 40, 131)]
MIXES: list[dict[str, Any]] = [
    {},
    {"smoothing": 0.0},
    {"gates": (Gate(),)},
    {"gates": (Gate("adaptive"),)},
    {"gates": (Gate("selective", "token", below=0.2),), "temperature": 2.0},
]


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[LossInputs]:
    """The kernels run in the interpreter, by small tiles; gives the calls that they took."""
    from triton.runtime import interpreter

    assert os.environ["TRITON_INTERPRET"] == "1"
    for name, value in (("TILE_R", 16), ("TILE_V", 64), ("TILE_D", 16), ("BLOCK", 128)):
        monkeypatch.setattr(triton_loss, name, value)
    _repair(monkeypatch, interpreter)
    monkeypatch.setattr(torch, "mm", _wide(torch.mm))
    monkeypatch.setattr(torch, "addmm", _wide(torch.addmm))
    taken: list[LossInputs] = []

    def max_chunk_tokens(inputs: LossInputs) -> int:
        taken.append(inputs)
        return triton_loss.max_chunk_tokens(inputs)

    monkeypatch.setattr(implementations, "TRITON", implementations.TRITON._replace(max_chunk_tokens=max_chunk_tokens))
    return taken


def _repair(monkeypatch: pytest.MonkeyPatch, interpreter: Any) -> None:
    """The interpreter multiplies bfloat16's bit patterns as integers, and rounds to it towards 0, which no GPU does."""
    import triton.language as tl

    builder = interpreter.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    def wide_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (cast(self, x, tl.block_type(tl.float32, list(x.data.shape))) for x in (a, b))
        return dot(self, a, b, *others)

    def rounding_cast(self: Any, source: Any, to: Any) -> Any:
        if (source.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, to)
        rounded = torch.from_numpy(source.data.copy()).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(rounded.view("uint16"), tl.bfloat16)

    monkeypatch.setattr(builder, "create_dot", wide_dot)
    monkeypatch.setattr(builder, "cast_impl", rounding_cast)


def _case(*shape: int, **mix: Any) -> Case:
    """With a teacher's states of a width that the tensor memory accelerator takes."""
    given = case(*shape, **mix)
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sentences, positions, _, words = shape
    teachers = [
        t._replace(hidden_BTE=normal(sentences, positions, 16), projection_VE=normal(words, 16) / 4)
        for t in given.teachers
    ]
    return given._replace(teachers=teachers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_error_bound(dtype: torch.dtype, interpreted: list[LossInputs]) -> None:
    shapes = SHAPES if dtype == torch.bfloat16 else SHAPES[1:2]
    for shape in shapes:
        for mix in MIXES:
            assert_bounded(_case(*shape, **mix).to(dtype), "triton", f"{shape} {mix}")
    assert len(interpreted) == len(shapes) * len(MIXES)


def test_every_sum_with_gradients_and_without(interpreted: list[LossInputs]) -> None:
    """Of the logits as they are stored, in half precision: against the definition in float64 of the same numbers."""
    for shape in SHAPES[1:2]:
        for mix in MIXES:
            given = _case(*shape, **mix, seed=3).to(torch.float16)
            expected = numbers(outcome(given.to(torch.float64), "reference")[0])
            with torch.no_grad():
                alone = ce_with_teacher(
                    given.hidden, given.projection, given.target, given.teachers, **given.options,
                    implementation="triton",
                )  # fmt: skip
            for sums in (outcome(given, "triton")[0], alone):
                for name, values in numbers(sums).items():
                    torch.testing.assert_close(
                        values, expected[name], rtol=2e-3, atol=5e-3, msg=f"{name} {shape} {mix}"
                    )
    assert interpreted


def test_agreement_is_of_the_first_of_equal_words(interpreted: list[LossInputs]) -> None:
    hidden, projection = torch.ones(1, 4, 8).bfloat16(), torch.zeros(200, 8).bfloat16()
    projection[[70, 150]] = 1.0
    given = _case(1, 4, 8, 200, gates=(Gate(),))
    for best, agrees in ((70, 1.0), (150, 0.0)):
        other = torch.zeros(200, 16).bfloat16()
        other[best] = 1.0
        teachers = [given.teachers[0]._replace(hidden_BTE=torch.ones(1, 4, 16).bfloat16(), projection_VE=other)]
        sums = ce_with_teacher(
            hidden, projection.requires_grad_(), given.target, teachers, **given.options, implementation="triton"
        )
        assert sums.agreement[0].tolist() == [agrees]


def test_huge_logits(interpreted: list[LossInputs]) -> None:
    given = _case(2, 4, 8, 250, gates=(Gate("adaptive"),))
    given = given._replace(hidden=given.hidden.sign() * 50, projection=given.projection.sign() * 25)
    assert (given.hidden @ given.projection.T).abs().max() > 9_900
    assert_bounded(given.to(torch.bfloat16), "triton", "huge")


def test_chunks_do_not_matter(interpreted: list[LossInputs], monkeypatch: pytest.MonkeyPatch) -> None:
    given = _case(5, 18, 8, 67, gates=(Gate("adaptive"),)).to(torch.bfloat16)
    whole = outcome(given, "triton")
    small = implementations.TRITON._replace(max_chunk_tokens=lambda inputs: 20)
    monkeypatch.setattr(implementations, "TRITON", small)
    cut = outcome(given, "triton")
    torch.testing.assert_close(cut[0].loss, whole[0].loss)
    torch.testing.assert_close(cut[1:], whole[1:], rtol=2**-7, atol=1e-4)


def test_what_the_kernels_do_not_support_goes_elsewhere(interpreted: list[LossInputs]) -> None:
    fp32, two_passes = _case(3, 5, 16, 50), _case(3, 5, 16, 50, passes=2).to(torch.bfloat16)
    narrow = _case(3, 5, 7, 50).to(torch.bfloat16)
    masked = _case(3, 5, 16, 50, gates=(Gate(),), masked=True).to(torch.bfloat16)
    for given in (fp32, two_passes, narrow, masked):
        assert_bounded(given, "triton", "unsupported")
    assert not interpreted


def test_it_is_never_chosen_by_itself_and_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert implementations.resolve_implementation("auto", torch.device("cpu")) != "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    implementations.resolve_implementation.cache_clear()
    triton_loss.why_unavailable.cache_clear()
    with pytest.raises(UserError, match="implementation 'triton' cannot run on cpu: not its device; take auto"):
        implementations.resolve_implementation("triton", torch.device("cpu"))

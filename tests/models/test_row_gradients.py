"""A tied embedding's gradient by rows: the whole gradient's numbers, also where the projection is not used."""

import pytest
import torch

from mnmt_ds.batch import PAD
from mnmt_ds.engine.parallel import zero_engine
from mnmt_ds.engine.parallel.zero_engine import gather_row_gradients
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_engine, "LEAST_TIED", 0)


SHAPE = {"d_model": 32, "ffn": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
SOURCE = torch.tensor([[5, 9, 9, 2], [5, 7, 2, PAD]])
TARGET = torch.tensor([[2, 6, 9], [2, 6, 6]])


def _model(share: str = "all", dtype: torch.dtype = torch.float32) -> Transformer:
    torch.manual_seed(3)
    return initialise(Transformer(ModelSettings(share_embeddings=share, **SHAPE), 40)).to(dtype)  # type: ignore[arg-type]


def _gradients(model: Transformer, projects: bool = True) -> dict[str, torch.Tensor | None]:
    """Of two passes, added up: the second meets a gradient that is there already."""
    for _ in range(2):
        hidden = model(SOURCE, TARGET).decoder_BTD
        (model.head(hidden) if projects else hidden).float().square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("share", ["all", "decoder"])
@pytest.mark.parametrize("projects", [True, False])
def test_the_gradient_is_whole_and_the_same(projects: bool, share: str) -> None:
    plain, by_rows = _model(share), _model(share)
    gather_row_gradients(by_rows)
    expected, found = _gradients(plain, projects), _gradients(by_rows, projects)
    assert by_rows.embedding.row_gradients
    for name, gradient in expected.items():
        assert gradient is not None and found[name] is not None and not found[name].is_sparse, name  # type: ignore[union-attr]
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_an_interrupted_pass_leaves_nothing() -> None:
    plain, by_rows = _model(), _model()
    gather_row_gradients(by_rows)
    hidden = by_rows(SOURCE, TARGET).decoder_BTD
    hidden.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        by_rows.head(hidden).square().sum().backward()
    by_rows.zero_grad()
    expected, found = _gradients(plain), _gradients(by_rows)
    torch.testing.assert_close(found["embedding.weight"], expected["embedding.weight"], rtol=1e-5, atol=1e-6)


def test_16_bits_add_up_in_place() -> None:
    """Over two passes of the fused loss: no farther from the exact gradient than plain bfloat16, in the same memory."""
    exact, plain, by_rows = _model().double(), _model(dtype=torch.bfloat16), _model(dtype=torch.bfloat16)
    exact.load_state_dict({name: value.double() for name, value in by_rows.state_dict().items()})
    gather_row_gradients(by_rows)
    for model in (exact, plain, by_rows):
        places = set()
        for _ in range(2):
            model.head(model(SOURCE, TARGET).decoder_BTD, _loss).backward()
            places.add(model.embedding.weight.grad.data_ptr())  # type: ignore[union-attr]
    assert len(places) == 1
    truth, *found = (model.embedding.weight.grad for model in (exact, plain, by_rows))
    assert truth is not None
    of_plain, of_rows = (
        float((gradient.double() - truth).norm() / truth.norm()) for gradient in found if gradient is not None
    )
    assert of_rows <= 1.02 * of_plain and of_rows < 0.03


def _loss(hidden_BTD: torch.Tensor, projection_VD: torch.Tensor) -> torch.Tensor:
    return ce_with_teacher(hidden_BTD, projection_VD, torch.tensor([[6, 9, 2], [6, 6, 2]])).loss


@pytest.mark.parametrize("case", ["frozen", "untied"])
def test_others_are_left_alone(case: str) -> None:
    model = _model("none" if case == "untied" else "all")
    model.embedding.weight.requires_grad_(case != "frozen")
    gather_row_gradients(model)
    assert model.embedding.row_gradients is None

"""Low-rank adapters and frozen parts: values and gradients against W + alpha / rank B A in float64, what is trained."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from mnmt_ds.kernels import implementations
from mnmt_ds.models.frozen import freeze, is_frozen
from mnmt_ds.models.layer_sequence import layer_entries, possible_cuts, trained_entries
from mnmt_ds.models.lora import LoraLinear, is_adapter, linear, merge_all
from mnmt_ds.models.settings import LoraSettings, ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise

SHAPE: dict[str, Any] = dict(d_model=16, ffn=24, heads=2, encoder_layers=3, decoder_layers=3, dropout=0.0)
MAPS = {"qkv": (16, 48), "kv": (16, 32), "q": (16, 16), "out": (16, 16), "inner": (16, 24), "outer": (24, 16)}
EVERY = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def settings(**values: Any) -> ModelSettings:
    return ModelSettings.model_validate({**SHAPE, **values})


def drawn(model: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


CASES = [("qkv", ("q_proj", "v_proj")), ("kv", ("v_proj",)), *((name, EVERY) for name in MAPS)]


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_a_map_with_adapters_is_the_sum(name: str, targets: tuple[str, ...]) -> None:
    """Values and all gradients in float64; parts that are no targets are the plain map's."""
    lora = {"rank": 3, "alpha": 5.0, "targets": targets}
    module = drawn(linear(settings(lora=lora), name, *MAPS[name])).double()
    assert isinstance(module, LoraLinear)
    x = torch.randn(7, MAPS[name][0], dtype=torch.float64, requires_grad=True)
    own = {key: value.detach().clone().requires_grad_() for key, value in module.named_parameters()}
    again = x.detach().clone().requires_grad_()
    size, weights = module.size, []
    for part, plain in enumerate(own["weight"].split(size)):
        delta = torch.zeros_like(plain)
        if part in module.adapted:
            k = module.adapted.index(part)
            delta = 5 / 3 * own["lora_B"][k * size : (k + 1) * size] @ own["lora_A"][3 * k : 3 * k + 3]
        weights.append(plain + delta)
    expected, actual = F.linear(again, torch.cat(weights), own["bias"]), module(x)
    torch.testing.assert_close(actual, expected)
    expected.sin().sum().backward()
    actual.sin().sum().backward()
    torch.testing.assert_close(x.grad, again.grad)
    for key, value in module.named_parameters():
        torch.testing.assert_close(value.grad, own[key].grad, msg=key)


def states(model: Transformer) -> Tensor:
    tokens = torch.arange(4, 24).view(2, 10)
    with torch.no_grad():
        return model.eval()(tokens, tokens.flip(1)).decoder_BTD


def test_merged_adapters_give_the_same_states() -> None:
    """Also of frozen layers without adapters; a fresh adapter changes nothing, and no other weight's first value."""
    shape = settings(lora={"rank": 2, "targets": EVERY}, freeze={"encoder_layers": 1, "decoder": True})
    torch.manual_seed(1)
    model = initialise(Transformer(shape, 30))
    torch.manual_seed(1)
    plain = initialise(Transformer(shape.plain(), 30))
    adapters = [name for name, _ in model.named_parameters() if is_adapter(name)]
    assert {name.split(".")[1] for name in adapters} == {"1", "2"} and not any(n.startswith("dec") for n in adapters)
    assert torch.equal(states(model), states(plain))
    drawn(model)
    plain.load_state_dict(merge_all(dict(model.named_parameters()), shape.lora), strict=False)
    torch.testing.assert_close(states(plain), states(model))


def trained(shape: ModelSettings) -> set[str]:
    model = Transformer(shape, 30)
    freeze(model, shape)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_is_trained() -> None:
    every = trained(settings(share_embeddings="none"))
    words = {"embedding.weight", "source_embedding.weight", "head.weight"}
    assert trained(settings(share_embeddings="none", freeze={"embeddings": True})) == every - words
    encoder = {name for name in every if name.startswith("encoder")}
    assert trained(settings(share_embeddings="none", freeze={"encoder": True})) == every - encoder
    first = {name for name in every if name.startswith(("encoder.0.", "encoder.1.", "decoder.0."))}
    layers = {"encoder_layers": 2, "decoder_layers": 1}
    assert trained(settings(share_embeddings="none", freeze=layers)) == every - first
    adapted = trained(settings(lora={"targets": ["fc1"]}, freeze={"encoder": True}))
    assert adapted == {f"decoder.{i}.ffn.inner.lora_{x}" for i in range(3) for x in "AB"}
    with_words = trained(settings(lora={"targets": ["fc1"], "embeddings": True}))
    assert with_words == {"embedding.weight"} | {name for name in with_words if is_adapter(name)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"freeze": {"encoder": True, "decoder": True, "embeddings": True}}, "nothing is left to train"),
        ({"freeze": {"encoder": True, "decoder": True}, "lora": {}}, "nothing is left to train"),
        ({"freeze": {"decoder_layers": 4}}, "freeze.decoder_layers is 4, the model has 3"),
        ({"freeze": {"embeddings": True}, "lora": {"embeddings": True}}, "exclude each other"),
        ({"lora": {"targets": ["qkv"]}}, "q_proj"),
        ({"lora": {"targets": []}}, "at least 1"),
        ({"lora": {"rank": 0}}, "rank"),
        ({"lora": {"r": 4, "rank": 4}}, "another name"),
    ],
)
def test_what_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        settings(**values)
    assert words in str(error.value)


def test_pefts_names_are_known() -> None:
    lora = LoraSettings.model_validate({"r": 4, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["q_proj"]})
    assert lora == LoraSettings(rank=4, alpha=32.0, dropout=0.1, targets=("q_proj",))


def test_stages_begin_where_each_has_something_to_train() -> None:
    """DeepSpeed's optimizer wants it, and so does the backward pass of the first stage."""

    def cuts(**values: Any) -> list[int]:
        shape = settings(**values)
        entries = layer_entries(shape, 30)
        return possible_cuts(entries, trained_entries(shape, entries))

    assert cuts() == [*range(10), 11]
    assert cuts(freeze={"embeddings": True, "encoder_layers": 2}) == [0, 4, 5, 7, 8, 9, 11]
    assert cuts(freeze={"embeddings": True, "encoder": True}) == [0, 7, 8, 9, 11]
    assert cuts(freeze={"embeddings": True, "decoder": True}) == [0, 2, 3, 4, 11]
    assert cuts(lora={"targets": ["fc1"]}) == [0, 2, 3, 4, 7, 8, 11]


def test_a_frozen_projection_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is not even asked for it, and the states' gradient is the same."""
    from mnmt_ds.kernels import autograd
    from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher

    asked = []
    inner = autograd.compute_chunks
    monkeypatch.setattr(autograd, "compute_chunks", lambda *arguments: asked.append(arguments[2:]) or inner(*arguments))
    for implementation in ("chunked", "cpu") if implementations.cpu.why_unavailable() == "" else ("chunked",):
        torch.manual_seed(3)
        target = torch.randint(4, 50, (2, 6))
        gradients = []
        for is_trained in (True, False):
            hidden = torch.linspace(-1, 1, 2 * 6 * 16).view(2, 6, 16).requires_grad_()
            projection = torch.linspace(-2, 2, 50 * 16).sin().view(50, 16).requires_grad_(is_trained)
            ce_with_teacher(hidden, projection, target, implementation=implementation).loss.backward()
            assert (projection.grad is not None) == is_trained
            gradients.append(hidden.grad)
        assert torch.equal(*gradients)
    assert asked[:2] == [(True, True), (True, False)]
    assert is_frozen(settings(lora={}), "embedding.weight")


def test_what_is_trained_moves_as_if_all_else_had_no_rate() -> None:
    """Bit for bit the training of the whole model in which the frozen parts have a learning rate of 0."""
    from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher

    shape = settings(freeze={"embeddings": True, "encoder_layers": 2})
    tokens = torch.arange(4, 24).view(2, 10)
    results = []
    for is_whole in (False, True):
        torch.manual_seed(1)
        model = initialise(Transformer(shape, 30))
        names = [name for name, _ in model.named_parameters() if not is_frozen(shape, name)]
        own = dict(model.named_parameters())
        groups: list[dict[str, Any]] = [{"params": [own[name] for name in names]}]
        if is_whole:
            groups += [{"params": [own[name] for name in own if name not in names], "lr": 0.0}]
        else:
            freeze(model, shape)
        optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0)
        for _ in range(3):
            optimizer.zero_grad()
            states_BTD = model(tokens, tokens.flip(1)).decoder_BTD
            ce_with_teacher(states_BTD, model.head.weight, tokens, implementation="chunked").loss.backward()
            optimizer.step()
        results.append({name: value.detach() for name, value in own.items()})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name

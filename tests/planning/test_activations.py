"""The formulas for memory against what autograd really keeps, byte for byte, and against counted parameters."""

from typing import Any

import pytest
import torch

from mnmt_ds.batch import PAD
from mnmt_ds.models.settings import PRESETS, ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise, parameter_count
from mnmt_ds.planning.activations import Shape, forward
from mnmt_ds.planning.parameters import parameters

SMALL = dict(preset="tiny", d_model=32, ffn=80, heads=4, encoder_layers=2, decoder_layers=3)


def kept(settings: ModelSettings, x: Shape) -> int:
    """Bytes of distinct storages that a forward pass saves, without the weights'."""
    model = initialise(Transformer(settings, 50)).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in model.buffers()}
    storages: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    source, target = (torch.randint(4, 50, (x.sentences, n)) for n in (x.source, x.target))
    source[0, -2:] = PAD
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model(source, target)
    storages[states.decoder_BTD.untyped_storage().data_ptr()] = states.decoder_BTD.untyped_storage()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(
    "changes",
    [{}, {"dropout": 0.0}, {"activation_dropout": 0.1}, {"share_embeddings": "decoder"}, {"attention_dropout": 0.1}],
)
def test_activations_are_what_autograd_keeps(changes: dict[str, Any]) -> None:
    settings = ModelSettings(**{**SMALL, **changes})
    for x in (Shape(8, 30, 20), Shape(3, 10, 40)):
        assert forward(settings, x, 4, on_cpu=True) == pytest.approx(kept(settings, x), rel=0.01)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("own", [False, True])
def test_parameters_are_those_of_the_model(preset: str, own: bool) -> None:
    changes = {"share_embeddings": "decoder", "encoder_projection": "own"} if own else {}
    settings = ModelSettings(preset=preset, **changes)
    with torch.device("meta"):
        model = Transformer(settings, 32000)
    assert parameters(settings, 32000).total == parameter_count(model)

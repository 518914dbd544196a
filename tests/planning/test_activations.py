"""The formulas for memory against what autograd really keeps, byte for byte, and against counted parameters."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from mnmt_ds.batch import PAD
from mnmt_ds.models.layer_sequence import ModelChunk, StageActivations, layer_entries
from mnmt_ds.models.settings import PRESETS, ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise, parameter_count
from mnmt_ds.planning.activations import BatchShape, forward_bytes
from mnmt_ds.planning.memory import FrozenTeachers, PlannedLayout, stage_boundary_bytes
from mnmt_ds.planning.parameters import count_parameters, parameters_of_entries
from mnmt_ds.planning.pipeline_stages import StageContents

SMALL = dict(preset="tiny", d_model=32, ffn=80, heads=4, encoder_layers=2, decoder_layers=3)


def kept(settings: ModelSettings, x: BatchShape) -> int:
    """Bytes of distinct storages that a forward pass saves, without the weights'."""
    model = initialise(Transformer(settings, 50)).train()
    source, target = tokens(x)
    return saved(model, lambda: [model(source, target).decoder_BTD])


def tokens(x: BatchShape) -> list[torch.Tensor]:
    """Source and target, with some padding."""
    source, target = (torch.randint(4, 50, (x.sentences, n)) for n in (x.source, x.target))
    source[0, -2:] = PAD
    return [source, target]


def saved(model: torch.nn.Module, run: Callable[[], list[torch.Tensor]]) -> int:
    """Bytes of distinct storages that autograd saves while ``run`` runs the model, and of what it returns."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in model.buffers()}
    storages: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for states in run():
            storages[states.untyped_storage().data_ptr()] = states.untyped_storage()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(
    "changes",
    [{}, {"dropout": 0.0}, {"activation_dropout": 0.1}, {"share_embeddings": "decoder"}, {"attention_dropout": 0.1}],
)
def test_activations_are_what_autograd_keeps(changes: dict[str, Any]) -> None:
    settings = ModelSettings(**{**SMALL, **changes})
    for x in (BatchShape(8, 30, 20), BatchShape(3, 10, 40)):
        assert forward_bytes(settings, x, 4, on_cpu=True) == pytest.approx(kept(settings, x), rel=0.01)


@pytest.mark.parametrize("cut", [[0, 2, 9], [0, 4, 9], [0, 5, 9], [0, 1, 3, 6, 9]], ids=str)
def test_stages_activations_are_what_autograd_keeps(cut: list[int]) -> None:
    """Each stage's part; what came in stands once more in DeepSpeed's buffer, of which autograd does not know."""
    settings, x = ModelSettings(**{**SMALL, "decoder_layers": 2}), BatchShape(8, 30, 20)
    row, (source, target) = layer_entries(settings, 50), tokens(x)
    arriving = None
    for begin, end in pairwise(cut):
        model_chunk = ModelChunk(settings, 50, row, begin, end).train()
        for parameter in model_chunk.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        came = None if arriving is None else arriving.detach().requires_grad_()

        def run(model_chunk: ModelChunk = model_chunk, came: torch.Tensor | None = came) -> list[torch.Tensor]:
            flow = StageActivations(source, target)
            flow = model_chunk(flow if came is None else model_chunk.unpack(came.clone(), flow))
            return [flow.x_BLD] if model_chunk.stop == len(row) else [model_chunk.pack(flow)]

        following = row[end].kind if end < len(row) else ""
        stage = StageContents([part.kind for part in row[begin:end]], following, 0, 1, False, 1.0)
        saved_bytes = forward_bytes(settings, x, 4, True, kinds=stage.kinds)
        saved_bytes += stage_boundary_bytes(settings, x, PlannedLayout(1, 1), 1, stage, FrozenTeachers())
        saved_bytes -= 0 if came is None else came.nbytes
        assert saved_bytes == pytest.approx(saved(model_chunk, run), rel=0.02), (begin, end)
        arriving = run()[0]


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("own_projection", [False, True])
def test_parameters_are_those_of_the_model(preset: str, own_projection: bool) -> None:
    changes = {"share_embeddings": "decoder", "encoder_projection": "own"} if own_projection else {}
    settings = ModelSettings(preset=preset, **changes)
    with torch.device("meta"):
        model = Transformer(settings, 32000)
    assert count_parameters(settings, 32000).total == parameter_count(model)
    row = layer_entries(settings, 32000)
    with torch.device("meta"):
        for begin, end in pairwise([0, 3, len(row) // 2, len(row) - 2, len(row)]):
            counted = parameter_count(ModelChunk(settings, 32000, row, begin, end))
            assert parameters_of_entries(settings, 32000, row[begin:end]) == counted

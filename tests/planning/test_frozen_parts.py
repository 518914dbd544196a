"""Plans of models with frozen parts or adapters: what is trained has gradients, moments and teachers, nothing else."""

from typing import Any

import pytest
import torch

from mnmt_ds.models.frozen import freeze
from mnmt_ds.models.layer_sequence import layer_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.planning.activations import BatchShape
from mnmt_ds.planning.memory import FrozenTeachers, PlannedLayout, rank_memory, state_bytes
from mnmt_ds.planning.pipeline_stages import plan_stages

SHAPE: dict[str, Any] = dict(d_model=64, ffn=128, heads=4, encoder_layers=3, decoder_layers=3)
PARTS: list[dict[str, Any]] = [
    {"freeze": {"embeddings": True, "encoder_layers": 2}},
    {"lora": {"rank": 4, "targets": ["q_proj", "fc1"]}, "freeze": {"decoder_layers": 1}},
]


@pytest.mark.parametrize("parts", PARTS)
def test_counts_are_the_models(parts: dict[str, Any]) -> None:
    """All parameters and the trained ones, whole and in stages; memory follows from both."""
    m = ModelSettings.model_validate({**SHAPE, **parts})
    with torch.device("meta"):
        model = Transformer(m, 500)
    freeze(model, m)
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    [stage] = plan_stages(m, 500)
    assert (stage.parameters, stage.trained) == (every, trained)
    first, second = plan_stages(m, 500, 2, costs=[1.0] * len(layer_entries(m, 500)))
    matrix = 500 * 64
    assert first.parameters + second.parameters == every + matrix and first.trained + second.trained == trained
    layout, teachers = PlannedLayout(2, 1), FrozenTeachers(3, 2, 1 << 40)
    shape = BatchShape(4, 20, 20)
    mine = rank_memory(m, 500, [shape], layout, teachers)
    plain = rank_memory(m.plain(), 500, [shape], layout, teachers)
    assert (mine.weights, mine.gradients, mine.optimizer) == (4 * every, *state_bytes(trained, layout)[1:])
    assert mine.host_teachers == 3 * trained and mine.host_teachers < plain.host_teachers
    assert mine.snapshot == 4 * trained and mine.teachers < plain.teachers

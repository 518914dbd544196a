"""The benchmarks' plain PyTorch loop trains as a recipe says."""

import pytest
import torch

from mnmt_ds.batch import Batch
from mnmt_ds.bench import plain_loop
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.models.settings import ModelSettings


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_without_clipping_the_gradient_stays(clip_norm: float, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[plain_loop.PlainTransformer] = []
    dtypes: list[torch.dtype] = []

    class Recorded(plain_loop.PlainTransformer):
        def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
            super().__init__(settings, vocabulary_size)
            models.append(self)
            self.transformer.decoder.layers[0].linear1.register_forward_hook(lambda *call: dtypes.append(call[2].dtype))

    monkeypatch.setattr(plain_loop, "PlainTransformer", Recorded)
    settings = ModelSettings(preset="tiny", d_model=16, ffn=16, heads=2, encoder_layers=1, decoder_layers=1)
    train = TrainSettings.model_validate({"clip_norm": clip_norm, "precision": precision})
    step = plain_loop.make(settings, train, 20, torch.device("cpu"))
    before = models[0].embedding.weight.detach().clone()
    tokens_BT = torch.randint(4, 20, (2, 5))
    step(Batch(tokens_BT, tokens_BT, tokens_BT, 0, torch.arange(2), 10, 10))
    change = (models[0].embedding.weight.detach() - before).abs().max().item()
    assert change == pytest.approx(1e-4, rel=0.01), "Adam's first step is as long as its learning rate"
    assert dtypes == [torch.float32 if precision == "fp32" else torch.bfloat16]

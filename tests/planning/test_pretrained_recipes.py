"""The recipes that start from published models: shapes, framing and parameter counts, from configurations alone."""

import json
from pathlib import Path

import pytest

from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.planning.parameters import count_parameters
from tests.tiny import ROOT

PUBLISHED = {
    "m2m100_418m": ("m2m100_418M", 128112, (1024, 4096, 12), 483_905_536, "m15"),
    "m2m100_1.2b": ("m2m100_1.2B", 128112, (1024, 8192, 24), 1_239_470_080, "nllb_1.3b"),
    "nllb_600m": ("nllb-200-distilled-600M", 256206, (1024, 4096, 12), 615_073_792, "m15"),
    "nllb_1.3b": ("nllb-200-1.3B", 256206, (1024, 8192, 24), 1_370_638_336, "nllb_1.3b"),
    "nllb_3.3b": ("nllb-200-3.3B", 256206, (2048, 8192, 24), 3_344_863_232, "nllb_3.3b"),
}
"""Directory, vocabulary, width, feed-forward width and layers, parameters, preset of the same layers."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_takes_the_published_shape(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, vocabulary, (width, ffn, layers), parameters, preset = PUBLISHED[name]
    place = tmp_path / "models" / directory
    place.mkdir(parents=True)
    config = {
        "model_type": "m2m_100", "vocab_size": vocabulary, "d_model": width, "encoder_layers": layers,
        "decoder_layers": layers, "encoder_ffn_dim": ffn, "decoder_ffn_dim": ffn, "encoder_attention_heads": 16,
        "decoder_attention_heads": 16, "encoder_layerdrop": 0.05, "decoder_layerdrop": 0.05,
        "decoder_start_token_id": 2, "scale_embedding": True, "max_position_embeddings": 1024,
        "activation_function": "relu",
    }  # fmt: skip
    (place / "config.json").write_text(json.dumps(config))
    for file in ("sentencepiece.bpe.model", "vocab.json")[: 1 + name.startswith("m2m")]:
        (place / file).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(ROOT / "launchers" / "recipes" / "pretrained" / f"{name}.yaml")
    assert count_parameters(recipe.model, vocabulary).total == parameters
    assert (recipe.framing.encoder_langtok_position, recipe.framing.decoder_langtok_position) == ("start", "after_end")
    assert recipe.data.tokenizer.given == Path("models") / directory
    assert count_parameters(ModelSettings.model_validate({"preset": preset}), vocabulary).total == parameters

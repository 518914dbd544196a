"""The recipes that start from published models: shapes, parameters and plans from configurations alone, dry runs and
trainings with tiny models of the same family."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.planning.activations import BatchShape
from mnmt_ds.planning.disk import disk_use
from mnmt_ds.planning.memory import FrozenTeachers, PlannedLayout, PlannedStudents, rank_memory, state_bytes
from mnmt_ds.planning.parameters import count_parameters
from tests.pretrained import lines_of, write_model
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
    assert parameters == _parameters_in_transformers(config)


def _parameters_in_transformers(config: dict[str, object]) -> int:
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    with torch.device("meta"):
        model = M2M100ForConditionalGeneration(M2M100Config(**config))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_states_are_deepspeeds_estimates(name: str) -> None:
    """1 to 64 ranks in bf16, buckets left out. At ZeRO-3 the largest matrix alone is live, a rank's part is one
    sub-group, and the estimator's 18 bytes a parameter lack the rank's part of the 16-bit weights."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    _, vocabulary, (width, *_), parameters, _ = PUBLISHED[name]
    largest = vocabulary * width
    for ranks in (1, 2, 4, 8, 16, 32, 64):
        layout = PlannedLayout(ranks, 2, precision="bf16", on_cpu=False, bucket=0, max_live=largest)
        _, theirs = estimate_zero2_model_states_mem_needs(parameters, ranks, 1, cpu_offload=False)
        assert sum(state_bytes(parameters, layout)) == pytest.approx(theirs, rel=1e-6)
        ours = sum(state_bytes(parameters, layout._replace(zero_stage=3)))
        _, theirs, _ = estimate_zero3_model_states_mem_needs(parameters, largest, ranks, 1, False, False)
        if parameters < 1e9 * ranks:
            layer_gradients = 2 * largest  # ours are in the buckets
            assert ours + layer_gradients == pytest.approx(theirs + 2 * parameters / ranks, rel=1e-6)


def test_what_grows_with_3_3b_parameters() -> None:
    """At ZeRO-3 1e9 gathered parameters at most; live gradients under accumulation; teachers and models on disk."""
    parameters = PUBLISHED["nllb_3.3b"][3]
    layout = PlannedLayout(64, 3, precision="bf16", on_cpu=False)
    assert state_bytes(parameters, layout)[0] == 2 * parameters // 64 + 2 * 10**9
    assert state_bytes(parameters, layout)[1] < 6e9
    m, x = ModelSettings.model_validate({"preset": "nllb_3.3b"}), [BatchShape(16, 64, 64)]
    for zero_stage, live in ((0, 4 * parameters), (1, 2 * parameters), (2, 2 * parameters // 8)):
        layout = PlannedLayout(8, zero_stage, precision="bf16", on_cpu=False, bucket=10**8)
        one, four = (
            rank_memory(m, 256_206, x, layout, FrozenTeachers(), micro_batches=count) for count in (1, 4)
        )  # fmt: skip
        assert one.live_gradients == 0 and four.live_gradients == live
        rest = four.gradients - live
        assert four.device - one.device == live + max(four.activations + four.loss, rest) - max(
            one.activations + one.loss, one.gradients
        )
    teachers = FrozenTeachers(versions=30, max_shard_bytes=2**30)
    recipe = load_recipe(None, ["train.keep_checkpoints=2", "data.pairs=[fr-en, ko-en]", "train.precision=bf16"])
    disk = disk_use(recipe, parameters, layout, PlannedStudents(), teachers, parameters)
    assert disk.distinct == 32 and disk.snapshots == 32 * 2 * parameters
    assert disk.checkpoints == 3 * 14 * parameters
    assert disk.teacher_shards == 30 * 2 * parameters // 8 - 2**30


def prepared(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the recipe finds a tiny model, training text and FLORES; its corpus is prepared."""
    monkeypatch.chdir(place)
    write_model(place / "models" / PUBLISHED[name][0], "m2m_100" if name.startswith("m2m") else "nllb")
    texts = {}
    for code in ("fr", "ko", "en"):
        names = lines_of(code)[:600]
        texts[code] = [f"{names[i]}, {names[-i]}, {names[i // 2]}" for i in range(1, 500)]
    (place / "corpora").mkdir()
    for source, target in (("fr", "en"), ("ko", "en"), ("en", "fr"), ("en", "ko")):
        rows = zip(texts[source][:400:4], texts[target][:400:4])
        (place / "corpora" / f"{source}-{target}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    flores = place / "corpora" / "flores200_dataset"
    for split, first in (("dev", 401), ("devtest", 430)):
        (flores / split).mkdir(parents=True)
        for code, file in (("fr", "fra_Latn"), ("ko", "kor_Hang"), ("en", "eng_Latn")):
            (flores / split / f"{file}.{split}").write_text("\n".join(texts[code][first : first + 20]) + "\n")
    path = ROOT / "launchers" / "recipes" / "pretrained" / f"{name}.yaml"
    assert main(["prepare", str(path)]) == 0
    return path


SLOW = pytest.mark.slow


DRY_RUNS = [pytest.param(name, marks=SLOW if name != "nllb_600m" else ()) for name in PUBLISHED]


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_of_the_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = prepared(name, tmp_path, monkeypatch)
    capfd.readouterr()
    assert main(["train", str(path), "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "all is well" in out and all(pair in out for pair in ("fr-en", "ko-en", "en-fr", "en-ko"))
    assert f"ZeRO-{'3' if '3.3b' in name else '2' if '1.' in name else '1'}" in out


@SLOW
@pytest.mark.parametrize("name", ["m2m100_418m", "nllb_3.3b"])
def test_two_updates_of_the_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepared(name, tmp_path, monkeypatch)
    changes = ["train.max_steps=2", "train.batches_per_update=2", "train.max_tokens=256", "tracking.log_every=1"]
    command = [sys.executable, "-m", "mnmt_ds.cli.main", "train", str(path), *changes]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "runs" / "pretrained" / name / "best" / "model.safetensors").exists()

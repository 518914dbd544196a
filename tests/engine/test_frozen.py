"""Runs of which parts are frozen or adapted, on every layout: values, checkpoints, teachers, model directories."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from mnmt_ds.cli.main import main
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.engine.recipe import with_first_weights
from mnmt_ds.errors import UserError
from mnmt_ds.models.frozen import is_frozen
from mnmt_ds.models.pretrained import expected_shapes, open_weights
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.weights import load_model
from mnmt_ds.tracking import read_records
from tests.fp16 import FP16
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

MODELS: dict[str, dict[str, Any]] = {
    "frozen": {"freeze": {"embeddings": True, "encoder_layers": 1}},
    "lora": {"lora": {"rank": 2, "alpha": 4.0, "dropout": 0.1, "targets": ["q_proj", "v_proj", "fc2"]}},
    "words": {"lora": {"rank": 2, "alpha": 4.0, "embeddings": True}, "freeze": {"encoder": True}},
}
RATES = {"frozen": 0.08, "lora": 0.3, "words": 0.1}
"""So high that dev losses rise."""
UPDATES = {"frozen": 8, "lora": 8, "words": 14}
"""By the last of the longest a teacher teaches."""
KEYS = ("train/loss", "train/gnorm", "train/kd_loss", "valid/avg/macro")
LAYERS = {"name": "lssd", "variant": "adaptive", "teachers": {"on_device": "layers"}}
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"0": {"stage": 0}, "1": {"stage": 1}, "2": {"stage": 2}, "3": {"stage": 3}, "layers": {"method": LAYERS}},
    2: {
        "ranks": {"stage": 2}, "partitioned": {"stage": 3}, "streamed": {"stage": 3, "method": LAYERS},
        "stages": {"pipeline": {"stages": 2}}, "vocabulary": {"tensor": {"vocabulary": 2}},
    },
}  # fmt: skip
"""By ranks: ZeRO's stage is 1 where none is given."""


def settings(corpus: str, directory: str, parts: str, stage: int = 1, updates: int = 8, **more: Any) -> Any:
    shape = {"dropout": 0.1, "encoder_layers": 2, "decoder_layers": 2, **MODELS[parts], **more.pop("model", {})}
    train = {"max_steps": updates, "lr": RATES[parts], "warmup_steps": 2, "clip_norm": 0.5, **more.pop("train", {})}
    config = Path(zero(stage, directory))
    if more.pop("offload", False):
        values = json.loads(config.read_text())
        values["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        config.write_text(json.dumps(values))
    return recipe(
        Path(corpus), Path(directory), deepspeed=str(config), train=train, model=shape,
        method=more.pop("method", {"name": "lssd", "variant": "adaptive"}), validation={"every": 2}, **more,
    )  # fmt: skip


class RunResult(NamedTuple):
    """What is left of a run in its process."""

    moved: list[str]
    """Weights that are not as they were when the run began, or went on."""
    shard: float
    """Bytes of this rank's shard of a teacher, in fp16."""


def train(run: Any, resume: bool = False) -> RunResult:
    from mnmt_ds.engine.loop import Training, stopping, train_epochs

    training = Training(run, resume)
    first = training.first.engine.gather_weights()
    with stopping() as stop:
        train_epochs(training, stop)
    training.close()
    if training.lock is not None:
        training.lock.close()
    last = training.first.engine.gather_weights()
    moved = [name for name, value in first.items() if not torch.equal(value, last[name])]
    bank = training.first.method.state.get("teachers")
    count = len(bank.snapshots()) if bank is not None else 0
    return RunResult(moved, bank.pool.teachers.shard_storage.memory_bytes() / count if bank is not None else 0)


def run_all(corpus: str, folder: str, runs: dict[str, dict[str, Any]]) -> dict[str, RunResult]:
    return {name: train(settings(corpus, f"{folder}/{name}", **values)) for name, values in runs.items()}


def values_of(run: str | Path) -> dict[str, list[float]]:
    records = read_records(Path(run) / "metrics.jsonl")
    return {key: [record[key] for record in records if key in record] for key in KEYS}


def trained_shapes(model: str, vocabulary: int) -> dict[str, torch.Size]:
    shape = {"preset": "tiny", "d_model": 32, "ffn": 64, "heads": 2, "encoder_layers": 2, "decoder_layers": 2}
    made = ModelSettings.model_validate({**shape, **MODELS[model]})
    return {name: size for name, size in expected_shapes(made, vocabulary).items() if not is_frozen(made, name)}


@pytest.mark.slow
def test_every_layout_trains_alike(tiny_corpus: Path, tmp_path: Path) -> None:
    """What is frozen stays bit for bit, what is trained and what is measured is one rank's."""
    found: dict[str, RunResult] = {}
    for ranks, layouts in LAYOUTS.items():
        runs = {
            f"{m}-{name}": {"parts": m, "updates": UPDATES[m], **values}
            for m in MODELS
            for name, values in layouts.items()
        }
        found |= on_ranks(ranks, run_all, str(tiny_corpus), str(tmp_path), runs)[0]
    for model in MODELS:
        expected, weights = (
            values_of(tmp_path / f"{model}-0"),
            load_file(tmp_path / f"{model}-0/last/model.safetensors"),
        )
        assert max(expected["train/gnorm"]) > 0.5, "nothing was clipped"
        assert model != "words" or max(expected["train/kd_loss"]) > 0, "no teacher taught"
        vocabulary = json.loads((tmp_path / f"{model}-0" / "last" / "model.json").read_text())["vocabulary_size"]
        trained = trained_shapes(model, vocabulary)
        size = sum(shape.numel() for shape in trained.values())
        for name in [f"{model}-{layout}" for layouts in LAYOUTS.values() for layout in layouts]:
            values, last = values_of(tmp_path / name), load_file(tmp_path / name / "last" / "model.safetensors")
            for key in KEYS:
                assert values[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), (name, key)
            assert last.keys() == trained.keys() == set(found[name].moved), name
            for key, value in last.items():
                assert (value - weights[key]).abs().max() < 1e-3, (name, key)
            assert found[name].shard <= 2 * (size + 2 * len(trained)), "a teacher holds what was frozen"
            total = sum(path.stat().st_size for path in (tmp_path / name / "checkpoints/last").rglob("*.pt"))
            copies = 2 if name.endswith(("vocabulary", "stages")) else 1  # both ranks have what is not split, or tied
            assert total < copies * (16 * size + 4000 * len(trained)), (name, "a checkpoint holds what was frozen")


def go_on(corpus: str, folder: str, runs: dict[str, dict[str, Any]]) -> None:
    """Each run in one go, and in two."""
    for name, values in runs.items():
        train(settings(corpus, f"{folder}/{name}", **values))
        train(settings(corpus, f"{folder}/{name}-again", updates=4, **values))
        train(settings(corpus, f"{folder}/{name}-again", **values), resume=True)


@pytest.mark.slow
def test_resumed_runs_go_on_bit_for_bit(tiny_corpus: Path, tmp_path: Path) -> None:
    layouts = {"1": {}, "3": {"stage": 3}, "stages": {"pipeline": {"stages": 2}}}
    runs = {f"{m}-{name}": {"parts": m, **values} for m in ("frozen", "lora") for name, values in layouts.items()}
    on_ranks(2, go_on, str(tiny_corpus), str(tmp_path), runs)
    for name in runs:
        values, again = values_of(tmp_path / name), values_of(tmp_path / f"{name}-again")
        assert values.pop("train/gnorm") == pytest.approx(again.pop("train/gnorm"), rel=1e-6), name  # how it is summed
        assert values == again, name
        for file in ("frozen.safetensors", "last/model.safetensors", "best/model.safetensors"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / f"{name}-again" / file).read_bytes(), name


@pytest.mark.slow
def test_halves_offload_samplers_and_students_go_on(tiny_corpus: Path, tmp_path: Path) -> None:
    """What is frozen stays bit for bit in bf16 and fp16, too; each run resumed is the run in one go."""
    kinds: dict[str, dict[str, Any]] = {
        f"{precision}-{stage}": {"stage": stage, "train": {"precision": precision}}
        for precision in ("bf16", *["fp16"] * FP16) for stage in range(precision == "fp16", 4)
    }  # fmt: skip
    kinds |= {f"offload-{stage}": {"stage": stage, "offload": True} for stage in (1, 2, 3)}
    kinds |= {name: {"sampler": {"name": name}} for name in ("multidds", "multiuat", "ccl_m")}
    pareto = {
        "name": "pareto",
        "rule": "bi",
    }  # a search is left out at a run's end, so that rule auto goes on otherwise
    kinds["students"] = {"students": [{"name": "a"}, {"name": "b"}], "method": pareto}
    runs = {f"{m}-{kind}": {"parts": m, **values} for m in MODELS for kind, values in kinds.items()}
    on_ranks(1, go_on, str(tiny_corpus), str(tmp_path), runs)
    for name in runs:
        students = ("students/a", "students/b") if "students" in name else ("",)
        for student in students:
            run, again = tmp_path / name / student, tmp_path / f"{name}-again" / student
            last, first = (
                load_file(run / "last" / "model.safetensors"),
                json.loads((run / "last/model.json").read_text()),
            )
            assert last.keys() == trained_shapes(name.partition("-")[0], first["vocabulary_size"]).keys(), name
            assert all(bool(value.isfinite().all()) for value in last.values()), name
            for file in ("frozen.safetensors", "last/model.safetensors", "best/model.safetensors"):
                assert (run / file).read_bytes() == (again / file).read_bytes(), (name, student, file)


def begin(corpus: str, folder: str, resume: bool, updates: int) -> list[list[str]]:
    return [
        train(settings(corpus, f"{folder}/{stage}", "lora", stage, updates), resume).moved for stage in (1, 3)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_checkpoint_moves_to_other_ranks(tiny_corpus: Path, tmp_path: Path) -> None:
    """DeepSpeed's universal checkpoints lack what has no gradient: it comes from the run's own file, which must be the
    one that was written."""
    on_ranks(2, begin, str(tiny_corpus), str(tmp_path), False, 4)
    (tmp_path / "whole").mkdir()
    [_] = on_ranks(1, begin, str(tiny_corpus), str(tmp_path / "whole"), False, 8)
    [moved] = on_ranks(1, begin, str(tiny_corpus), str(tmp_path), True, 8)
    for stage, names in zip((1, 3), moved, strict=True):
        assert all(".lora_" in name for name in names) and names
        values, expected = values_of(tmp_path / str(stage)), values_of(tmp_path / "whole" / str(stage))
        for key in KEYS:
            assert values[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), (stage, key)
    path = tmp_path / "1" / "frozen.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(AssertionError, match=r"frozen.safetensors: was altered"):
        on_ranks(1, begin, str(tiny_corpus), str(tmp_path), True, 9)


def adapted_run(corpus: str, folder: str) -> None:
    """An adapted run, and runs that start from its best, or are taught by it."""
    train(settings(corpus, f"{folder}/run", "lora"))
    expert = {
        "name": "multi_distill",
        "rule": "fix",
        "experts": dict.fromkeys(("bs-en", "hi-en", "fr-en"), f"{folder}/run/best"),
    }
    for name, values in (("next", {"method": {"name": "translation"}}), ("taught", {"method": expert})):
        train(
            with_first_weights(settings(corpus, f"{folder}/{name}", "words", model={"init": f"{folder}/run"}, **values))
        )


@pytest.mark.slow
def test_models_of_an_adapted_run_are_used_as_others(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Translated with, imported, exported to transformers and CTranslate2, started from and taught by: all merged."""
    on_ranks(1, adapted_run, str(tiny_corpus), str(tmp_path))
    run = tmp_path / "run"
    for pair in ("bs-en", "hi-en", "fr-en"):
        assert (run / f"best_{pair}" / "model.safetensors").stat().st_size < 0.2 * (
            run / "frozen.safetensors"
        ).stat().st_size
    model = open_translator(run).model
    merged = dict(model.named_parameters())
    first = load_file(tmp_path / "next" / "frozen.safetensors")
    assert any(".attention.qkv.weight" in name for name in first)
    for name, value in first.items():
        assert torch.equal(value, merged[name].to(value.dtype)), name
    assert values_of(tmp_path / "taught")["train/loss"]
    assert main(["import", str(run / "best"), str(tmp_path / "whole")]) == 0
    assert load_file(tmp_path / "whole" / "model.safetensors").keys() == merged.keys()
    assert not any(".lora_" in name for name in merged)
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    assert main(["export", str(run), str(tmp_path / "ct2"), "--format", "ctranslate2"]) == 0
    from transformers import M2M100ForConditionalGeneration

    other = M2M100ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    tokens = torch.arange(4, 24).view(2, 10)
    with torch.no_grad():
        logits = model.head(model(tokens, tokens.flip(1)).decoder_BTD)
        theirs = other(input_ids=tokens, decoder_input_ids=tokens.flip(1)).logits
    torch.testing.assert_close(theirs, logits, rtol=1e-5, atol=1e-5)


def test_a_model_without_its_frozen_weights_is_refused(tmp_path: Path) -> None:
    """Both readers find the file in the run or beside the model, and say in one line where it is missing or altered."""
    from mnmt_ds.engine.checkpointing import frozen_weights, snapshots

    shape = {"d_model": 16, "ffn": 24, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "lora": {"rank": 2}}
    model = ModelSettings.model_validate(shape)
    torch.manual_seed(2)
    weights = {name: torch.randn(size) for name, size in expected_shapes(model, 20).items()}
    kept = {name: value for name, value in weights.items() if is_frozen(model, name)}
    digest = frozen_weights.write(tmp_path, kept)
    description = {"model": model.model_dump(mode="json"), "vocabulary_size": 20, "pairs": [], "framing": {},
                   "tokenizer_hash": "", "frozen": digest}  # fmt: skip
    rest = {name: value for name, value in weights.items() if name not in kept}
    snapshots.write(tmp_path, 5, rest, description)
    snapshots.link(tmp_path, {"best": 5})
    best = tmp_path / "best"
    source, read = open_weights(best), dict(load_model(best)[0].named_parameters())
    name = "decoder.0.cross.kv.weight"
    delta = 4 * rest["decoder.0.cross.kv.lora_B"] @ rest["decoder.0.cross.kv.lora_A"]  # v alone, alpha 8 / rank 2
    expected = weights[name] + torch.cat([torch.zeros(16, 16), delta])
    assert source.parts.keys() == read.keys() and source.settings == model.plain()
    for value in (source.read(name), read[name]):
        torch.testing.assert_close(value, expected)
    assert torch.equal(read["embedding.weight"], weights["embedding.weight"])
    (best / "frozen.safetensors").write_bytes((tmp_path / "frozen.safetensors").read_bytes())
    (tmp_path / "frozen.safetensors").unlink()
    assert torch.equal(open_weights(best).read(name), source.read(name))
    (best / "frozen.safetensors").write_bytes(b"other")
    for fault in ("was altered", "copy the file there"):
        for read_model in (open_weights, load_model):
            with pytest.raises(UserError) as error:
                read_model(best)
            assert fault in str(error.value) and "\n" not in str(error.value)
        (best / "frozen.safetensors").unlink(missing_ok=True)

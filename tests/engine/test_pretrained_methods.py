"""Methods on a pretrained model with a new language and new pieces: alike on every layout, then scored and exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.decoding.pretrained import open_first_weights
from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.tracking import read_records
from tests.pretrained import lines_of, write_model
from tests.spawn import on_ranks
from tests.tiny import zero

PAIRS = ("xxx_Latn-en", "ka-en")
"""Swahili's names under a code that no tokenizer has, and Georgian."""
METHODS: dict[str, dict[str, Any]] = {
    "lssd": {"method": {"name": "lssd", "variant": "adaptive"}},
    "intra": {"method": {"name": "intra_distillation", "passes": 2, "alpha": 1.0}, "model": {"dropout": 0.1}},
    "adapted": {
        "method": {"name": "lssd"},
        "model": {"lora": {"rank": 2, "alpha": 4.0, "embeddings": True}, "freeze": {"encoder_layers": 1}},
        "train": {"lr": 0.05},
    },
}
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"alone": {}},
    2: {
        "partitioned": {"stage": 3}, "offloaded": {"stage": 2, "offload": True},
        "stages": {"pipeline": {"stages": 2}}, "vocabulary": {"tensor": {"vocabulary": 2}},
    },
}  # fmt: skip
KEYS = ("train/loss", "train/gnorm", "train/kd_loss", "valid/avg/macro")


def write_recipe(home: Path, name: str, method: str, stage: int = 1, offload: bool = False, **layout: Any) -> Path:
    """A recipe of a run called ``name`` that starts from the model beside it."""
    directory, sections = home / "runs" / name, METHODS[method]
    text = {pair: {"train": [{"format": "tsv", "path": str(home / f"{pair[:2]}.tsv")}]} for pair in PAIRS}
    config = Path(zero(stage, directory))
    if offload:
        values = json.loads(config.read_text())
        values["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        config.write_text(json.dumps(values))
    values = {
        "directory": str(directory),
        "data": {
            "directory": str(home / "data"), "pairs": list(PAIRS), "corpora": text, "max_train": {"*": 24},
            "clean": {"min_script": 0.0, "max_ratio": 99, "copied": "keep"}, "split": {"dev": 12, "test": 8},
            "tokenizer": {
                "model": str(home / "model"), "new_languages": {"xxx_Latn": "sw"}, "new_pieces": {"xxx_Latn": 12},
            },
        },
        "model": {"init": str(home / "model"), **sections.get("model", {})},
        "method": sections["method"], "validation": {"every": 2},
        "train": {
            "max_tokens": 128, "batches_per_update": 2, "max_steps": 18, "lr": 0.1, "warmup_steps": 2,
            **sections.get("train", {}),
        },
        "tracking": {"log_every": 1}, "deepspeed": str(config), **layout,
    }  # fmt: skip
    path = home / f"{name}.yaml"
    path.write_text(json.dumps(values))
    return path


def train_all(recipes: dict[str, str]) -> dict[str, list[str]]:
    """Trains each recipe; of each run the weights that it began with and the pretrained model does not have."""
    from mnmt_ds.engine.loop import Training, stopping, train_epochs

    wrong = {}
    for name, path in recipes.items():
        training = Training(load_recipe(Path(path)), resume=False)
        recipe = training.recipe
        source, _ = open_first_weights(recipe.model.init, training.corpus.tokenizer, Path(recipe.data.directory))
        first = training.first.engine.gather_weights()
        pretrained = {part: source.read(part) for part in source.parts}
        wrong[name] = [
            key for key, value in first.items() if key in pretrained and not torch.equal(value, pretrained[key])
        ]
        assert len(first.keys() & pretrained.keys()) > 4
        with stopping() as stop:
            train_epochs(training, stop)
        training.close()
        if training.lock is not None:
            training.lock.close()
    return wrong


def values_of(run: Path) -> dict[str, list[float]]:
    records = read_records(run / "metrics.jsonl")
    return {key: [record[key] for record in records if key in record] for key in KEYS}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["m2m_100", "nllb"])
def test_methods_layouts_scores_and_exports(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Loss, norms and dev losses are one rank's; the exported model's logits are ours in transformers."""
    write_model(tmp_path / "model", family)
    for language, locale in (("xx", "sw"), ("ka", "ka")):
        rows = zip(lines_of(locale), lines_of("en"), strict=False)
        text = "".join(f"{source}\t{target}\n" for source, target in list(rows)[:300])
        (tmp_path / f"{language}.tsv").write_text(text, encoding="utf-8")
    recipes = {
        ranks: {
            f"{method}-{name}": str(write_recipe(tmp_path, f"{method}-{name}", method, **layout))
            for method in METHODS
            for name, layout in layouts.items()
            if method == "lssd" or name in ("alone", "partitioned", "stages")
        }
        for ranks, layouts in LAYOUTS.items()
    }
    first = recipes[1]["lssd-alone"]
    assert main(["prepare", first, "--processes", "1"]) == 0
    assert main(["validate", first, "--processes", "1"]) == 0
    assert main(["train", first, "--dry-run"]) == 0
    tokenizer = Corpus.open(tmp_path / "data").tokenizer
    assert tokenizer.derivation is not None
    assert sum(row < 0 for row in tokenizer.derivation.rows) >= 4
    assert "new pieces of xxx_Latn instead of 12" in caplog.text
    for ranks, named in recipes.items():
        for found in on_ranks(ranks, train_all, named):
            assert found == {name: [] for name in named}
    for method in METHODS:
        alone = values_of(tmp_path / "runs" / f"{method}-alone")
        assert method != "lssd" or max(alone["train/kd_loss"], default=0) > 0, alone["valid/avg/macro"]
        for name in recipes[2]:
            if name.startswith(method):
                for key, values in values_of(tmp_path / "runs" / name).items():
                    assert values == pytest.approx(alone[key], rel=1e-3, abs=1e-4), (name, key)
    capsys.readouterr()
    for name in ("lssd-partitioned", "adapted-stages"):
        run = tmp_path / "runs" / name
        assert main(["evaluate", str(run)]) == 0
        scores = capsys.readouterr().out
        assert all(pair in scores for pair in PAIRS)
        check_export(run, tmp_path / "out" / name)


def check_export(run: Path, out: Path) -> None:
    """The exported directory gives a new language's sentences the same ids, and the same logits, in transformers."""
    from transformers import AutoTokenizer, M2M100ForConditionalGeneration

    assert main(["export", str(run), str(out)]) == 0
    translator = open_translator(run)
    model = M2M100ForConditionalGeneration.from_pretrained(out).eval()
    tokenizer = translator.tokenizer
    table = load_file(out / "model.safetensors")["model.shared.weight"]
    assert len(table) >= tokenizer.size
    theirs = AutoTokenizer.from_pretrained(out, src_lang=tokenizer.piece(tokenizer.tag("ka")).strip("_"))
    for line in lines_of("ka")[:20]:
        assert theirs(line).input_ids == [tokenizer.tag("ka"), *tokenizer.encode(line, "ka"), 2]
    source = torch.tensor([[tokenizer.tag("xxx_Latn"), *tokenizer.encode(lines_of("sw")[3], "xxx_Latn"), 2]])
    target = torch.tensor([[2, tokenizer.tag("en"), *tokenizer.encode(lines_of("en")[3], "en")]])
    with torch.no_grad():
        ours = translator.model.head(translator.model(source, target).decoder_BTD)
        logits = model(input_ids=source, decoder_input_ids=target).logits[..., : ours.shape[-1]]
    torch.testing.assert_close(logits, ours, rtol=1e-5, atol=1e-5)

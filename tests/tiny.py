"""A synthetic corpus that a small model can learn, and recipes over it."""

import json
import os
import random
from pathlib import Path
from typing import Any

from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.engine.recipe import Recipe

WORDS = [
    "the",
    "red",
    "blue",
    "green",
    "small",
    "large",
    "old",
    "new",
    "cat",
    "dog",
    "bird",
    "fish",
    "house",
    "tree",
    "river",
    "stone",
    "sees",
    "eats",
    "likes",
    "finds",
]
PAIRS = {"bs-en": 60, "hi-en": 120, "fr-en": 240}
ROOT = Path(__file__).parent.parent


def write_corpus(directory: Path, seed: int = 7) -> Path:
    """Sentences whose translation replaces each word and turns the order round (fr) or keeps it."""
    maker = random.Random(seed)
    corpora: dict[str, Any] = {}
    for pair, size in PAIRS.items():
        language = pair[:2]
        rows = []
        while len(rows) < size + 60:
            words = [maker.choice(WORDS) for _ in range(maker.randint(3, 9))]
            foreign = [_foreign(word, language) for word in words]
            rows.append(" ".join(foreign[::-1] if language == "fr" else foreign) + "\t" + " ".join(words))
        path = directory / f"{pair}.tsv"
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        corpora[pair] = {"train": [{"format": "tsv", "path": str(path)}]}
    settings = DataSettings.model_validate(
        {
            "directory": str(directory / "data"),
            "pairs": list(PAIRS),
            "corpora": corpora,
            "max_train": PAIRS,
            "clean": {"min_script": 0.0},
            "split": {"dev": 12, "test": 12},
            "tokenizer": {"size": 120, "hard_limit": False},
        }
    )
    prepare(settings, processes=1)
    return directory / "data"


def recipe(corpus: Path, run: Path, **sections: Any) -> Recipe:
    """A recipe of a minute model over the tiny corpus; sections given here are merged into it."""
    base: dict[str, Any] = {
        "name": run.name,
        "directory": str(run),
        "data": {"directory": str(corpus), "pairs": list(PAIRS)},
        "model": {"preset": "tiny", "d_model": 32, "ffn": 64, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
        "train": {"max_tokens": 96, "batches_per_update": 4, "max_epochs": 3, "warmup_steps": 20, "lr": 5e-3},
        "deepspeed": str(ROOT / "ds_configs" / "zero1.json"),
        "tracking": {"log_every": 1},
    }
    for name, values in sections.items():
        base[name] = (
            {**base[name], **values} if isinstance(base.get(name), dict) and isinstance(values, dict) else values
        )
    return Recipe.model_validate(base)


def zero(stage: int, run: str | Path, whole: int = 100) -> str:
    """A DeepSpeed configuration beside a run; at ZeRO-3 all weights of more than ``whole`` elements are partitioned."""
    config = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text())
    config["zero_optimization"] |= {"stage3_param_persistence_threshold": whole} if stage == 3 else {}
    path = Path(f"{run}-zero{stage}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}")  # each rank writes it; none may read what another has begun
    own.write_text(json.dumps(config))
    own.replace(path)
    return str(path)


def _foreign(word: str, language: str) -> str:
    mark = {"bs": "bo", "hi": "hi", "fr": "fra"}[language]
    return word[::-1] + mark

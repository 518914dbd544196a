"""Run directories as training leaves them: a random model over the tiny corpus, or made-up curves."""

import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from mnmt_ds.bench.decoding import make_peaked
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.models.weights import save_model
from mnmt_ds.run_files import METRICS, RECIPE

SIZES = {"bs-en": 150, "hi-en": 450, "el-en": 900, "ko-en": 2600}


def model_run(run: Path, corpus: Path, seed: int = 0) -> Path:
    """A run with a ``best`` checkpoint of random weights whose sentences end."""
    opened = Corpus.open(corpus)
    settings = ModelSettings(
        preset="tiny", d_model=32, ffn=64, heads=2, encoder_layers=1, decoder_layers=1, max_positions=64
    )
    torch.manual_seed(seed)
    model = initialise(Transformer(settings, opened.tokenizer.size))
    make_peaked(model, end_pull=3.0, around=12)
    description = {
        "model": settings.model_dump(mode="json"),
        "vocabulary_size": opened.tokenizer.size,
        "framing": FramingSettings().model_dump(mode="json"),
        "pairs": list(opened.pairs),
        "tokenizer_hash": opened.tokenizer.hash,
        "data_hash": opened.hash,
        "update": 7,
    }
    (run / "snapshots").mkdir(parents=True)
    save_model(run / "snapshots" / "7", {name: p.detach() for name, p in model.named_parameters()}, description)
    os.symlink("snapshots/7", run / "best")
    opened.tokenizer.save_to(run / "tokenizer")
    recipe = {"name": run.name, "data": {"directory": str(corpus)}, "train": {"seed": seed}}
    (run / RECIPE).write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return run


def curve_run(
    run: Path, name: str, method: dict[str, Any], seed: int = 1, epochs: int = 20, sizes: dict[str, int] | None = None,
    updates: int = 100,
) -> Path:  # fmt: skip
    """A run's recipe and metrics: small pairs overfit early; under LSSD switches and teachers follow Algorithm 1."""
    run.mkdir(parents=True)
    sizes = sizes or SIZES
    recipe = {
        "name": name,
        "directory": str(run),
        "data": {"directory": "nowhere", "pairs": list(sizes)},
        "method": method,
        "train": {"seed": seed, "lr": 2e-3},
        "model": {"preset": "tiny"},
    }
    (run / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    records = [{"kind": "run", "update": 0, "epoch": 0, "time": 1000.0, "world_size": 1}]
    records += _records(method["name"] == "lssd", random.Random(seed), epochs, sizes, updates)
    (run / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return run


def _records(lssd: bool, draw: random.Random, epochs: int, sizes: dict[str, int], updates: int) -> list[dict[str, Any]]:
    best = {pair: (math.inf, -1) for pair in sizes}
    overall: tuple[float, dict[str, float]] = (math.inf, {})
    total, records, now = sum(sizes.values()), [], 1000.0
    for epoch in range(1, epochs + 1):
        update = epoch * updates
        for step in (update - updates // 2, update):
            now += 10.0
            values = {"train/loss": 6 / math.sqrt(epoch), "train/nll_loss": 5 / math.sqrt(epoch), "train/lr": 1e-3}
            values |= {"runtime/tokens_per_sec": 5000.0 + draw.random() * 500, "memory/cpu": 6e8}
            records.append({"kind": "train", "update": step, "epoch": step / updates, "time": now, **values})
        dev, values = {}, {}
        for pair, size in sizes.items():
            turn = 4 + 10 * math.log10(size / 100)
            overfit = (0.15 if lssd else 0.6) * max(0.0, epoch - turn) / 10
            dev[pair] = 3.0 + 3 / epoch**0.7 + overfit - 0.05 * lssd + 0.02 * draw.random()
            values |= {f"valid/{pair}/loss": dev[pair], f"valid/{pair}/nll": dev[pair] - 0.4}
            values[f"valid/{pair}/ppl"] = math.exp(dev[pair] - 0.4)
            values[f"data/{pair}/prob"] = values[f"data/{pair}/share"] = size / total
            values[f"data/{pair}/passes"] = float(epoch)
        mean = sum(dev.values()) / len(dev)
        overall = min(overall, (mean, dev), key=lambda mark: mark[0])
        for pair in sizes:
            better = dev[pair] < best[pair][0]
            best[pair] = (dev[pair], update) if better else best[pair]
            if lssd:
                values |= {f"teacher/{pair}/switch": float(not better), f"teacher/{pair}/version": best[pair][1]}
                values[f"teacher/{pair}/age"] = update - best[pair][1]
        values["valid/avg/macro"] = mean
        values["valid/deficit"] = sum(overall[1][pair] - best[pair][0] for pair in sizes)
        records.append({"kind": "valid", "update": update, "epoch": float(epoch), "time": now, **values})
    return records


def evaluated(run: Path, hypotheses: dict[str, Sequence[str]], references: dict[str, Sequence[str]]) -> None:
    """Adds the evaluation of the run's best checkpoint on its test set."""
    from mnmt_ds.evaluation import report, scores

    settings = scores.ScoreSettings()
    path = report.report_path(run, "best", "test")
    pairs = {
        pair: {**scores.score_pair(hypotheses[pair], references[pair], "en", settings), "train_sentences": SIZES[pair],
               "class": "very low"}
        for pair in hypotheses
    }  # fmt: skip
    report.write_lines(path.with_suffix(""), "hyp", hypotheses)
    report.write_lines(path.with_suffix(""), "ref", references)
    report.write_report(
        path,
        {"checkpoint": "best", "split": "test", "pairs": pairs, "macro": scores.macro_averages(pairs), "seconds": 1.5,
         "classes": scores.class_averages(pairs)},
    )  # fmt: skip

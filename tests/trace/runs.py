"""Runs a training by the command line and collects what it left behind."""

import copy
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open

from tests.trace.cases import PAIRS, Case, Sections

COMMAND = "mnmt_ds.cli.main"
RANK = f"""import os, sys
from {COMMAND} import main
code = main()
sys.stdout.flush(), sys.stderr.flush()
os._exit(code)
"""
"""A rank's program. It leaves at once, for threads of gloo may be at work when a Python process ends by itself."""
TIMES = re.compile(r"(?<!run)time|seconds|per_sec|mfu|memory/|pareto/(search_share|trials_on_top)")
"""Metric keys of times (the last two are shares of time), speeds and memory, whose values are left out."""
PATIENCE = 600
"""Seconds until a training is given up."""


def write_text(folder: Path) -> Sections:
    """Writes sentences of made-up languages, whose translation replaces words; in French it turns their order round.

    Args:
        folder: where the TSV files go.

    Returns:
        The recipe's ``data.corpora``.
    """
    words = "the red blue green small large old new cat dog bird fish house tree river stone sees eats likes finds"
    draw, corpora = random.Random(7), Sections()
    for pair, size in PAIRS.items():
        lines = []
        for _ in range(size + 60):
            english = [draw.choice(words.split()) for _ in range(draw.randint(3, 9))]
            foreign = [word[::-1] + pair[:2] for word in english]
            lines.append(" ".join(foreign[::-1] if pair == "fr-en" else foreign) + "\t" + " ".join(english))
        path = folder / f"{pair}.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        corpora[pair] = {"train": [{"format": "tsv", "path": str(path)}]}
    return corpora


def write_recipe(folder: Path, name: str, case: Case) -> Path:
    """Writes a training's recipe and DeepSpeed configuration.

    Args:
        folder: of all runs; ``{runs}`` in a setting stands for it.
        name: the training's.
        case: the training.

    Returns:
        The recipe's path.
    """
    shape = {"d_model": 32, "ffn": 64, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1}
    if case.ranks > 1:
        shape |= {"encoder_layers": 2, "decoder_layers": 2}
    recipe: Sections = {
        "name": name,
        "directory": f"{folder}/{name}",
        "data": {"directory": f"{folder}/data", "pairs": list(PAIRS)},
        "model": {"preset": "tiny", **shape},
        "train": {"max_tokens": 96, "batches_per_update": 4, "max_epochs": 9, "max_steps": 12, "lr": 4e-2,
                  "warmup_steps": 2, "clip_norm": 0.5},
        "validation": {"every": 2},
        "deepspeed": f"{folder}/{name}.json",
        "tracking": {"log_every": 1},
    }  # fmt: skip
    for key, values in copy.deepcopy(case.sections).items():
        recipe[key] = {**recipe.get(key, {}), **values} if isinstance(values, dict) else values
    adam = {"torch_adam": True, "fused": True, **dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
    filled = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping",
              "steps_per_print")  # fmt: skip
    deepspeed: Sections = {
        **dict.fromkeys(filled, "auto"),
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
        "optimizer": {"type": "AdamW", "params": adam},
        "zero_optimization": {"stage": case.zero},
    }
    if case.zero == 3:
        deepspeed["zero_optimization"]["stage3_param_persistence_threshold"] = 100
    (folder / f"{name}.json").write_text(json.dumps(deepspeed), encoding="utf-8")
    path = folder / f"{name}.yaml"  # JSON is YAML, too
    path.write_text(json.dumps(recipe).replace("{runs}", str(folder)), encoding="utf-8")
    return path


def check_code(code: Path) -> None:
    """Makes sure that the package of a checkout is the one that runs.

    Args:
        code: the checkout.

    Raises:
        SystemExit: where Python finds another one.
    """
    say = f"import {COMMAND.split('.')[0]} as package; print(package.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(code)}
    with tempfile.TemporaryDirectory() as empty:
        place = subprocess.run(
            [sys.executable, "-c", say], cwd=empty, env=environment, text=True, capture_output=True, check=True
        ).stdout.strip()
    if not Path(place).resolve().is_relative_to(code):
        raise SystemExit(f"{place} runs, not the package in {code}")


def run(arguments: list[str], code: Path, ranks: int = 1, launcher: str = "none") -> None:
    """Runs a command of the package under test, on one rank or several.

    Args:
        arguments: of ``python -m mnmt_ds.cli.main``.
        code: the checkout whose package runs.
        ranks: processes.
        launcher: deepspeed, or none.

    Raises:
        RuntimeError: when it fails or takes longer than ``PATIENCE``; with the end of its output.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    base = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    places = [dict[str, str]()]
    with tempfile.TemporaryDirectory() as empty:  # python -m looks for packages where it is started
        script = Path(empty) / "rank.py"
        script.write_text(RANK, encoding="utf-8")
        command = [sys.executable, "-m", COMMAND, *arguments]
        if launcher == "deepspeed":
            start = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks), "--master_port", port]
            command = [*start, "--no_local_rank", str(script), *arguments]
        elif ranks > 1:
            command = [sys.executable, str(script), *arguments]
            joined = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            places = [{**joined, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        logs = [Path(empty) / f"{rank}.log" for rank in range(len(places))]
        processes = [
            subprocess.Popen(command, cwd=empty, env=base | place, stdout=log.open("w"), stderr=subprocess.STDOUT)
            for place, log in zip(places, logs, strict=True)
        ]
        deadline = time.monotonic() + PATIENCE
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.05)
        codes = [process.poll() for process in processes]
        for process in processes:
            process.kill()
            process.wait()
        if any(codes) or None in codes:
            said = "\n".join(log.read_text(encoding="utf-8", errors="replace")[-3000:] for log in logs)
            raise RuntimeError(f"{' '.join(command)}: exit codes {codes}\n{said}")


def collect(directory: Path) -> Sections:
    """What a run left behind.

    Args:
        directory: the run's.

    Returns:
        ``records`` (by metrics file, of each record its numbers), ``keys`` (all metric keys), ``models`` (by model
        directory, of each tensor a hash), ``texts`` (by file, the hash of translations) and ``files`` (names of all
        files).
    """
    metrics = {relative(path, directory): read_metrics(path) for path in sorted(directory.rglob("metrics.jsonl"))}
    folders = [place for place in (directory, *directory.glob("students/*")) if place.is_dir()]
    models = [path for place in folders for path in (*place.glob("best*"), *place.glob("last"))]
    return {
        "records": {
            file: [{key: value for key, value in record.items() if not TIMES.search(key)} for record in records]
            for file, records in metrics.items()
        },
        "keys": sorted({key for records in metrics.values() for record in records for key in record}),
        "models": {relative(path, directory): hashes(path / "model.safetensors") for path in sorted(models)},
        "texts": {
            relative(path, directory): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*.hyp"))
        },
        "files": sorted(relative(path, directory) for path in directory.rglob("*") if path.is_file()),
    }


def relative(path: Path, directory: Path) -> str:
    """A path within a directory, as text.

    Args:
        path: the path.
        directory: a directory above it.

    Returns:
        The path from there.
    """
    return path.relative_to(directory).as_posix()


def read_metrics(path: Path) -> list[Sections]:
    """The records of a ``metrics.jsonl``.

    Args:
        path: the file.

    Returns:
        Its records, without their checksums.
    """
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in record.items() if key != "crc"} for record in records]


def hashes(path: Path) -> dict[str, str]:
    """The tensors of a safetensors file.

    Args:
        path: the file.

    Returns:
        By tensor, its type, its shape and the SHA-256 of name, type, shape and bytes.
    """
    result = {}
    with safe_open(path, "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            kind = f"{tensor.dtype} {list(tensor.shape)}"
            data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            result[name] = f"{kind} {hashlib.sha256(f'{name} {kind} '.encode() + data).hexdigest()}"
    return result

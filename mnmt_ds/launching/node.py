"""What one node says of itself before a job: what must be equal on all nodes, what it has, what is wrong with it."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds import __version__
from mnmt_ds.config import dump
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.build import open_corpus
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import Recipe, load_recipe, students_of
from mnmt_ds.errors import UserError
from mnmt_ds.methods.registry import teacher_settings

MARK = "node facts: "
"""Begins the line in which a node's facts are printed, whatever else it prints."""
PACKAGES = ("torch", "deepspeed", "megatron-core", "sentencepiece", "numpy", "safetensors", "pydantic")
EXTENSIONS = 1 << 28
"""Bytes that building native code may take."""


class Facts(NamedTuple):
    """A node, as it sees itself."""

    same: dict[str, str]
    """What must be equal on every node."""
    gpus: int
    address: str
    """Where the other nodes reach it."""
    shared: bool
    """Whether it sees the run's directory as the launching node does."""
    faults: list[str]


def facts(recipe_path: Path, overrides: Sequence[str], token: str, rehash: bool = False) -> Facts:
    """Looks, builds and reports; what is wrong is in ``faults``, never an exception of the user's making."""
    import torch

    same, faults, shared = packages(), [], True
    try:
        recipe = load_recipe(recipe_path, overrides)
        config = ds_config.read(recipe.deepspeed)
        same["recipe"] = _digest(dump(recipe.model_copy(update={"deepspeed": Path("-")})), json.dumps(config))
        shared = not token or (recipe.directory / token).exists()
        corpus, _ = open_corpus(recipe)
        same["data"], same["tokenizer"] = corpus.hash[:12], corpus.tokenizer.hash[:12]
        faults += altered(corpus) if rehash else []
        faults += full_disks(recipe, corpus.tokenizer.size)
        from mnmt_ds.launching import builds

        welcome = ["AsyncIOBuilder"] if teachers_on_disk(recipe, corpus.tokenizer.size) else []
        faults += builds.build(recipe.train.loss_implementation, config, welcome)
    except UserError as error:
        faults.append(str(error))
    return Facts(same, torch.cuda.device_count(), address(), shared, faults)


def packages() -> dict[str, str]:
    """Versions by package, and a hash of this package's source."""
    found = {"Python": platform.python_version(), "mnmt_ds": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cpp", ".cu", ".h"))
    found["mnmt_ds's source"] = _digest(*(f"{path.relative_to(root)}\n{path.read_text('utf-8')}" for path in files))
    return found


def altered(corpus: Corpus) -> list[str]:
    """Files of a corpus whose bytes are not those of its manifest."""
    faults = []
    for name, known in corpus.manifest["files"].items():
        with (corpus.directory / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                faults.append(f"{corpus.directory / name}: was altered since it was prepared; copy it again")
    return faults


def full_disks(recipe: Recipe, vocabulary: int) -> list[str]:
    """Where a run would not fit: its own disk, and the one on which native code is built."""
    from mnmt_ds.kernels.build import extensions_directory

    wanted = {recipe.directory: bytes_of_run(recipe, vocabulary), extensions_directory(): EXTENSIONS}
    faults = []
    for place, size in wanted.items():
        there = next(parent for parent in (place.resolve(), *place.resolve().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if free < size:
            faults.append(
                f"{place}: {free / 2**30:.1f} GiB free, and {size / 2**30:.1f} GiB are needed; make room or move it"
            )
    return faults


def bytes_of_run(recipe: Recipe, vocabulary: int) -> int:
    """Bytes of a run's checkpoints (weights, fp32 masters and two moments: 16 a parameter, one more while it is
    written) and of its snapshots (fp32: best, last and each pair's best)."""
    parameters = parameters_of(recipe, vocabulary)
    pairs = len(recipe.data.pairs) if recipe.validation.keep_best_per_pair else 0
    each = parameters * (16 * (recipe.train.keep_checkpoints + 1) + 4 * (pairs + 2))
    return each * len(students_of(recipe))


def teachers_on_disk(recipe: Recipe, vocabulary: int) -> bool:
    """Whether teachers, one a pair, may outgrow a rank's memory for them and be read by asynchronous I/O; reckoned
    for one rank, since shards of several are smaller."""
    found = teacher_settings(recipe.method)
    size = 2 * parameters_of(recipe, vocabulary) * len(recipe.data.pairs)
    return any(each.read == "auto" and size > each.weights_gib * 2**30 for each in found)


def parameters_of(recipe: Recipe, vocabulary: int) -> int:
    """Parameters of the recipe's model."""
    import torch

    from mnmt_ds.models.transformer import Transformer, parameter_count

    with torch.device("meta"):
        return parameter_count(Transformer(recipe.model, vocabulary))


def address() -> str:
    """This node's address: the one by which ssh came in, or the first of ``hostname -I``."""
    came_in = os.environ.get("SSH_CONNECTION", "").split()
    if len(came_in) == 4 and not came_in[2].startswith(("127.", "::1")):
        return came_in[2]
    try:
        found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        found = []
    return found[0] if found else "127.0.0.1"


def show(found: Facts) -> str:
    """Facts as a line to print."""
    return MARK + json.dumps(found._asdict())


def read(output: str) -> Facts | None:
    """Facts from what a node printed; None where it printed none."""
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            values: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return Facts(**values)
    return None


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]

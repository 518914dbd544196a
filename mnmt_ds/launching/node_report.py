"""One node's report before a job: what must be equal on all nodes, what it has, what is wrong with it."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.config import dump
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.build import open_corpus
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.start_faults import all_faults_listed, load_for_start
from mnmt_ds.errors import UserError
from mnmt_ds.files import sha256
from mnmt_ds.methods.registry import teacher_settings
from mnmt_ds.package_versions import package_versions

MARK = "node report: "
"""Begins the line in which a node's report is printed, whatever else it prints."""
NATIVE_CODE_BYTES = 1 << 28
"""Bytes of disk that building native code may take."""


class NodeReport(NamedTuple):
    """Report of a node on itself: its software, devices, disk and memory."""

    must_match: dict[str, str]
    """What must be equal on every node: versions and hashes, by what they are of."""
    gpus: int
    """GPUs that torch sees."""
    address: str
    """Where the other nodes reach it."""
    shared: bool
    """Whether it sees the run's directory as the launching node does."""
    faults: list[str]
    """What is wrong with it, a line each."""


def report_node(recipe_path: Path, overrides: Sequence[str], token: str, rehash: bool = False) -> NodeReport:
    """Checks this node and builds native code on it.

    Args:
        recipe_path: path of the recipe.
        overrides: settings that replace the recipe's, ``a.b=c``.
        token: name of a file in the run's directory that the launching node made; empty: none.
        rehash: whether all prepared data is read again and its hashes compared.

    Returns:
        The report; a UserError is among its faults.
    """
    import torch

    must_match, faults, shared = versions(), [], True
    try:
        with all_faults_listed(recipe := load_for_start(recipe_path, overrides)):
            config = ds_config.read(recipe.deepspeed)
            corpus, _ = open_corpus(recipe)
        must_match["recipe"] = _digest(dump(recipe.model_copy(update={"deepspeed": Path("-")})), json.dumps(config))
        shared = not token or (recipe.directory / token).exists()
        must_match["data"], must_match["tokenizer"] = corpus.hash[:12], corpus.tokenizer.hash[:12]
        faults += altered_files(corpus) if rehash else []
        faults += full_disks(recipe, corpus.tokenizer.size)
        from mnmt_ds.launching.native_code import build_native_code

        optional = ["AsyncIOBuilder"] if may_read_teachers_from_disk(recipe, corpus.tokenizer.size) else []
        faults += build_native_code(recipe.train.loss_implementation, config, optional)
    except UserError as error:
        faults += error.faults
    return NodeReport(must_match, torch.cuda.device_count(), node_address(), shared, faults)


def versions() -> dict[str, str]:
    """Looks up the versions of the packages that matter, and hashes this package's source.

    Returns:
        Versions by package, and the hash under "mnmt_ds's source".
    """
    result = package_versions()
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cpp", ".cu", ".h"))
    result["mnmt_ds's source"] = _digest(*(f"{path.relative_to(root)}\n{path.read_text('utf-8')}" for path in files))
    return result


def altered_files(corpus: Corpus) -> list[str]:
    """Finds the files of a corpus whose bytes are not those of its manifest.

    Args:
        corpus: the prepared corpus; all its files are read.

    Returns:
        A line for each such file.
    """
    return [
        f"{corpus.directory / name}: was altered since it was prepared; copy it again"
        for name, recorded in corpus.manifest["files"].items()
        if sha256(corpus.directory / name) != recorded["sha256"]
    ]


def full_disks(recipe: Recipe, vocabulary: int) -> list[str]:
    """Finds the disks on which a run would not fit: its own, and the one on which native code is built.

    Args:
        recipe: the run's recipe.
        vocabulary: size of the vocabulary.

    Returns:
        A line for each disk with too little room.
    """
    from mnmt_ds.kernels.build import extensions_directory

    needed = {recipe.directory: run_bytes(recipe, vocabulary), extensions_directory(): NATIVE_CODE_BYTES}
    faults = []
    for directory, size in needed.items():
        existing = next(path for path in (directory.resolve(), *directory.resolve().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < size:
            faults.append(
                f"{directory}: {free / 2**30:.1f} GiB free, and {size / 2**30:.1f} GiB are needed; make room or move it"
            )
    return faults


def run_bytes(recipe: Recipe, vocabulary: int) -> int:
    """Estimates the disk that a run takes.

    Its checkpoints hold weights, fp32 masters and two moments (16 bytes a parameter), and there is one more while it is
    written; its snapshots are fp32: best, last and each pair's best.

    Args:
        recipe: the run's recipe.
        vocabulary: size of the vocabulary.

    Returns:
        Bytes, of all students together.
    """
    parameters = recipe_parameters(recipe, vocabulary)
    pairs = len(recipe.data.pairs) if recipe.validation.keep_best_per_pair else 0
    each = parameters * (16 * (recipe.train.keep_checkpoints + 1) + 4 * (pairs + 2))
    return each * len(students_of(recipe))


def may_read_teachers_from_disk(recipe: Recipe, vocabulary: int) -> bool:
    """Returns whether teachers may outgrow a rank's memory for them, and be read by asynchronous I/O.

    Computed for a job of one rank, since the shards of several are smaller.

    Args:
        recipe: the run's recipe.
        vocabulary: size of the vocabulary.

    Returns:
        Whether they may.
    """
    size = 2 * recipe_parameters(recipe, vocabulary) * len(recipe.data.pairs)
    return any(
        settings.read == "auto" and size > settings.weights_gib * 2**30 for settings in teacher_settings(recipe.method)
    )


def recipe_parameters(recipe: Recipe, vocabulary: int) -> int:
    """Counts the parameters of a recipe's model.

    Args:
        recipe: the recipe.
        vocabulary: size of the vocabulary.

    Returns:
        Their number, shared ones once.
    """
    import torch

    from mnmt_ds.models.transformer import Transformer, parameter_count

    with torch.device("meta"):
        return parameter_count(Transformer(recipe.model, vocabulary))


def node_address() -> str:
    """Finds this node's address: the one by which ssh came in, or the first of ``hostname -I``.

    Returns:
        The address, 127.0.0.1 where there is none.
    """
    ssh_connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(ssh_connection) == 4 and not ssh_connection[2].startswith(("127.", "::1")):
        return ssh_connection[2]
    try:
        addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        addresses = []
    return addresses[0] if addresses else "127.0.0.1"


def format_line(report: NodeReport) -> str:
    """Formats a report as a line to print.

    Args:
        report: the report.

    Returns:
        The line, which ``parse_output`` finds among others.
    """
    return MARK + json.dumps(report._asdict())


def parse_output(output: str) -> NodeReport | None:
    """Finds a report in what a node printed.

    Args:
        output: all its lines.

    Returns:
        The report; None where there is none.
    """
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            values: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return NodeReport(**values)
    return None


def _digest(*texts: str) -> str:
    """A short hash of several texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]

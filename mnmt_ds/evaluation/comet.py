"""COMET (Rei et al., doi:10.18653/v1/2020.emnlp-main.213) by its own package, in a Python environment of its own.

unbabel-comet asks for older numpy, transformers and protobuf than this package, so its command is run there on files.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.given_sets import MetricValue

INSTALL = "python -m venv comet && comet/bin/pip install unbabel-comet, then --comet-python comet/bin/python"
VERSION = (
    "import importlib.metadata as metadata, importlib.util as util;"
    " print(util.find_spec('comet') and metadata.version('unbabel-comet'))"
)


class CometModel(NamedTuple):
    """A COMET model, and the Python that runs it."""

    checkpoint: Path
    """Its .ckpt file."""
    name: str
    """Of its directory, for the signature."""
    python: Path
    """Interpreter of an environment with unbabel-comet."""
    version: str
    """Of unbabel-comet there."""


def open_comet(model: Path, python: Path | None) -> CometModel:
    """Finds a COMET model, and checks that the other environment can run it; nothing is loaded.

    Args:
        model: directory with ``hparams.yaml`` and ``checkpoints/``, as the hub has it, or a .ckpt file in one.
        python: interpreter of an environment with unbabel-comet; None: none was named.

    Returns:
        The model.

    Raises:
        UserError: where model or package is missing.
    """
    checkpoints = [model] if model.suffix == ".ckpt" else sorted(model.glob("checkpoints/*.ckpt"))
    if (
        len(checkpoints) != 1
        or not checkpoints[0].is_file()
        or not (checkpoints[0].parents[1] / "hparams.yaml").is_file()
    ):
        raise UserError(
            f"--comet {model}: no COMET model; give a directory with hparams.yaml and checkpoints/NAME.ckpt"
        )
    if python is None:
        raise UserError(f"--comet: COMET's package does not fit beside this one's; once: {INSTALL}")
    try:
        done = subprocess.run([python, "-c", VERSION], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--comet-python {python}: cannot be run ({error.strerror}); once: {INSTALL}") from None
    version = done.stdout.strip()
    if done.returncode or not version[:1].isdecimal():
        raise UserError(f"--comet-python {python}: has no unbabel-comet; once: {INSTALL}")
    return CometModel(checkpoints[0], checkpoints[0].absolute().parents[1].name, python, version)


def comet_score(
    comet: CometModel, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], gpus: int = 0
) -> MetricValue:
    """Scores translations.

    Args:
        comet: the model.
        sources: one line a sentence.
        hypotheses: translations.
        references: those of people.
        gpus: that it may take, 0 or 1.

    Returns:
        The mean over sentences, times 100.

    Raises:
        UserError: where COMET fails, with the last line that it says.
    """
    with tempfile.TemporaryDirectory() as temporary:
        files = {kind: Path(temporary, f"text.{kind}") for kind in ("src", "hyp", "ref")}
        for path, lines in zip(files.values(), (sources, hypotheses, references), strict=True):
            path.write_text("".join(f"{' '.join(line.split())}\n" for line in lines), encoding="utf-8")
        scored = Path(temporary, "scores.json")
        command = [
            comet.python, "-m", "comet.cli.score", "-s", files["src"], "-t", files["hyp"], "-r", files["ref"],
            "--model", comet.checkpoint, "--gpus", gpus, "--quiet", "--only_system", "--to_json", scored,
        ]  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
        if done.returncode or not scored.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise UserError(f"{comet.checkpoint}: COMET failed ({said}); try: {' '.join(map(str, command[:3]))} --help")
        [rows] = json.loads(scored.read_text(encoding="utf-8")).values()
    if len(rows) != len(hypotheses):
        raise UserError(f"{comet.checkpoint}: COMET scored {len(rows)} of {len(hypotheses)} sentences")
    mean = sum(row["COMET"] for row in rows) / len(rows)
    return MetricValue("COMET", 100 * mean, f"model:{comet.name}|scale:100|version:{comet.version}")

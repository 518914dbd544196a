"""Weights that a run does not train: written once, beside its models, which name them by their SHA-256.

A snapshot, a checkpoint and a teacher then hold what is trained alone. Together with a model this file is whole: its
models can be translated with, exported and started from as others can, and a resumed run reads them from here.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import first_altered
from mnmt_ds.files import sha256
from mnmt_ds.models.frozen import is_frozen
from mnmt_ds.models.pretrained import WeightSource, expected_shapes
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.weight_files import FROZEN, WeightFiles
from mnmt_ds.models.weights import write_safetensors


def write(run: Path, weights: Mapping[str, Tensor]) -> str:
    """Writes the weights; called on the main rank.

    Args:
        run: the student's directory.
        weights: on the CPU, by name.

    Returns:
        The file's SHA-256.
    """
    path = run / FROZEN
    temporary = path.with_suffix(".tmp")
    write_safetensors(dict(weights), temporary)
    temporary.replace(path)
    return sha256(path)


def open_frozen(run: Path, digest: str, settings: ModelSettings, vocabulary_size: int) -> WeightSource:
    """Opens the weights of a run that goes on.

    Args:
        run: the student's directory.
        digest: their SHA-256, as the checkpoint has it.
        settings: the model's.
        vocabulary_size: V.

    Returns:
        The source; it lacks weights that are trained.

    Raises:
        UserError: where the file is missing, altered or another run's.
    """
    path = run / FROZEN
    try:
        is_altered = first_altered({path: digest}, run.resolve()) is not None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore the file") from None
    if is_altered:
        raise UserError(f"{path}: was altered (its SHA-256 is not the checkpoint's); restore the file")
    names = [name for name in expected_shapes(settings, vocabulary_size) if is_frozen(settings, name)]
    files = WeightFiles(run, [path])
    return WeightSource(run, settings, vocabulary_size, files, {name: (name,) for name in names})

"""A trained model with the tokenizer that it was trained with."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from mnmt_ds.data.framing import Frame, FramingSettings, frame_of, split_pair
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.errors import UserError
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.weights import describe_model, load_model

CHECKPOINTS = ("best", "last_model", "last")
"""What a run's directory is taken for where no checkpoint is named; the first that is there."""


class Translator(NamedTuple):
    """All that turns text of one language into text of another."""

    directory: Path
    model: Transformer
    description: dict[str, Any]
    """``model.json``."""
    tokenizer: Tokenizer

    def frame(self, pair: str) -> Frame:
        """Tags and end symbols of a pair; UserError where a language has no tag."""
        source, target = split_pair(pair)
        if not source or not target:
            raise UserError(f"pair '{pair}': not of the form source-target, such as bs-en")
        framing = FramingSettings(**self.description["framing"])
        return frame_of(framing, self.tokenizer.tag(source), self.tokenizer.tag(target))


def model_directory(path: Path) -> Path:
    """The model directory itself, or a run's best."""
    if (path / "model.json").exists():
        return path
    for name in CHECKPOINTS:
        if (path / name / "model.json").exists():
            return path / name
    raise UserError(f"{path}: holds no model; give a run, or its best, best_<pair> or last directory")


def open_translator(
    path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, data: Path | None = None
) -> Translator:
    """Loads a model directory (or a run's best) and its tokenizer: its run's, or that of a prepared corpus ``data``."""
    directory = model_directory(path)
    tokenizer = find_tokenizer(directory, describe_model(directory)["tokenizer_hash"], data)
    model, description = load_model(directory, device)
    return Translator(directory, model.to(dtype), description, tokenizer)


def find_tokenizer(directory: Path, wanted: str, data: Path | None = None) -> Tokenizer:
    """The model's tokenizer: beside it, in its run, or in the data that the run names; never another one."""
    run = directory.absolute().parent
    places = [directory / "tokenizer", run / "tokenizer", run.parent / "tokenizer"]
    homes = [data, data_directory(run), data_directory(run.parent)]
    places += [home / "tokenizer" for home in homes if home is not None]
    other = None
    for place in places:
        if (place / "tokenizer.json").exists():
            tokenizer = Tokenizer.open(place)
            if tokenizer.hash == wanted:
                return tokenizer
            other = other or place
    if other is not None:
        raise UserError(f"{other}: not the tokenizer of {directory} (hash {wanted[:12]}); restore the run's tokenizer")
    raise UserError(f"{directory}: its tokenizer is neither beside it nor in its run; copy the run's tokenizer there")


def recipe_of(run: Path) -> dict[str, Any]:
    """A run's resolved recipe as plain values; empty where it has none."""
    try:
        values = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def data_directory(run: Path) -> Path | None:
    """Where the run's prepared corpus is: as its recipe says, seen from here or from a directory above the run."""
    named = (recipe_of(run).get("data") or {}).get("directory")
    if named is None:
        return None
    for base in (Path(), *run.absolute().parents):
        found = base / str(named)
        if (found / "manifest.json").exists():
            return found
    return None

"""A trained model with the tokenizer that it was trained with."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mnmt_ds.data.framing import Frame, FramingSettings, frame_of
from mnmt_ds.data.language_codes import fits
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.tokenizer import EXPORTED, Tokenizer
from mnmt_ds.errors import UserError
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.weights import describe_model, load_model, weights_identity
from mnmt_ds.run_files import data_directory

LOG = logging.getLogger(__name__)
MODEL_NAMES = ("best", "last_model", "last")
"""Subdirectories of a run that are tried, in order, when no model is named."""


class Translator(NamedTuple):
    """A trained model with everything that turns text of one language into text of another."""

    directory: Path
    model: Transformer
    description: dict[str, Any]
    """``model.json``."""
    tokenizer: Tokenizer
    ensemble: "tuple[Translator, ...]" = ()
    """Others of the same tokenizer and framing; the mean of all models' probabilities decides."""

    @property
    def models(self) -> tuple[Transformer, ...]:
        """All models, this one first."""
        return (self.model, *(other.model for other in self.ensemble))

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directories of all models."""
        return (self.directory, *(other.directory for other in self.ensemble))

    @property
    def weights_hash(self) -> str | None:
        """SHA-256 of the weights, of an ensemble those of all models joined by +; None where a description has none."""
        hashes = [each.description.get("sha256") for each in (self, *self.ensemble)]
        return None if None in hashes else "+".join(map(str, hashes))

    @property
    def max_positions(self) -> int:
        """Positions that each of the models has."""
        return min(model.settings.max_positions for model in self.models)

    def frame(self, pair: str) -> Frame:
        """Looks up the tags and end symbols that stand around a sentence.

        Args:
            pair: source and target language, such as ``bs-en``.

        Returns:
            The pair's frame, as the model was trained with.

        Raises:
            UserError: where a language has no tag in the tokenizer.
        """
        source, target = split_pair(pair)
        if not source or not target:
            raise UserError(f"pair '{pair}': not of the form source-target, such as bs-en")
        try:
            framing = FramingSettings(**self.description["framing"])
        except (ValueError, TypeError):
            raise UserError(f"{self.directory}/model.json: framing: no such one; take another checkpoint") from None
        return frame_of(framing, self.tokenizer.tag(source), self.tokenizer.tag(target))


def model_directory(path: Path, pair: str = "") -> Path:
    """Finds the model that a path means.

    Args:
        path: a model directory, or a run.
        pair: what the model is wanted for; it decides between several students, and between models of single pairs.

    Returns:
        The directory itself, or the run's best (failing that, its last) model. Of a run with several students: the best
        model of the one whose dev loss on the pair is lowest (on the mean over pairs where no pair is given or known),
        which is logged. Of a run of single pairs' models: that of the pair.

    Raises:
        UserError: where there is no model.
    """
    if (path / "model.json").exists():
        return path
    for name in (*MODEL_NAMES, f"best_{pair}"):
        if (path / name / "model.json").exists():
            return path / name
    students = sorted(model_file.parent.parent for model_file in path.glob("students/*/best/model.json"))
    if students:
        losses = {student: _dev_loss(student / "best", pair) for student in students}
        best = min(students, key=losses.__getitem__)
        others = ", ".join(f"{student.name} {losses[student]:.4f}" for student in students)
        LOG.info("%s: student %s, whose dev loss%s is the lowest (%s); name another one as %s", path, best.name,
                 f" on {pair}" if pair else "", others, path / "students" / "NAME")  # fmt: skip
        return best / "best"
    raise UserError(f"{path}: holds no model; give a run, or its best, best_<pair> or last directory")


def _dev_loss(model: Path, pair: str) -> float:
    """A best model's dev loss on a pair, or its mean over pairs where it has none of that pair."""
    losses = describe_model(model).get("dev") or {}
    return float(losses.get(pair, sum(losses.values()) / len(losses) if losses else "inf"))


def warn_untrained_pair(translator: Translator, pair: str) -> None:
    """Warns where a model was never trained on a pair although it knows the languages; once, before any work.

    Args:
        translator: the model.
        pair: source and target language.
    """
    trained = translator.description.get("pairs") or [pair]
    sides = split_pair(pair)
    if not any(all(map(fits, sides, split_pair(name))) for name in trained):
        LOG.warning("%s: not trained on %s (its pairs: %s); going on, but expect little of it", translator.directory,
                    pair, ", ".join(trained))  # fmt: skip


def open_translator(
    path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, data: Path | None = None, pair: str = ""
) -> Translator:
    """Loads a model and the tokenizer that it was trained with.

    Args:
        path: a model directory, or a run.
        device: torch device of the model.
        dtype: type of its weights.
        data: prepared corpus whose tokenizer is tried first; None: the model's directory and its run are searched.
        pair: what it is wanted for, where a run has several models (``model_directory``).

    Returns:
        The model in eval mode, with tokenizer and description.

    Raises:
        UserError: where the model or its tokenizer is missing or another one.
    """
    directory = model_directory(path, pair)
    tokenizer = find_tokenizer(directory, describe_model(directory)["tokenizer_hash"], data)
    model, description = load_model(directory, device)
    return Translator(directory, model.to(dtype), description, tokenizer)


def join_ensemble(first: Translator, others: Sequence[Translator]) -> Translator:
    """Makes several models one ensemble.

    Args:
        first: the model whose directory stands for all.
        others: the other models; one with the weights of a model before it is left out, with a warning.

    Returns:
        The ensemble; ``first`` itself where there are no others.

    Raises:
        UserError: where tokenizer or framing differ, or all others have the first one's weights.
    """
    members, repeated = [first], list[str]()
    for other in others:
        if other.description["tokenizer_hash"] != first.description["tokenizer_hash"]:
            raise UserError(f"{other.directory}: another tokenizer than {first.directory}; an ensemble has one")
        if other.description["framing"] != first.description["framing"]:
            raise UserError(f"{other.directory}: another framing than {first.directory}; an ensemble has one")
        same = next((member for member in members if _same_weights(member, other)), None)
        if same is None:
            members.append(other)
        else:
            repeated.append(f"{other.directory} has the weights of {same.directory}")
    if repeated and len(members) == 1:
        raise UserError(f"ensemble: {'; '.join(repeated)} ({_update(first)}); name models with other weights")
    for line in repeated:
        LOG.warning("ensemble: %s, and is left out", line)
    return first._replace(ensemble=tuple(members[1:]))


def _same_weights(first: Translator, second: Translator) -> bool:
    """Whether two models are one: by their hashes, or where there are none by their places."""
    hashes = [weights_identity(each.description) for each in (first, second)]
    return hashes[0] == hashes[1] if None not in hashes else first.directory.resolve() == second.directory.resolve()


def _update(model: Translator) -> str:
    return f"update {model.description.get('update', 'unknown')}"


def student_models(path: Path) -> list[Path]:
    """Lists the models that a path means in an ensemble.

    Args:
        path: a model directory, or a run.

    Returns:
        Of a run with several students the best model of each, in order of their names; else the path itself.
    """
    students = [] if (path / "model.json").exists() else sorted(path.glob("students/*/best/model.json"))
    return [model_file.parent for model_file in students] or [path]


def find_tokenizer(directory: Path, expected_hash: str, data: Path | None = None) -> Tokenizer:
    """Finds a model's tokenizer: beside the model, in its run, or in the corpus that the run names.

    Args:
        directory: the model's directory.
        expected_hash: hash of the tokenizer, from model.json.
        data: a prepared corpus to try, too.

    Returns:
        The tokenizer with that hash.

    Raises:
        UserError: where there is none, or only another one.
    """
    run = directory.absolute().parent
    candidates = [directory / "tokenizer", directory / EXPORTED, run / "tokenizer", run.parent / "tokenizer"]
    corpora = [data, data_directory(run), data_directory(run.parent)]
    candidates += [corpus / "tokenizer" for corpus in corpora if corpus is not None]
    other = None
    for candidate in candidates:
        if (candidate / "tokenizer.json").exists():
            tokenizer = Tokenizer.open(candidate)
            if tokenizer.hash == expected_hash:
                return tokenizer
            other = other or candidate
    if other is not None:
        raise UserError(
            f"{other}: not the tokenizer of {directory} (hash {expected_hash[:12]}); restore the run's tokenizer"
        )
    raise UserError(f"{directory}: its tokenizer is neither beside it nor in its run; copy the run's tokenizer there")

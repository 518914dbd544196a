"""Weights kept at validations: one model directory an update, shared by all that refer to it.

``snapshots/<update>`` holds the weights; ``best`` and ``best_<pair>`` are links to them, and LSSD's teachers, which
ARE the pairs' best checkpoints, are named by the same updates. A snapshot goes when nothing refers to it any more.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.files import remove, replace_link
from mnmt_ds.models.averaging import average_models
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.weights import describe_model, read_weights, save_model

LOG = logging.getLogger(__name__)
SHAPE = (
    "d_model", "ffn", "heads", "encoder_layers", "decoder_layers", "share_embeddings", "scale_embedding",
    "max_positions",
)  # fmt: skip
"""What a teacher's shape must share with its student's."""


def write(run: Path, update: int, weights: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes weights under their update's number; called on the main rank.

    Args:
        run: the student's directory.
        update: whose weights they are.
        weights: on the CPU, by name.
        description: what ``model.json`` says of them.
    """
    save_model(directory_of(run, update), weights, description)


def directory_of(run: Path, update: int) -> Path:
    """Names the model directory of an update.

    Args:
        run: the student's directory.
        update: whose weights it holds.

    Returns:
        Its path.
    """
    return run / "snapshots" / str(update)


def check_expert(directory: Path, shape: ModelSettings, tokenizer_hash: str) -> bool:
    """Checks that another run's model can be a teacher.

    Args:
        directory: a model directory.
        shape: the student's.
        tokenizer_hash: the student's.

    Returns:
        Whether its file holds all weights as they are, with neither adapters nor frozen weights elsewhere.

    Raises:
        UserError: where its tokenizer or shape is not the student's.
    """
    description = describe_model(directory)
    if description.get("tokenizer_hash") != tokenizer_hash:
        raise UserError(
            f"{directory}: its tokenizer ({str(description.get('tokenizer_hash'))[:12]}) is not this run's"
            f" ({tokenizer_hash[:12]}); train the expert on the same prepared data"
        )
    expert = ModelSettings(**description["model"])
    if odd := [name for name in SHAPE if getattr(expert, name) != getattr(shape, name)]:
        raise UserError(f"{directory}: its {', '.join(odd)} differ from the student's; train an expert of that shape")
    return expert.lora is None and "frozen" not in description


def average(run: Path, updates: Mapping[str, Sequence[int]], replace: bool = True) -> None:
    """Writes means of snapshots' weights as model directories of the run; called on the main rank.

    A snapshot that somebody removed or damaged is named and left out: it ends no run that is trained to its end.

    Args:
        run: the student's directory.
        updates: of the snapshots whose mean each directory gets, by its name.
        replace: also directories that are there already.
    """
    alone = []
    for name, chosen in updates.items():
        if not replace and (run / name).exists():
            continue
        present = []
        for directory in (directory_of(run, update) for update in chosen):
            try:
                read_weights(directory, names=())  # verifies
                present.append(directory)
            except (UserError, OSError) as error:
                LOG.warning("%s: left out of %s (%s)", directory, name, error)
        if len(present) > 1:
            save_model(run / name, *average_models(present))
        else:
            alone.append(name)
    if alone:
        LOG.warning("%s: %s not written, for fewer than two checkpoints of each were kept", run, ", ".join(alone))


def link(run: Path, updates: Mapping[str, int]) -> None:
    """Points links ``run/NAME`` at snapshots, each in one atomic step.

    Args:
        run: the student's directory.
        updates: of the snapshots, by the links' names, such as "best".
    """
    for name, update in updates.items():
        replace_link(run / name, Path("snapshots") / str(update))


def restore_links(run: Path, updates: Mapping[str, int]) -> None:
    """Points links at their snapshots again, where these are still there.

    Args:
        run: the student's directory.
        updates: of the snapshots, by the links' names.
    """
    link(run, {name: update for name, update in updates.items() if directory_of(run, update).is_dir()})


def linked(run: Path) -> set[str]:
    """Lists the snapshots that the run's links point to: best models and the last one.

    Args:
        run: the student's directory.

    Returns:
        Names of directories in ``snapshots/``.
    """
    targets = [Path(os.readlink(path)) for path in run.iterdir() if path.is_symlink()] if run.is_dir() else []
    return {target.name for target in targets if target.parent.name == "snapshots"}


def remove_others(run: Path, used_updates: Iterable[int]) -> None:
    """Removes the snapshots that nothing refers to, neither the training nor a link.

    Args:
        run: the student's directory.
        used_updates: updates whose snapshots stay.
    """
    keep = {str(update) for update in used_updates} | linked(run)
    for directory in (run / "snapshots").glob("*"):
        if directory.name not in keep:
            remove(directory)

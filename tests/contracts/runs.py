"""Trains the registries' examples on one layout after another, many in one start of a process group."""

import importlib
import shutil
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.contracts.entries import Entry, sections_of

UPDATES = 12
"""Of every run; an epoch of the tiny corpus is less."""
STOPPED_AT = 4
"""The update of the checkpoint from which a stopped run goes on."""


class Layout(NamedTuple):
    """How a contract's run is spread over ranks."""

    name: str
    ranks: int = 1
    zero: int = 1
    sections: Mapping[str, Any] | None = None
    """Recipe sections that ask for it; None: none are needed."""


ALONE = Layout("alone")
"""The reference: one rank, which accumulates an update's four micro-batches."""
EVERYDAY = (Layout("two_ranks", 2),)
"""Layouts of the everyday suite: two ranks accumulate two micro-batches each."""
SPARSE_UPDATES = 3
SPARSE = Layout(
    "sparse", 2, 1, {"train": {"batches_per_update": 64, "max_steps": SPARSE_UPDATES}, "validation": {"every": 1}}
)
"""An epoch of fewer micro-batches than an update holds: most of them are empty."""
FURTHER = (
    Layout("zero0", 2, 0),
    Layout("zero2", 2, 2),
    Layout("zero3", 2, 3),
    Layout("four_ranks", 4),
    Layout("stages", 2, 1, {"pipeline": {"stages": 2, "balance": "parameters"}}),
    Layout("vocabulary", 2, 1, {"tensor": {"vocabulary": 2}}),
    Layout("stages_and_vocabulary", 4, 1, {"pipeline": {"stages": 2}, "tensor": {"vocabulary": 2}}),
    Layout("split", 2, 1, {"placement": "split"}),
)
"""Layouts of the slow suite."""

Record = dict[str, Any]


class Outcome(NamedTuple):
    """What a run of an entry left behind, as its first rank saw it."""

    records: list[Record]
    """Lines of metrics.jsonl."""
    refused: str = ""
    """The UserError that refused it."""
    failed: str = ""
    """The traceback of any other error."""
    empty: int = 0
    """Micro-batches without a sentence in the first epoch, over all ranks; counted on ``SPARSE``."""


def train_entries(
    corpus: str, folder: str, entries: Sequence[Entry], layout: Layout, modules: Sequence[str] = ()
) -> list[Outcome]:
    """Trains each entry's example on these ranks.

    Args:
        corpus: directory of the prepared corpus.
        folder: where the runs go: ``folder/LAYOUT/ENTRY``; the plain run is ``folder/plain``.
        entries: what is trained.
        layout: of these ranks.
        modules: imported first; each registers an entry.

    Returns:
        An outcome an entry.
    """
    for module in modules:  # before the recipe's types are made of the registries
        importlib.import_module(module)
    from mnmt_ds.engine.loop import train

    if not Path(folder, "plain").exists():
        train(make_recipe(corpus, f"{folder}/plain", {}, ALONE))
    return [_outcome(corpus, folder, entry, layout) for entry in entries]


def resume_entries(corpus: str, folder: str, entries: Sequence[Entry], layout: Layout) -> list[str]:
    """Goes on with each finished run's copy from an early checkpoint, as after a crash.

    Args:
        corpus: directory of the prepared corpus.
        folder: where ``train_entries`` put the runs.
        entries: what was trained.
        layout: of these ranks, and of the runs.

    Returns:
        Of each entry the traceback of an error; empty where there was none.
    """
    failures = []
    for entry in entries:
        try:
            _resume(corpus, folder, entry, layout)
            failures.append("")
        except Exception:
            failures.append(traceback.format_exc())
    return failures


def directory_of(folder: str | Path, entry: Entry, layout: Layout, resumed: bool = False) -> Path:
    """Where an entry's run is.

    Args:
        folder: of all runs.
        entry: what is trained.
        layout: where it is trained.
        resumed: the copy that went on from an early checkpoint.

    Returns:
        The run's directory.
    """
    return Path(folder) / (f"{layout.name}_resumed" if resumed else layout.name) / str(entry)


def make_recipe(corpus: str, directory: str, sections: dict[str, Any], layout: Layout) -> Any:
    """Makes the recipe of a minute run.

    Args:
        corpus: directory of the prepared corpus.
        directory: of the run.
        sections: the example's.
        layout: how it is spread over ranks.

    Returns:
        A ``Recipe``.
    """
    from tests.tiny import recipe, zero

    base: dict[str, Any] = {
        "model": {"dropout": 0.1, "encoder_layers": 1, "decoder_layers": 1},
        "validation": {"every": 4},
        "train": {
            "max_steps": UPDATES, "lr": 4e-2, "warmup_steps": 2, "save_every": STOPPED_AT, "keep_checkpoints": 20,
        },
    }  # fmt: skip
    for part in (sections, layout.sections or {}):
        for name, values in part.items():
            merged = isinstance(values, Mapping) and isinstance(base.get(name), dict)
            base[name] = {**base[name], **values} if merged else values
    return recipe(Path(corpus), Path(directory), deepspeed=zero(layout.zero, directory), **base)


def _outcome(corpus: str, folder: str, entry: Entry, layout: Layout) -> Outcome:
    from mnmt_ds.engine.loop import train
    from mnmt_ds.errors import UserError
    from mnmt_ds.tracking import read_records

    directory = directory_of(folder, entry, layout)
    try:
        made = make_recipe(corpus, str(directory), sections_of(entry, f"{folder}/plain"), layout)
        run = train(made)
        return Outcome(read_records(run / "metrics.jsonl"), empty=_empty_micro_batches(made) if layout == SPARSE else 0)
    except UserError as error:
        return Outcome([], refused=str(error))
    except Exception:
        return Outcome([], failed=traceback.format_exc())


def _empty_micro_batches(made: Any) -> int:
    """Slots of the first epoch's last update that hold nothing."""
    from mnmt_ds.engine.build import open_corpus, open_training_data
    from mnmt_ds.engine.parallel.run_layout import plan_parallel_layout

    data = open_training_data(made, open_corpus(made)[0], plan_parallel_layout(made), resume=True)
    plan = data[0].plan(0)
    return int(plan.updates * plan.batches_per_update - len(plan.pair))


def _resume(corpus: str, folder: str, entry: Entry, layout: Layout) -> None:
    from mnmt_ds.distributed import on_main_first
    from mnmt_ds.engine.loop import train

    whole, copied = (directory_of(folder, entry, layout, resumed) for resumed in (False, True))
    on_main_first(_copy_until, whole, copied)
    made = make_recipe(corpus, str(copied), sections_of(entry, f"{folder}/plain"), layout)
    train(made, resume=True)


def _copy_until(whole: Path, copied: Path) -> None:
    """Copies a run without its checkpoints after ``STOPPED_AT``."""
    from mnmt_ds.engine.checkpointing import checkpoint

    shutil.copytree(whole, copied, symlinks=True)
    for path in checkpoint.complete(copied):
        if checkpoint.read_state(path)["update"] > STOPPED_AT:
            shutil.rmtree(path)
    assert checkpoint.read_state(checkpoint.complete(copied)[0])["update"] == STOPPED_AT

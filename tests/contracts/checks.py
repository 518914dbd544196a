"""What every entry is held to; each check raises AssertionError with the values that differ."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mnmt_ds import metric_keys
from tests.contracts.runs import UPDATES, Outcome, Record

TOLERANCE = 1e-5
"""Relative and absolute, in fp32: sums over ranks are taken in another order."""
KINDS = ("train", "valid", "sampler")
"""Records that do not tell of the machine."""


def same_on_layouts(reference: Outcome, other: Outcome) -> None:
    """Holds two layouts' runs to the same losses, gradient norms, dev losses, weights of losses and shares of pairs.

    Args:
        reference: the run on one rank.
        other: the run on another layout.

    Raises:
        AssertionError: where one failed, or a value differs by more than rounding.
    """
    assert not reference.failed, reference.failed
    assert not other.failed, other.failed
    ours, theirs = comparable(other.records), comparable(reference.records)
    assert [moment(record) for record in ours] == [moment(record) for record in theirs]
    compared = 0
    for mine, wanted in zip(ours, theirs, strict=True):
        odd = set(mine) ^ set(wanted)
        assert not odd, f"{moment(wanted)}: only one of the layouts has {sorted(odd)}"
        for key in mine.keys() & wanted.keys():
            a, b = mine[key], wanted[key]
            near = math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) if isinstance(b, float) else a == b
            assert near, f"{moment(wanted)}: {key} is {a}, on one rank {b}"
            compared += isinstance(b, float)
    assert compared > UPDATES, f"only {compared} values were compared"


def complete(outcome: Outcome, updates: int = UPDATES) -> None:
    """Holds a run to all its updates and finite values.

    Args:
        outcome: of a run.
        updates: that it should have taken.

    Raises:
        AssertionError: where updates are missing or a value is NaN or infinite.
    """
    assert not outcome.failed, outcome.failed
    assert not outcome.refused, outcome.refused
    taken = {record["update"] for record in outcome.records if record["kind"] == "train"}
    assert taken == set(range(1, updates + 1))
    for record in outcome.records:
        for key, value in record.items():
            assert not isinstance(value, float) or math.isfinite(value), f"{moment(record)}: {key} is {value}"


def at_work(outcome: Outcome, plain: Sequence[Record]) -> None:
    """Holds a run to other losses than those of the plain run: else the other checks would mean nothing.

    Args:
        outcome: the entry's run on one rank.
        plain: lines of the plain run's metrics.jsonl.

    Raises:
        AssertionError: where all training losses are the same.
    """
    losses, plain_losses = (
        [[value for key, value in record.items() if key.endswith(metric_keys.TRAIN_LOSS)] for record in records]
        for records in (outcome.records, plain)
    )
    assert losses != plain_losses, "the example trains as plain translation does; choose settings under which it acts"


def same_after_resume(whole: Path, resumed: Path) -> None:
    """Holds a run that went on from a checkpoint to the bits of the one that never stopped.

    Args:
        whole: directory of the run that never stopped.
        resumed: directory of the other.

    Raises:
        AssertionError: where a record, the last checkpoint's state or a weight differs.
    """
    from mnmt_ds.engine.checkpointing import checkpoint
    from mnmt_ds.tracking import read_records

    logs = sorted(path.relative_to(whole) for path in whole.rglob("metrics.jsonl"))
    assert logs, whole
    for log in logs:
        ours, theirs = (comparable(read_records(run / log)) for run in (resumed, whole))
        for mine, wanted in zip(ours, theirs, strict=True):
            assert mine == wanted, (log, moment(wanted))
    left, right = (checkpoint.read_state(checkpoint.complete(run)[0]) for run in (resumed, whole))
    left.pop("seconds", None), right.pop("seconds", None)
    assert left == right
    models = sorted(path.relative_to(whole) for path in whole.rglob("last/model.safetensors"))
    assert models, whole
    for model in models:
        mine, wanted = load_file(resumed / model), load_file(whole / model)
        assert mine.keys() == wanted.keys()
        changed = [name for name, value in wanted.items() if not torch.equal(mine[name], value)]
        assert not changed, (model, changed)


def comparable(records: Sequence[Record]) -> list[Record]:
    """Leaves out of a log what depends on the machine: clocks, memory, speed.

    Args:
        records: lines of metrics.jsonl.

    Returns:
        The records of training, validations and samplers without such keys.
    """
    return [
        {key: value for key, value in record.items() if key != "time" and not of_the_machine(key)}
        for record in records
        if record["kind"] in KINDS
    ]


def of_the_machine(key: str) -> bool:
    """Tells the metric keys that depend on the machine.

    Args:
        key: of a record.

    Returns:
        Whether it is a time, a size or a speed.
    """
    return bool(re.search(r"(^|/)(runtime|memory)/", key)) or key.endswith(
        (metric_keys.SEARCH_SHARE, metric_keys.TRIALS_ON_TOP)
    )


def moment(record: Record) -> tuple[Any, ...]:
    """Names a record.

    Args:
        record: of metrics.jsonl.

    Returns:
        Its kind and update.
    """
    return record["kind"], record["update"]

"""Settings that runs changed on the way: those that differed when a run went on from a checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mnmt_ds.config import format_value


class SettingChange(NamedTuple):
    """A setting that has another value from an update on."""

    update: int
    """Updates that were done."""
    setting: str
    """Dotted, as in a recipe."""
    before: Any
    now: Any


def read_changes(records: Iterable[Mapping[str, Any]]) -> tuple[SettingChange, ...]:
    """Reads from a run's log which settings it changed.

    Args:
        records: of the run.

    Returns:
        The changes, in the order of the updates.
    """
    return tuple(
        SettingChange(record["update"], str(setting), *values)
        for record in records
        if record.get("kind") == "run" and isinstance(record.get("changed"), Mapping)
        for setting, values in record["changed"].items()
        if isinstance(record.get("update"), int) and isinstance(values, list) and len(values) == 2
    )


def change_cells(labels: Sequence[str], changes: Sequence[Sequence[SettingChange]]) -> list[tuple[str, ...]]:
    """Makes the rows of a table of changes.

    Args:
        labels: of the runs.
        changes: of each run.

    Returns:
        Run, updates done, setting, value before, value from then on; a row a change.
    """
    return [
        (label, f"{change.update:,}", change.setting, format_value(change.before), format_value(change.now))
        for label, run_changes in zip(labels, changes, strict=True)
        for change in run_changes
    ]

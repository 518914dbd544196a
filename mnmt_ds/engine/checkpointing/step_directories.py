"""The ``step_N`` in a run's ``checkpoints/``, and what else may stand there: strays, remains of killed saves."""

import contextlib
import os
import re
from pathlib import Path

from mnmt_ds.files import remove, remove_temporary_files

_STEP = re.compile(r"step_(0|[1-9][0-9]*)")
_REMAINS = re.compile(_STEP.pattern + r"\.(tmp|old[0-9]*|universal)")


def step_number(path: Path) -> int:
    """Parses the update from the name of a ``step_N`` directory.

    Args:
        path: of ``step_directories``.

    Returns:
        Its number.
    """
    return int(path.name.removeprefix("step_"))


def step_directories(run: Path) -> list[Path]:
    """Lists the directories under ``checkpoints/`` that are named ``step_N``, whatever is in them.

    Args:
        run: the run's directory.

    Returns:
        Paths, the highest number first; a link to a directory counts as one.
    """
    paths = [path for path in (run / "checkpoints").glob("step_*") if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(paths, key=step_number, reverse=True)


def strays(run: Path) -> list[str]:
    """Lists what under ``checkpoints/`` can be no checkpoint: files, broken links, other names than ``step_N``.

    Args:
        run: the run's directory.

    Returns:
        Of each its path and why, in a phrase.
    """
    reasons = []
    for path in sorted((run / "checkpoints").glob("step_*")):
        if _REMAINS.fullmatch(path.name):
            continue
        if not _STEP.fullmatch(path.name):
            reasons.append(f"{path} is not named as a checkpoint (step_NUMBER)")
        elif not path.is_dir():
            reasons.append(f"{path} is not a directory")
    return reasons


def clear_remains(run: Path) -> None:
    """Cleans up after a killed save: a checkpoint that was only moved aside is put back, the rest is removed.

    Args:
        run: the run's directory, in which no other process writes.
    """
    for directory in (run, run / "checkpoints", *run.glob("students/*")):
        remove_temporary_files(directory)
    for path in (run / "checkpoints").glob("step_*.*"):
        if not _REMAINS.fullmatch(path.name):
            continue
        final = path.with_name(path.stem)
        if path.suffix == ".old" and not os.path.lexists(final):
            path.rename(final)
            continue
        with contextlib.suppress(OSError):  # such as another user's: it is in nobody's way
            remove(path)

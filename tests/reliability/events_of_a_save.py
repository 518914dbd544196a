"""Every file event of a save goes wrong once: run by the everyday test, in a process that has preloaded the library.

``python -m tests.reliability.events_of_a_save DIRECTORY`` prints how many cases there were, by mode, as JSON.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from mnmt_ds.checkpoint_writer import WrittenFiles
from mnmt_ds.distributed import ALONE
from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.engine.checkpointing.retention import CheckpointRetention
from mnmt_ds.errors import UserError
from tests.reliability.file_events import MODES, going_wrong, struck


class StandIn:
    """An engine whose training state is some text."""

    def save_checkpoint(self, directory: Path, tag: str) -> WrittenFiles:
        try:
            (directory / tag).mkdir()
            for name in ("a.pt", "b.pt"):
                (directory / tag / name).write_text(directory.name * 5000)
        except OSError as error:
            return WrittenFiles({}, error)
        return WrittenFiles({}, None)


def save(run: Path, update: int) -> None:
    engines: Any = {"student": StandIn()}
    path = checkpoint.save(run, engines, {"update": update, "validated": 0}, 10**6, lambda: ALONE)
    CheckpointRetention(run, 2, lambda line: None).remove_old(path)
    checkpoint.replace_state(run, {"update": update, "validated": update}, ALONE)


def main(home: Path) -> None:
    before, run = home / "before", home / "run"
    for update in (1, 2, 3):
        save(before, update)
    counts = {}
    for mode in MODES:
        number = 0
        while True:
            number += 1
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(before, run, symlinks=True)
            said = ""
            with going_wrong(run, number, mode):
                try:
                    save(run, 4)
                except (UserError, OSError) as error:
                    said = str(error)
                came = struck()
            if not came:
                break
            check(run, mode, number, said)
        counts[mode] = number - 1
    print(json.dumps(counts))


def check(run: Path, mode: str, number: int, said: str) -> None:
    """The newest good checkpoint is the old one or the new one; errors are one line; the next save is as any other."""
    newest = checkpoint.newest(run, lambda line: None, ALONE)
    assert newest is not None and newest[1]["update"] in (3, 4), (mode, number)
    assert newest[1]["validated"] in ((3,) if newest[1]["update"] == 3 else (0, 4)), (mode, number)
    if mode != "killed":
        assert not said or (said.startswith(f"{run}/") and "\n" not in said), (mode, number, said)
        assert said or newest[1] == {"update": 4, "validated": 4}, (mode, number)
    save(run, 4)
    newest = checkpoint.newest(run, lambda line: None, ALONE)
    assert newest is not None and newest[1] == {"update": 4, "validated": 4}, (mode, number)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"step_3", "step_4", "last"} <= names <= {"step_2", "step_3", "step_4", "last"}, (mode, number, names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

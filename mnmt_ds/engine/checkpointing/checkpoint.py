"""Checkpoints that a crash cannot spoil: built aside, hashed, synced, then renamed; verified before they are loaded.

``checkpoints/step_N`` holds DeepSpeed's files of every student, ``state.json`` (position, bests, teachers) and
``manifest.json`` with each file's SHA-256; ``checkpoints/last`` links to the newest.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.distributed import barrier, on_main_first, vocab_parallel_size, world_size
from mnmt_ds.engine.students.student import Student
from mnmt_ds.errors import UserError
from mnmt_ds.files import publish_directory

State = dict[str, Any]
Everyone = Callable[[], contextlib.AbstractContextManager[None]]

FAMILY = {0: "whole", 1: "sharded optimizer", 2: "sharded optimizer", 3: "sharded parameters"}
"""ZeRO stages between which DeepSpeed's universal checkpoints can be moved."""


class JobLayout(NamedTuple):
    """How a job is spread."""

    ranks: int
    zero_stage: int
    bounds: Sequence[int] = ()
    """Where each pipeline stage begins in the row of layers, and its end; empty without a pipeline."""
    shards: int = 1
    """Ranks that share a vocabulary."""

    def describe(self) -> str:
        cut = f" in {len(self.bounds) - 1} stage(s)" if self.bounds else ""
        cut += f", vocabulary over {self.shards}," if self.shards > 1 else ""
        return f"{self.ranks} rank(s){cut} at ZeRO-{self.zero_stage}"


def job_layout(engine: Any) -> JobLayout:
    """How an engine's job is spread."""
    return JobLayout(
        world_size(),
        engine.zero_optimization_stage(),
        tuple(getattr(engine.module, "parts", ())),
        vocab_parallel_size(),
    )


def save(
    run: Path, students: Sequence[Student], state: State, keep: int, everyone: Everyone = contextlib.nullcontext
) -> Path:
    """Writes ``step_<update>``; called by all ranks together. Old checkpoints go only after the new one stands.

    ``everyone``: makes all ranks of the job one, where students have ranks of their own.
    """
    final = run / "checkpoints" / f"step_{state['update']}"
    temporary = final.with_name(final.name + ".tmp")
    with everyone():
        on_main_first(_fresh, temporary)
    for student in students:
        student.engine.save_checkpoint(str(temporary), tag=student.name, save_latest=False)
    with everyone():
        barrier()
        on_main_first(_finish, temporary, final, state, keep)
    return final


def newest(run: Path, say: Callable[[str], None]) -> tuple[Path, State] | None:
    """The newest complete checkpoint that verifies; None where there is none. Each one passed over is named."""
    path = on_main_first(_newest, run, say)
    return (path, read_state(path)) if path is not None else None


def load(
    path: Path, students: Sequence[Student], written: JobLayout, present: JobLayout,
    everyone: Everyone = contextlib.nullcontext,
) -> None:  # fmt: skip
    """Fills the engines (weights, optimizer, loss scale, counters) from a checkpoint, of this layout or another."""
    alike = tuple(written.bounds) == tuple(present.bounds) and written.shards == present.shards
    if alike and (written[:2] == present[:2] or {written.zero_stage, present.zero_stage} == {0}):
        return _load(path, students)
    if max(written.shards, present.shards) > 1:
        raise UserError(
            f"{path}: written by {written.describe()}, this is {present.describe()}; a split vocabulary's checkpoints"
            " go on at the same ranks, ZeRO stage and tensor.vocabulary alone (its best and last models are plain ones)"
        )
    if FAMILY[written.zero_stage] != FAMILY[present.zero_stage] or 0 in (written.zero_stage, present.zero_stage):
        raise UserError(
            f"{path}: written by {written.describe()}, this is {present.describe()};"
            " any number of ranks may go on, but only from ZeRO 0 to 0 with the same pipeline stages, 1 or 2 to 1 or 2,"
            " 3 to 3"
        )
    universal = path.with_name(path.name + ".universal")
    with everyone():
        on_main_first(_fresh, universal)
    for student in students:
        on_main_first(_make_universal, path / student.name, universal / student.name)
        student.engine._config.load_universal_checkpoint = True
    try:
        _load(universal, students)
    finally:
        for student in students:
            student.engine._config.load_universal_checkpoint = False
    with everyone():
        barrier()
        on_main_first(shutil.rmtree, universal)


def _load(path: Path, students: Sequence[Student]) -> None:
    for student in students:
        loaded, _ = student.engine.load_checkpoint(str(path), tag=student.name)
        if loaded is None:
            raise UserError(f"{path}: no student '{student.name}' in it; resume with the recipe that wrote it")


def _make_universal(source: Path, target: Path) -> None:
    """DeepSpeed's own conversion: its shards become one file a parameter, which any layout reads."""
    from deepspeed.checkpoint.ds_to_universal import main

    arguments = dict(num_extract_workers=1, num_merge_workers=1, keep_temp_folder=False, strict=True)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main(
            argparse.Namespace(
                input_folder=str(source), output_folder=str(target), inject_missing_state=False, **arguments
            )
        )


def read_state(path: Path) -> State:
    """``state.json`` of a checkpoint."""
    return dict(json.loads((path / "state.json").read_text(encoding="utf-8")))


def part_of(state: State, name: str) -> State:
    """A student's part of a state; a student that is alone owns all of it."""
    return dict(state["students"][name]) if "students" in state else state


def complete(run: Path) -> list[Path]:
    """Published checkpoints, newest first; not yet verified."""
    found = [p for p in (run / "checkpoints").glob("step_*") if p.name.removeprefix("step_").isdigit()]
    return sorted(found, key=lambda path: -int(path.name.removeprefix("step_")))


def fault_of(path: Path) -> str | None:
    """Why a checkpoint must not be loaded: the first missing or altered file; None where all is well."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{path}/manifest.json is missing or garbled"
    for name, wanted in manifest.items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_uid not in (os.getuid(), 0):
            return f"{file} belongs to another user"
        if _digest(file) != wanted:
            return f"{file} was altered (its SHA-256 is not the manifest's)"
    return None


def _fresh(temporary: Path) -> None:
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, state: State, keep: int) -> None:
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(temporary)): _digest(path) for path in files}
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    publish_directory(temporary, final)
    link = final.with_name(".last.tmp")
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    os.replace(link, final.with_name("last"))
    for old in complete(final.parent.parent)[keep:]:
        shutil.rmtree(old)


def _newest(run: Path, say: Callable[[str], None]) -> Path | None:
    for path in complete(run):
        fault = fault_of(path)
        if fault is None:
            return path
        say(f"{fault}; falling back to the checkpoint before")
    if complete(run):
        raise UserError(f"{run}/checkpoints: no checkpoint verifies; restore one, or train anew in another directory")
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

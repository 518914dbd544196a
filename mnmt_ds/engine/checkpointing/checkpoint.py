"""Checkpoints that a crash cannot spoil: built aside, hashed, synced, then renamed; verified before they are loaded.

``checkpoints/step_N`` holds DeepSpeed's files of every student, ``state.json`` (position, bests, teachers) and
``manifest.json`` with each file's SHA-256; ``checkpoints/last`` links to the newest. A validation changes the state
alone: the checkpoint written before it is then replaced by one of the same files with the new state.
"""

import argparse
import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.checkpoint_writer import WrittenFile
from mnmt_ds.distributed import RankGroup
from mnmt_ds.engine.checkpointing.step_directories import clear_remains, step_directories, strays
from mnmt_ds.engine.checkpointing.verification import MANIFEST, fault_of, listed_files, write_manifest
from mnmt_ds.engine.parallel.engine import Engine
from mnmt_ds.engine.parallel.loading import weights_only
from mnmt_ds.errors import UserError, file_fault
from mnmt_ds.files import errors_naming, link_or_copy, publish_directory, remove, replace_link, sha256
from mnmt_ds.json_files import read_json, reason

STATE = "state.json"
State = dict[str, Any]
Engines = Mapping[str, Engine]
"""This rank's engines by their students' names."""
RankFiles = tuple[list[str], dict[Path, WrittenFile]]
"""A rank's faults, a line each, and the files that it wrote."""

CONVERTIBLE_GROUP = {0: "whole", 1: "sharded optimizer", 2: "sharded optimizer", 3: "sharded parameters"}
"""What each ZeRO stage (0 to 3) spreads over ranks: universal checkpoints move only between stages of equal value."""


class JobLayout(NamedTuple):
    """The layout of a student's training state over ranks, as a checkpoint records it."""

    ranks: int
    """Ranks of a student."""
    zero_stage: int
    """0 to 3."""
    bounds: Sequence[int] = ()
    """The first layer of every pipeline stage, and the number of layers; empty without a pipeline."""
    shards: int = 1
    """Ranks that share a vocabulary."""

    def describe(self) -> str:
        """Describes the layout in words.

        Returns:
            A phrase for messages.
        """
        text = f" in {len(self.bounds) - 1} stage(s)" if self.bounds else ""
        text += f", vocabulary over {self.shards}," if self.shards > 1 else ""
        return f"{self.ranks} rank(s){text} at ZeRO-{self.zero_stage}"


def job_layout(engine: Engine) -> JobLayout:
    """Reads from an engine how its training state is spread over ranks.

    Args:
        engine: of any of the run's students.

    Returns:
        The layout that ``state.json`` will hold.
    """
    layout = engine.layout
    return JobLayout(layout.ranks.size, engine.zero_stage, tuple(engine.stage_bounds), layout.vocab_parallel_size)


def save(run: Path, engines: Engines, state: State, needed: int, barrier_and_ranks: Callable[[], RankGroup]) -> Path:
    """Writes ``step_<update>``; called by all ranks together.

    Args:
        run: the run's directory.
        engines: of this rank's students.
        state: what ``state.json`` will hold; its "update" names the checkpoint.
        needed: bytes that a checkpoint takes, about; for messages.
        barrier_and_ranks: a barrier over all ranks of the job, whatever teams they form; returns these ranks.

    Returns:
        The checkpoint's directory.

    Raises:
        UserError: on all ranks where a file could not be written on one; what was written so far is removed.
    """
    final = run / "checkpoints" / f"step_{state['update']}"
    temporary = final.with_name(final.name + ".tmp")
    barrier_and_ranks().on_main_first(_make_empty, temporary)
    written = [engine.save_checkpoint(temporary, name) for name, engine in engines.items()]
    errors = [written_files.error for written_files in written if written_files.error is not None]
    faults = [str(file_fault(error, temporary, needed) or error) for error in errors]
    ranks = barrier_and_ranks()
    by_rank = ranks.gather(
        (faults, {path: file for written_files in written for path, file in written_files.files.items()})
    )
    ranks.on_main_first(_finish, temporary, final, state, needed, by_rank)
    return final


def replace_state(run: Path, state: State, ranks: RankGroup) -> Path:
    """Replaces the state of this update's checkpoint; its other files stay the same.

    Args:
        run: the run's directory.
        state: what ``state.json`` will hold; its "update" names the checkpoint.
        ranks: all ranks of the job, which call this together.

    Returns:
        The checkpoint's directory.
    """
    final = run / "checkpoints" / f"step_{state['update']}"
    ranks.on_main_first(_replace_state, final, state)
    return final


def newest(run: Path, warn: Callable[[str], None], ranks: RankGroup) -> tuple[Path, State] | None:
    """Finds the newest complete checkpoint that verifies.

    Args:
        run: the run's directory.
        warn: hears of each checkpoint that is passed over.
        ranks: all ranks of the job, which call this together.

    Returns:
        Its directory and state; None where there is no checkpoint.

    Raises:
        UserError: where there are some and none verifies.
    """
    path = ranks.on_main_first(_newest, run, warn)
    return (path, read_state(path)) if path is not None else None


def load(
    path: Path, engines: Engines, written: JobLayout, present: JobLayout, barrier_and_ranks: Callable[[], RankGroup]
) -> None:
    """Fills the engines (weights, optimizer, loss scale, counters) from a checkpoint, of this layout or another.

    Args:
        path: the checkpoint's directory.
        engines: of this rank's students.
        written: the layout of the job that wrote it.
        present: the layout of this job.
        barrier_and_ranks: a barrier over all ranks of the job, whatever teams they form; returns these ranks.

    Raises:
        UserError: where a checkpoint cannot be moved from that layout to this one.
    """
    if _is_alike(written, present):
        _load(path, engines)
        return _load_averages(path, engines)
    if refusal := move_refusal(written, present):
        raise UserError(f"{path}: {refusal}")
    universal = path.with_name(path.name + ".universal")
    barrier_and_ranks().on_main_first(_make_empty, universal)
    for name, engine in engines.items():
        engine.layout.ranks.on_main_first(_make_universal, path / name, universal / name)
    _load(universal, engines, universal=True)
    _load_averages(path, engines)
    ranks = barrier_and_ranks()
    ranks.barrier()
    ranks.on_main_first(shutil.rmtree, universal)


def move_refusal(written: JobLayout, present: JobLayout) -> str:
    """Explains why a checkpoint cannot be moved from one layout to another.

    Args:
        written: the layout of the job that wrote it.
        present: the layout of this job.

    Returns:
        The reason; empty where it can be moved.
    """
    stages = (written.zero_stage, present.zero_stage)
    if _is_alike(written, present):
        return ""
    layouts = f"written by {written.describe()}, this is {present.describe()}"
    if max(written.shards, present.shards) > 1:
        return (
            f"{layouts}; vocabulary-parallel checkpoints go on at the same ranks, ZeRO stage and tensor.vocabulary"
            " alone (its best and last models are plain ones)"
        )
    if len({CONVERTIBLE_GROUP[stage] for stage in stages}) > 1 or 0 in stages:
        return (
            f"{layouts}; any number of ranks may go on, but only from ZeRO 0 to 0 with the same pipeline stages,"
            " 1 or 2 to 1 or 2, 3 to 3"
        )
    return ""


def init_setting(run: Path) -> str:
    """Writes the setting with which another run starts from this run's best weights.

    Args:
        run: the run's directory.

    Returns:
        Such as "model.init=runs/plain"; of several students' run, that of one of them.
    """
    return f"model.init={run / 'students' / 'NAME' if (run / 'students').is_dir() else run}"


def _is_alike(written: JobLayout, present: JobLayout) -> bool:
    """Whether DeepSpeed's files can be read as they are."""
    alike = tuple(written.bounds) == tuple(present.bounds) and written.shards == present.shards
    return alike and (written[:2] == present[:2] or {written.zero_stage, present.zero_stage} == {0})


def _load(path: Path, engines: Engines, universal: bool = False) -> None:
    for name, engine in engines.items():
        if not engine.load_checkpoint(path, name, universal):
            raise UserError(f"{path}: no student '{name}' in it; resume with the recipe that wrote it")


def _load_averages(path: Path, engines: Engines) -> None:
    """The averaged weights, which any layout picks its parts from."""
    for name, engine in engines.items():
        if engine.average is not None:
            engine.average.load(path / name)


def _make_universal(source: Path, target: Path) -> None:
    """DeepSpeed's own conversion: its shards become one file a parameter, which any layout reads."""
    from deepspeed.checkpoint.ds_to_universal import main

    arguments = dict(num_extract_workers=1, num_merge_workers=1, keep_temp_folder=False, strict=True)
    with (
        weights_only(source),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        main(
            argparse.Namespace(
                input_folder=str(source), output_folder=str(target), inject_missing_state=False, **arguments
            )
        )


def read_state(path: Path) -> State:
    """Reads ``state.json`` of a checkpoint.

    Args:
        path: the checkpoint's directory.

    Returns:
        JSON values.

    Raises:
        UserError: where it cannot be read.
    """
    try:
        return dict(read_json(path / STATE))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}/state.json: cannot be read ({reason(error)}); remove this checkpoint") from None


def student_state(state: State, name: str) -> State:
    """Returns one student's part of a state; a student that is alone owns all of it.

    Args:
        state: of ``read_state``.
        name: the student's.

    Returns:
        JSON values.
    """
    return dict(state["students"][name]) if "students" in state else state


def complete(run: Path) -> list[Path]:
    """Lists published checkpoints, newest first; not yet verified.

    Args:
        run: the run's directory.

    Returns:
        Directories.
    """
    return [path for path in step_directories(run) if (path / STATE).is_file()]


def readable_states(run: Path) -> Iterator[State]:
    """Reads the states of all checkpoints whose ``state.json`` is readable, newest first; not verified.

    Args:
        run: the run's directory.

    Yields:
        JSON values.
    """
    for path in complete(run):
        with contextlib.suppress(UserError):
            yield read_state(path)


def _make_empty(directory: Path) -> None:
    remove(directory)
    directory.mkdir(parents=True)


def _finish(temporary: Path, final: Path, state: State, needed: int, by_rank: list[RankFiles]) -> None:
    with _removed_on_failure(temporary, needed):
        if faults := [fault for faults, _ in by_rank for fault in faults]:
            raise UserError(faults[0])
        digests = {path: file.sha256 for _, files in by_rank for path, file in files.items()}
        for rank, (_, files) in enumerate(by_rank):
            for path, file in files.items():
                if not path.is_file() or path.stat().st_size != file.size:
                    raise UserError(
                        f"{path}: rank {rank} wrote it, but rank 0 does not see all of it; the run's directory must be"
                        " on a file system that all nodes share"
                    )
        for path in temporary.rglob("*"):  # DeepSpeed's script
            if path.is_file() and path not in digests:
                digests[path] = sha256(path)
        _publish(temporary, final, state, {str(path.relative_to(temporary)): digests[path] for path in digests})


def _replace_state(final: Path, state: State) -> None:
    temporary = final.with_name(final.name + ".tmp")
    with _removed_on_failure(temporary):
        _make_empty(temporary)
        manifest = listed_files(final)
        for name in manifest:
            if name != STATE:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(final / name, temporary / name)
        _publish(temporary, final, state, manifest)


@contextlib.contextmanager
def _removed_on_failure(temporary: Path, needed: int = 0) -> Iterator[None]:
    """An unfinished checkpoint does not stay, least of all where the disk is full."""
    try:
        with errors_naming(temporary):
            yield
    except Exception as error:
        fault = file_fault(error, temporary, needed)
        with contextlib.suppress(OSError):
            remove(temporary)
        raise fault or error from None


def _publish(temporary: Path, final: Path, state: State, manifest: dict[str, str]) -> None:
    """Adds state and manifest, and renames."""
    (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
    write_manifest(temporary, {**manifest, STATE: sha256(temporary / STATE)})
    publish_directory(temporary, final)
    replace_link(final.with_name("last"), Path(final.name))


def _newest(run: Path, warn: Callable[[str], None]) -> Path | None:
    clear_remains(run)
    for stray in strays(run):
        warn(f"{stray}; passed over")
    paths = step_directories(run)
    for path in paths:
        fault = fault_of(path)
        if fault is None:
            return path
        warn(f"{fault}; falling back to the checkpoint before")
    if any((path / name).is_file() for path in paths for name in (MANIFEST, STATE)):
        raise UserError(
            f"{run}/checkpoints: no checkpoint verifies; restore one, or train anew in another directory, from the"
            f" run's best weights with {init_setting(run)}"
        )
    return None

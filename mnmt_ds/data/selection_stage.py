"""Stage 2: every pair's train, dev and test text, and monolingual text without any of it."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from mnmt_ds.data import holdout
from mnmt_ds.data.build_cache import BuildStage, fingerprint_of, load_stage, new_stage
from mnmt_ds.data.cleaning_stage import load_row_hashes
from mnmt_ds.data.dedup_keys import hash64, normalise_key
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import SplitAssignment, check_script, check_split_sizes, split_of_rows, usable_rows
from mnmt_ds.data.worker_pool import Progress
from mnmt_ds.errors import UserError

BLOCK = 100_000
SIDES = (("source", "src"), ("target", "tgt"))


def build_selection_stage(
    work: Path,
    settings: DataSettings,
    pair: str,
    clean: Mapping[str, BuildStage],
    plan_: SplitAssignment,
    kept_out: np.ndarray,
) -> tuple[BuildStage, bool]:
    """The stage with train.src, train.tgt and so on for a pair, and whether it had to be made."""
    roles_N, counts = split_of_rows(settings, pair, load_row_hashes(clean["train"]), plan_, kept_out)
    given = {which: stage.record["counts"]["clean"] for which, stage in clean.items() if which != "train"}
    check_split_sizes(settings, pair, roles_N, given, Counter(clean["train"].record["counts"]) + counts)
    contents = {which: [stage.sha256(side) for side, _ in SIDES] for which, stage in clean.items()}
    print_ = fingerprint_of(contents, _digest(roles_N))
    name = f"select.{pair}"
    if stage := load_stage(work, name, print_):
        return stage, False
    with new_stage(work, name, print_) as (directory, record):
        sizes = {which: int((roles_N == role).sum()) for role, which in enumerate(holdout.SPLITS)} | given
        sizes = {which: size for which, size in sizes.items() if size}
        for side, short in SIDES:
            own = {
                role: directory / f"{w}.{short}"
                for role, w in enumerate(holdout.SPLITS)
                if w in sizes and w not in given
            }
            _distribute(clean["train"].directory / side, own, roles_N)
            for which in given:
                shutil.copyfile(clean[which].directory / side, directory / f"{which}.{short}")
        record.update(sentences=sizes, counts=dict(counts), pair=pair)
    stage = load_stage(work, name, print_)
    assert stage is not None
    return stage, True


def build_monolingual_stage(
    work: Path, settings: DataSettings, lang: str, clean: BuildStage, texts: list[BuildStage]
) -> tuple[BuildStage, bool]:
    """The stage with a language's monolingual text, without sentences of any dev or test set in that language."""
    check_script(lang, clean.record["counts"])
    held = holdout.union_of_keys([_keys_in(stage, lang, settings.split.seed) for stage in texts])
    hashes = load_row_hashes(clean)
    usable_N, counts = usable_rows(settings, hashes)
    rows, more = holdout.choose_training_rows(hashes.key, hashes.pair, usable_N, held, None)
    if not len(rows):
        raise UserError(f"data.monolingual.{lang}: no sentence is left; give more text, or change data.clean")
    roles_N = np.full(len(usable_N), holdout.DROPPED, np.uint8)
    roles_N[rows] = holdout.TRAIN
    print_ = fingerprint_of(clean.sha256("source"), _digest(roles_N))
    name = f"select.mono.{lang}"
    if stage := load_stage(work, name, print_):
        return stage, False
    with new_stage(work, name, print_) as (directory, record):
        _distribute(clean.directory / "source", {holdout.TRAIN: directory / "train.src"}, roles_N)
        record.update(sentences={"train": len(rows)}, counts=dict(counts + more), pair=lang)
    stage = load_stage(work, name, print_)
    assert stage is not None
    return stage, True


def _keys_in(stage: BuildStage, lang: str, seed: int) -> np.ndarray:
    """Keys of a pair's dev and test sentences on the side that is in a language."""
    sides = zip(stage.record["pair"].split("-"), ("src", "tgt"), strict=True)
    names = [f"{which}.{short}" for side, short in sides if side == lang for which in ("dev", "test")]
    keys = []
    for name in names:
        if name in stage.record["files"]:
            with (stage.directory / name).open("rb") as stream:
                keys += [hash64(normalise_key(line[:-1].decode()), seed) for line in stream]
    return np.array(keys, np.uint64)


def _distribute(text: Path, paths: Mapping[int, Path], roles_N: np.ndarray) -> None:
    """Each line of a text to the file of its role."""
    files = {role: path.open("wb") for role, path in paths.items()}
    try:
        with text.open("rb") as stream, Progress(f"select {text.parent.parent.name}", "rows", len(roles_N)) as progress:
            for start in range(0, len(roles_N), BLOCK):
                roles = roles_N[start : start + BLOCK].tolist()
                for role, line in zip(roles, islice(stream, BLOCK), strict=True):
                    if role in files:
                        files[role].write(line)
                progress.add(len(roles))
    finally:
        for file in files.values():
            file.close()


def _digest(roles_N: np.ndarray) -> str:
    return hashlib.sha256(roles_N.tobytes()).hexdigest()

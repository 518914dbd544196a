"""Step 2 of ``prepare``: every pair's train, dev and test text, and monolingual text without any of it.

Letters: N rows of a text.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data import holdout
from mnmt_ds.data.build_cache import BuildOutput, fingerprint_of, finished_output, load_output, new_output
from mnmt_ds.data.cleaning_rules import EMPTY_SIDE
from mnmt_ds.data.held_out_text import HeldOutText
from mnmt_ds.data.holdout import RowHashes
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import (
    SplitAssignment,
    check_script,
    check_split_sizes,
    split_of_rows,
    usable_rows,
)
from mnmt_ds.data.text_cleaning import load_row_hashes
from mnmt_ds.data.worker_pool import ProgressBar
from mnmt_ds.errors import UserError

BLOCK = 100_000
"""Lines that are copied at once."""
SIDES = (("source", "src"), ("target", "tgt"))
"""The sides' files in cleaned text, and their suffixes in a selection."""


def build_selected_text(
    work: Path,
    settings: DataSettings,
    pair: str,
    clean: Mapping[str, BuildOutput],
    assignment: SplitAssignment,
    held_out: HeldOutText,
) -> tuple[BuildOutput, bool]:
    """Writes a pair's splits, unless that was done before.

    Args:
        work: directory of the corpus's outputs.
        settings: the recipe's ``data`` section.
        pair: the pair's name.
        clean: cleaned training text and given sets, by split.
        assignment: usable and held-out rows of the training text.
        held_out: what no row may be trained on.

    Returns:
        The output, with ``train.src``, ``train.tgt`` and so on, and whether it had to be made.

    Raises:
        UserError: when a split is empty.
    """
    hashes = load_row_hashes(clean["train"], settings.split.seed)
    split_N, counts = split_of_rows(settings, pair, hashes, assignment, held_out)
    held_out_sizes = {split: output.record["counts"]["clean"] for split, output in clean.items() if split != "train"}
    complete = {
        split: count - clean[split].record["counts"].get(EMPTY_SIDE, 0) for split, count in held_out_sizes.items()
    }
    all_counts = Counter(clean["train"].record["counts"]) + counts
    check_split_sizes(settings, pair, split_N, complete, all_counts, assignment.keys)
    contents = {split: [output.sha256(side) for side, _ in SIDES] for split, output in clean.items()}
    tags = _tag_runs(hashes, split_N)
    fingerprint = fingerprint_of(contents, _digest(split_N), dict(counts), *tags)
    output_name = f"select.{pair}"
    if output := load_output(work, output_name, fingerprint):
        return output, False
    with new_output(work, output_name, fingerprint) as (directory, record):
        sizes = {split: int((split_N == number).sum()) for number, split in enumerate(holdout.SPLITS)} | held_out_sizes
        sizes = {split: size for split, size in sizes.items() if size}
        for side, suffix in SIDES:
            paths = {
                number: directory / f"{split}.{suffix}"
                for number, split in enumerate(holdout.SPLITS)
                if split in sizes and split not in held_out_sizes
            }
            _distribute_lines(clean["train"].directory / side, paths, split_N)
            for split in held_out_sizes:
                shutil.copyfile(clean[split].directory / side, directory / f"{split}.{suffix}")
        synthetic = int((hashes.is_synthetic & (split_N == holdout.TRAIN)).sum())
        record.update(sentences=sizes, counts=dict(counts), pair=pair, tags=tags, synthetic=synthetic)
    return finished_output(work, output_name, fingerprint), True


def build_monolingual_text(
    work: Path, settings: DataSettings, lang: str, clean: BuildOutput, held_out: HeldOutText
) -> tuple[BuildOutput, bool]:
    """Writes a language's monolingual text without sentences of any dev or test set in that language.

    Args:
        work: directory of the corpus's outputs.
        settings: the recipe's ``data`` section.
        lang: the language.
        clean: its cleaned text.
        held_out: what no row may be trained on.

    Returns:
        The output, with ``train.src``, and whether it had to be made.

    Raises:
        UserError: when no sentence is left, or most lines are in another script.
    """
    check_script(lang, clean.record["counts"])
    hashes = load_row_hashes(clean, settings.split.seed)
    usable_N, counts = usable_rows(settings, hashes)
    masks = {"held-out source": held_out.in_language(lang, hashes.source)}
    rows, training_counts = holdout.choose_training_rows(hashes.pair, usable_N, masks, None)
    counts += training_counts
    if not len(rows):
        raise UserError(f"data.monolingual.{lang}: no sentence is left; give more text, or change data.clean")
    split_N = np.full(len(usable_N), holdout.DROPPED, np.uint8)
    split_N[rows] = holdout.TRAIN
    fingerprint = fingerprint_of(clean.sha256("source"), _digest(split_N), dict(counts))
    output_name = f"select.mono.{lang}"
    if output := load_output(work, output_name, fingerprint):
        return output, False
    with new_output(work, output_name, fingerprint) as (directory, record):
        _distribute_lines(clean.directory / "source", {holdout.TRAIN: directory / "train.src"}, split_N)
        record.update(sentences={"train": len(rows)}, counts=dict(counts), pair=lang)
    return finished_output(work, output_name, fingerprint), True


def _distribute_lines(text: Path, paths: Mapping[int, Path], split_N: NDArray[np.uint8]) -> None:
    """Writes each line of a text to the file of its split."""
    files = {split: path.open("wb") for split, path in paths.items()}
    try:
        with (
            text.open("rb") as stream,
            ProgressBar(f"select {text.parent.parent.name}", "rows", len(split_N)) as progress,
        ):
            for start in range(0, len(split_N), BLOCK):
                splits = split_N[start : start + BLOCK].tolist()
                for split, line in zip(splits, islice(stream, BLOCK), strict=True):
                    if split in files:
                        files[split].write(line)
                progress.add(len(splits))
    finally:
        for file in files.values():
            file.close()


def _tag_runs(hashes: RowHashes, split_N: NDArray[np.uint8]) -> list[list[Any]]:
    """[tag, sentences] for each run of training sentences with the same tag, "" where there is none; empty: no tags."""
    if not any(text.tag for text in hashes.synthetic.values()):
        return []
    domains_N = hashes.domain[split_N == holdout.TRAIN]
    starts = np.flatnonzero(np.diff(domains_N, prepend=-1))
    lengths = np.diff(starts, append=len(domains_N)).tolist()
    synthetic = [hashes.synthetic.get(domain) for domain in domains_N[starts].tolist()]
    return [[text.tag if text else "", length] for text, length in zip(synthetic, lengths, strict=True)]


def _digest(split_N: NDArray[np.uint8]) -> str:
    return hashlib.sha256(split_N.tobytes()).hexdigest()

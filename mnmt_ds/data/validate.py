"""Every fault of a recipe's text and of the prepared corpus, listed; nothing is written."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

from mnmt_ds.data import holdout
from mnmt_ds.data.build_cache import sha256
from mnmt_ds.data.cleaning_stage import cleaning_rules_for, is_dropped_domain, read_cleaned_blocks
from mnmt_ds.data.corpus import Corpus, changed_settings
from mnmt_ds.data.readers.corpus_part import CorpusPart
from mnmt_ds.data.readers.sources import Origin, corpus_parts
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import (
    RowHashes,
    assign_splits,
    catalog_shortage,
    check_script,
    check_split_sizes,
    concatenate_hashes,
    held_out_keys,
    split_of_rows,
    usable_rows,
)
from mnmt_ds.data.worker_pool import Progress, map_in_order, process_pool
from mnmt_ds.errors import UserError

MAX_LISTED_FAULTS = 20
"""Faults that are listed of one file; the rest are counted."""


def validate(settings: DataSettings, processes: int | None = None) -> list[str]:
    """One line a fault, in the order of the pairs; empty: all is well."""
    with process_pool(processes) as pool:
        return [*_sources(settings, pool), *_prepared(settings, pool)]


def _sources(settings: DataSettings, pool: Executor) -> list[str]:
    faults: list[str] = []
    origin: Origin = "files" if settings.source == "auto" else settings.source
    if settings.source == "auto" and not any(settings.files_of(pair).train for pair in settings.pairs):
        origin = "gettext"
    hashes, counts, faulty = _read_all(settings, pool, origin, faults)
    if settings.source == "auto" and origin == "gettext":
        usable_rows = {pair: int(usable_rows(settings, hashes[pair]["train"])[0].sum()) for pair in settings.pairs}
        if reason := catalog_shortage(settings, usable_rows):
            print(f"validate: {reason}", file=sys.stderr)
            hashes, counts, faulty = _read_all(settings, pool, "cldr", faults)
    plans = {pair: assign_splits(settings, hashes[pair]) for pair in settings.pairs}
    kept_out = holdout.union_of_keys([held_out_keys(hashes[pair], plans[pair]) for pair in settings.pairs])
    for pair in settings.pairs:
        if pair in faulty:
            continue
        roles_N, more = split_of_rows(settings, pair, hashes[pair]["train"], plans[pair], kept_out)
        given = {which: len(found.key) for which, found in hashes[pair].items() if which != "train"}
        try:
            check_split_sizes(settings, pair, roles_N, given, counts[pair] + more)
        except UserError as fault:
            faults.append(str(fault))
    return faults


def _read_all(
    settings: DataSettings, pool: Executor, origin: Origin, faults: list[str]
) -> tuple[dict[str, dict[str, RowHashes]], dict[str, Counter[str]], set[str]]:
    """Hashes of every pair's text, the training text's rows by fate, and the pairs with faults, which are appended."""
    hashes: dict[str, dict[str, RowHashes]] = {pair: {} for pair in settings.pairs}
    counts: dict[str, Counter[str]] = {pair: Counter() for pair in settings.pairs}
    wanted = [(pair, which) for pair in settings.pairs for which in holdout.SPLITS]
    faulty = set()
    for name, which in [*wanted, *((lang, "mono") for lang in settings.monolingual)]:
        before = len(faults)
        parts: list[CorpusPart] = []
        try:
            parts = corpus_parts(settings, name, which, origin)
        except UserError as fault:
            faults.append(str(fault))
        if not parts and which == "train" and origin == "files":
            faults.append(f"data.corpora: no train files for {name}; add them, or set data.source")
        found, seen = _read(settings, pool, name, which, parts, faults)
        if which == "mono":
            try:
                check_script(name, seen)
            except UserError as fault:
                faults.append(str(fault))
        if len(faults) > before:
            faulty.add(name)
        if which == "train":
            counts[name] = seen
        if which != "mono" and (parts or which == "train"):
            hashes[name][which] = found
    for pair in settings.pairs:
        hashes[pair].setdefault("train", concatenate_hashes([]))
    return hashes, counts, faulty


def _read(
    settings: DataSettings, pool: Executor, name: str, which: str, parts: list[CorpusPart], faults: list[str]
) -> tuple[RowHashes, Counter[str]]:
    rules = cleaning_rules_for(settings, name, which in ("dev", "test"))
    rules = rules._replace(collect=rules.given or settings.clean.bad_lines == "error")
    counts: Counter[str] = Counter()
    blocks = []
    for part in parts:
        if is_dropped_domain(part, rules):
            continue
        found: list[str] = []
        try:
            for block in read_cleaned_blocks(pool, rules, [part], f"check {name} {which} {part.domain}"):
                counts += block.counts
                found += block.faults
                blocks.append(block._replace(source=b"", target=b"", faults=[]))
        except UserError as fault:
            found.append(str(fault))
        faults += found[:MAX_LISTED_FAULTS]
        if len(found) > MAX_LISTED_FAULTS:
            faults.append(f"{part.files[0]}: {len(found) - MAX_LISTED_FAULTS} more lines like these")
    return concatenate_hashes(blocks), counts


def _prepared(settings: DataSettings, pool: Executor) -> Iterator[str]:
    """Faults of what ``prepare`` wrote, if it did."""
    directory = Path(settings.directory)
    if not (directory / "manifest.json").exists():
        return
    try:
        corpus = Corpus.open(directory)
    except UserError as fault:
        yield str(fault)
        return
    files = corpus.manifest["files"]
    paths = [directory / name for name in files]
    with Progress("check hashes", "files", len(files)) as progress:
        for digest, (name, facts) in zip(map_in_order(pool, sha256, paths), files.items(), strict=True):
            progress.add(1)
            if digest != facts["sha256"]:
                yield f"{directory / name}: its content changed since it was prepared; run mnmt-ds prepare --fresh"
    if changed := changed_settings(corpus.manifest, settings):
        settings_ = ", ".join(changed)
        yield f"{directory / 'manifest.json'}: prepared with other settings ({settings_}); run mnmt-ds prepare again"
    try:
        json.loads((directory / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        yield f"{directory / 'report.json'}: missing or not JSON; run mnmt-ds prepare again"

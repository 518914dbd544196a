"""Stage 1: a pair's parts are read in this process, cleaned in the workers, and written as text and hashes."""

import fnmatch
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnmt_ds.data import cleaning_rules
from mnmt_ds.data.build_cache import BuildStage, fingerprint_of, load_stage, new_stage, sha256
from mnmt_ds.data.cleaning_rules import CleanedBlock, CleaningRules, RowBlock, clean_block
from mnmt_ds.data.readers.corpus_part import CorpusPart
from mnmt_ds.data.readers.sources import block_rows, files_of_part, parts_identity
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import RowHashes
from mnmt_ds.data.worker_pool import Progress, map_in_order

ARRAYS = (("key", np.uint64), ("pair", np.uint64), ("domain", np.uint16))
LAYOUT = 1
CODE = ("cleaning_rules.py", "cleaning_stage.py", "dedup_keys.py", "scripts.py", "readers")


def cleaning_rules_for(settings: DataSettings, pair: str, given: bool) -> CleaningRules:
    """The rules for a pair, or for a language ("fr") of monolingual text."""
    source, _, target = pair.partition("-")
    key_side = 0 if source == settings.split.key_language else 1
    mono = not target
    return CleaningRules(source, target or source, key_side, settings.clean, settings.split.seed, given, mono)


def build_cleaned_stage(
    work: Path,
    pool: Executor,
    settings: DataSettings,
    pair: str,
    which: str,
    parts: list[CorpusPart],
    frozen: bool = False,
) -> tuple[BuildStage, bool]:
    """The finished stage for a pair's "train", "dev" or "test" parts, and whether it had to be made.

    ``frozen``: once read, the text stays what it is although its files (with a line that says so) or this code change.
    """
    rules = cleaning_rules_for(settings, pair, which in ("dev", "test"))
    relevant = settings.clean.model_dump(mode="json", exclude={"duplicates", "domain_cap"})
    files = parts_identity(parts)
    state = LAYOUT if frozen else [_code(), files]
    print_ = fingerprint_of(state, pair, which, rules.key_side, rules.seed, relevant)
    name = f"clean.{pair}.{which}"
    if stage := load_stage(work, name, print_):
        if stage.record["identity"] != files:
            print(f"{name}: files changed since they were read; kept as read (--fresh reads anew)", file=sys.stderr)
        return stage, False
    with new_stage(work, name, print_) as (directory, record):
        record["identity"] = files
        _write(directory, record, read_cleaned_blocks(pool, rules, parts, f"read {pair} {which}"), parts, rules)
    stage = load_stage(work, name, print_)
    assert stage is not None
    return stage, True


def read_cleaned_blocks(
    pool: Executor, rules: CleaningRules, parts: list[CorpusPart], what: str
) -> Iterator[CleanedBlock]:
    """Cleaned blocks in the order of the text."""

    def rows() -> Iterator[RowBlock]:
        with Progress(what, "rows") as progress:
            domains = {name: i for i, name in enumerate(dict.fromkeys(part.domain for part in parts))}
            for part in parts:
                if is_dropped_domain(part, rules):
                    continue
                for block in block_rows(part.read()):
                    yield RowBlock(part.files, domains[part.domain], part.catalog, block, part.tolerant)
                    progress.add(len(block))

    return map_in_order(pool, partial(clean_block, rules=rules), rows())


def is_dropped_domain(part: CorpusPart, rules: CleaningRules) -> bool:
    """Whether the part's domain is one that the settings drop."""
    return not rules.given and any(fnmatch.fnmatch(part.domain, pattern) for pattern in rules.clean.drop_domains)


def load_row_hashes(stage: BuildStage) -> RowHashes:
    """The hashes of a stage's rows."""
    return RowHashes(*(np.fromfile(stage.directory / name, kind) for name, kind in ARRAYS))


def _write(
    directory: Path,
    record: dict[str, Any],
    stream: Iterator[CleanedBlock],
    parts: list[CorpusPart],
    rules: CleaningRules,
) -> None:
    names = list(dict.fromkeys(part.domain for part in parts))
    dropped = [part for part in parts if is_dropped_domain(part, rules)]
    counts: Counter[str] = Counter({"name list": sum(1 for part in dropped for _ in part.read())})
    counts["read"] = counts["name list"]
    domains: Counter[str] = Counter()
    places: dict[str, str] = {}
    with (
        (directory / "source").open("wb") as source,
        (directory / "target").open("wb") as target,
        (directory / "key").open("wb") as key,
        (directory / "pair").open("wb") as pair,
        (directory / "domain").open("wb") as domain,
    ):
        for block in stream:
            source.write(block.source)
            if not rules.mono:
                target.write(block.target)
            key.write(block.key.tobytes())
            pair.write(block.pair.tobytes())
            domain.write(np.full(len(block.key), block.domain, np.uint16).tobytes())
            counts += block.counts
            domains[names[block.domain]] += len(block.key)
            places = {**block.places, **places}
    record.update(
        counts={kind: counts[kind] for kind in ("read", "clean", *sorted(counts))},
        places=places,
        domains=dict(domains),
        left_out=[part.domain for part in dropped],
        inputs=[
            {"path": str(path), "size": path.stat().st_size, "sha256": sha256(path)}
            for part in parts
            if part not in dropped
            for path in files_of_part(part)
        ],
    )


def _code() -> list[str]:
    """Hashes of the files that decide this stage's output, so that a changed rule is applied anew."""
    here = Path(cleaning_rules.__file__).parent
    paths = [path for name in CODE for path in (sorted((here / name).glob("*.py")) or [here / name])]
    return [sha256(path) for path in paths]

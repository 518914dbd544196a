"""Stage 1: a pair's parts are read in this process, cleaned in the workers, and written as text and hashes."""

import fnmatch
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnmt_ds.data import clean
from mnmt_ds.data.clean import Block, Cleaned, Rules, clean_block
from mnmt_ds.data.parallel import Progress, ordered
from mnmt_ds.data.readers.rows import Part
from mnmt_ds.data.readers.sources import blocks, files_of, identity
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.stages import Stage, fingerprint, finished, new_directory, sha256

ARRAYS = (("key", np.uint64), ("pair", np.uint64), ("domain", np.uint16))
CODE = ("clean.py", "cleaning.py", "keys.py", "script.py", "readers")


def rules_of(settings: DataSettings, pair: str, given: bool) -> Rules:
    """The rules for a pair, or for a language ("fr") of monolingual text."""
    source, _, target = pair.partition("-")
    key_side = 0 if source == settings.split.key_language else 1
    mono = not target
    return Rules(source, target or source, key_side, settings.clean, settings.split.seed, given, mono)


def cleaned(
    work: Path, pool: Executor, settings: DataSettings, pair: str, which: str, parts: list[Part]
) -> tuple[Stage, bool]:
    """The finished stage for a pair's "train", "dev" or "test" parts, and whether it had to be made."""
    rules = rules_of(settings, pair, which in ("dev", "test"))
    relevant = settings.clean.model_dump(mode="json", exclude={"duplicates", "domain_cap"})
    print_ = fingerprint(_code(), pair, which, rules.key_side, rules.seed, relevant, identity(parts))
    name = f"clean.{pair}.{which}"
    if stage := finished(work, name, print_):
        return stage, False
    with new_directory(work, name, print_) as (directory, record):
        _write(directory, record, read(pool, rules, parts, f"read {pair} {which}"), parts, rules.mono)
    stage = finished(work, name, print_)
    assert stage is not None
    return stage, True


def read(pool: Executor, rules: Rules, parts: list[Part], what: str) -> Iterator[Cleaned]:
    """Cleaned blocks in the order of the text."""

    def rows() -> Iterator[Block]:
        with Progress(what, "rows") as progress:
            for domain, part in enumerate(parts):
                if left_out(part, rules):
                    continue
                for block in blocks(part.read()):
                    yield Block(part.files, domain, part.catalog, block)
                    progress.add(len(block))

    return ordered(pool, partial(clean_block, rules=rules), rows())


def left_out(part: Part, rules: Rules) -> bool:
    """Whether the part's domain is one that the settings drop."""
    return not rules.given and any(fnmatch.fnmatch(part.domain, pattern) for pattern in rules.clean.drop_domains)


def array(stage: Stage, name: str) -> np.ndarray:
    """One of the arrays, an element a row."""
    return np.fromfile(stage.directory / name, dict(ARRAYS)[name])


def _write(directory: Path, record: dict[str, Any], stream: Iterator[Cleaned], parts: list[Part], mono: bool) -> None:
    counts: Counter[str] = Counter()
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
            if not mono:
                target.write(block.target)
            key.write(block.key.tobytes())
            pair.write(block.pair.tobytes())
            domain.write(np.full(len(block.key), block.domain, np.uint16).tobytes())
            counts += block.counts
            domains[parts[block.domain].domain] += len(block.key)
            places = {**block.places, **places}
    record.update(
        counts={kind: counts[kind] for kind in ("read", "clean", *sorted(counts))},
        places=places,
        domains=dict(domains),
        left_out=[part.domain for part in parts if part.domain not in domains],
        inputs=[
            {"path": str(path), "size": path.stat().st_size, "sha256": sha256(path)}
            for part in parts
            if part.domain in domains
            for path in files_of(part)
        ],
    )


def _code() -> list[str]:
    """Hashes of the files that decide this stage's output, so that a changed rule is applied anew."""
    here = Path(clean.__file__).parent
    paths = [path for name in CODE for path in (sorted((here / name).glob("*.py")) or [here / name])]
    return [sha256(path) for path in paths]

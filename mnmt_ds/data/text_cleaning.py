"""Step 1 of ``prepare``: a pair's parts are read here, cleaned in the workers, and written as text and hashes.

Letters: N rows of a text.
"""

import fnmatch
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data import cleaning_rules
from mnmt_ds.data.build_cache import BuildOutput, fingerprint_of, finished_output, load_output, new_output
from mnmt_ds.data.cleaning_rules import CleanedBlock, CleaningRules, RowBlock, clean_block
from mnmt_ds.data.dedup_keys import hash64, normalise_key
from mnmt_ds.data.holdout import RowHashes
from mnmt_ds.data.language_codes import key_side
from mnmt_ds.data.language_identifiers import identifier_version
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.readers.corpus_part import CorpusPart
from mnmt_ds.data.readers.sources import block_rows, files_of_part, parts_identity
from mnmt_ds.data.settings import DataSettings, SyntheticText
from mnmt_ds.data.worker_pool import ProgressBar, map_in_order
from mnmt_ds.files import sha256

LOG = logging.getLogger(__name__)
LAYOUT = 1
"""Version of the output's files."""
CODE = (
    "cleaning_rules.py", "text_cleaning.py", "dedup_keys.py", "language_codes.py", "language_groups.py",
    "language_check.py", "language_choice.py", "language_identifiers.py", "scripts.py", "readers",
)  # fmt: skip
"""Files of this package that decide what is written."""


def cleaning_rules_for(settings: DataSettings, name: str, is_held_out_set: bool) -> CleaningRules:
    """Makes the rules for a text.

    Args:
        settings: the recipe's ``data`` section.
        name: a pair such as ``bs-en``, or a language of monolingual text.
        is_held_out_set: whether the text is a given dev or test set.

    Returns:
        What a worker must know to clean it.
    """
    source, target = split_pair(name)
    return CleaningRules(
        source,
        target or source,
        key_side(source, target or source, settings.split.key_language),
        settings.clean,
        settings.split.seed,
        is_held_out_set,
        monolingual=not target,
    )


def build_clean_text(
    work: Path,
    pool: Executor,
    settings: DataSettings,
    name: str,
    role: str,
    parts: list[CorpusPart],
    frozen: bool = False,
) -> tuple[BuildOutput, bool]:
    """Reads and cleans a text, unless that was done before.

    Args:
        work: directory of the corpus's outputs.
        pool: worker processes.
        settings: the recipe's ``data`` section.
        name: a pair, or a language of monolingual text.
        role: what the text is for: train, dev, test or mono.
        parts: the text.
        frozen: once read, the text stays what it is although its files (with a line that says so) or this code change.

    Returns:
        The output, with files ``source``, ``target``, ``key``, ``source_key``, ``target_key``, ``pair`` and ``domain``,
        and whether it had to be made.
    """
    rules = cleaning_rules_for(settings, name, role in ("dev", "test"))
    relevant = settings.clean.model_dump(
        mode="json", exclude={"duplicates", "domain_cap", "language", "language_identifier"}
    )
    if settings.clean.language == "drop" or any(part.clean and part.clean.language == "drop" for part in parts):
        identifier = settings.clean.language_identifier
        relevant["language"] = [settings.clean.language, identifier, identifier_version(identifier)]
    files = parts_identity(parts)
    state = LAYOUT if frozen else [_hash_code(), files]
    fingerprint = fingerprint_of(state, name, role, rules.key_side, rules.seed, relevant)
    output_name = f"clean.{name}.{role}"
    if output := load_output(work, output_name, fingerprint):
        if output.record["identity"] != files:
            LOG.warning("%s: files changed since they were read; kept as read (--fresh reads anew)", output_name)
        return output, False
    with new_output(work, output_name, fingerprint) as (directory, record):
        record["identity"] = files
        _write(directory, record, read_cleaned_blocks(pool, rules, parts, f"read {name} {role}"), parts, rules)
    return finished_output(work, output_name, fingerprint), True


def read_cleaned_blocks(
    pool: Executor, rules: CleaningRules, parts: list[CorpusPart], label: str
) -> Iterator[CleanedBlock]:
    """Reads parts, and cleans them in worker processes.

    Args:
        pool: worker processes.
        rules: how to clean.
        parts: the text; parts whose domain the settings drop are left out.
        label: what the progress bar says.

    Yields:
        Cleaned blocks in the order of the text.
    """

    def row_blocks() -> Iterator[RowBlock]:
        with ProgressBar(label, "rows") as progress:
            domains = {name: i for i, name in enumerate(dict.fromkeys(part.domain for part in parts))}
            for part in parts:
                if is_dropped_domain(part, rules):
                    continue
                for rows in block_rows(part.read()):
                    yield RowBlock(part.files, domains[part.domain], part.catalog, rows, part.tolerant, part.clean)
                    progress.add(len(rows))

    return map_in_order(pool, partial(clean_block, rules=rules), row_blocks())


def synthetic_domains(parts: Sequence[CorpusPart]) -> dict[int, SyntheticText]:
    """Lists how synthetic text is taken in, by the number of its domain.

    Args:
        parts: of a text; domains are numbered in the order in which parts first name them.

    Returns:
        How each domain of synthetic text is taken in.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys(part.domain for part in parts))}
    return {numbers[part.domain]: part.synthetic for part in parts if part.synthetic}


def is_dropped_domain(corpus_part: CorpusPart, rules: CleaningRules) -> bool:
    """Returns whether a part's domain is one that the settings drop.

    Args:
        corpus_part: a part of a text.
        rules: rules for the text.

    Returns:
        Whether the part is left out; never of a given dev or test set.
    """
    return not rules.is_held_out_set and any(
        fnmatch.fnmatch(corpus_part.domain, pattern) for pattern in rules.clean.drop_domains
    )


def load_row_hashes(output: BuildOutput, seed: int) -> RowHashes:
    """Reads the hashes of cleaned text's rows.

    Args:
        output: what ``build_clean_text`` made.
        seed: of the keys' hashes (``split.seed``).

    Returns:
        Hashes of its rows, in order.
    """
    source_key_N = _side_keys(output, "source", seed)
    return RowHashes(
        key=np.fromfile(output.directory / "key", np.uint64),
        source=source_key_N,
        target=_side_keys(output, "target", seed) if output.record["files"]["target"]["size"] else source_key_N,
        pair=np.fromfile(output.directory / "pair", np.uint64),
        domain=np.fromfile(output.directory / "domain", np.uint16),
        synthetic={
            number: SyntheticText.model_validate(values) for number, values in output.record.get("synthetic", [])
        },
    )


def _side_keys(output: BuildOutput, side: str, seed: int) -> NDArray[np.uint64]:
    """Hashes of one side's normalised text; computed from the text where an earlier version read it."""
    path = output.directory / f"{side}_key"
    if path.exists():
        return np.fromfile(path, np.uint64)
    with (output.directory / side).open("rb") as lines:
        return np.array([hash64(normalise_key(line[:-1].decode()), seed) for line in lines], np.uint64)


def _write(
    directory: Path,
    record: dict[str, Any],
    blocks: Iterator[CleanedBlock],
    parts: list[CorpusPart],
    rules: CleaningRules,
) -> None:
    domain_names = list(dict.fromkeys(part.domain for part in parts))
    dropped = [part for part in parts if is_dropped_domain(part, rules)]
    counts: Counter[str] = Counter({"name list": sum(1 for part in dropped for _ in part.read())})
    counts["read"] = counts["name list"]
    domains: Counter[str] = Counter()
    places: dict[str, str] = {}
    with (
        (directory / "source").open("wb") as source,
        (directory / "target").open("wb") as target,
        (directory / "key").open("wb") as key,
        (directory / "source_key").open("wb") as source_key,
        (directory / "target_key").open("wb") as target_key,
        (directory / "pair").open("wb") as pair,
        (directory / "domain").open("wb") as domain,
    ):
        for block in blocks:
            source.write(block.source)
            source_key.write(block.source_key.tobytes())
            if not rules.monolingual:
                target.write(block.target)
                target_key.write(block.target_key.tobytes())
            key.write(block.key.tobytes())
            pair.write(block.pair.tobytes())
            domain.write(np.full(len(block.key), block.domain, np.uint16).tobytes())
            counts += block.counts
            domains[domain_names[block.domain]] += len(block.key)
            places = {**block.places, **places}
    record.update(
        counts={kind: counts[kind] for kind in ("read", "clean", *sorted(counts))},
        places=places,
        domains=dict(domains),
        synthetic=[[number, text.model_dump()] for number, text in synthetic_domains(parts).items()],
        left_out=[part.domain for part in dropped],
        inputs=[
            {"path": str(path), "size": path.stat().st_size, "sha256": sha256(path)}
            for part in parts
            if part not in dropped
            for path in files_of_part(part)
        ],
    )


def _hash_code() -> list[str]:
    """Hashes of the files that decide the output, so that a changed rule is applied anew."""
    package = Path(cleaning_rules.__file__).parent
    paths = [path for name in CODE for path in (sorted((package / name).glob("*.py")) or [package / name])]
    return [sha256(path) for path in paths]

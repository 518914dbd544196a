"""Every fault of a recipe's text and of the prepared corpus, listed; nothing is written.

Letters: N rows of a pair's training text.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

from mnmt_ds.data import holdout
from mnmt_ds.data.cleaning_rules import EMPTY_SIDE
from mnmt_ds.data.corpus import MANIFEST, Corpus, changed_settings
from mnmt_ds.data.given_tokenizer import open_recipe_tokenizer
from mnmt_ds.data.held_out_overlap import corpus_texts, count_overlap, overlap_faults, overlap_line
from mnmt_ds.data.held_out_text import held_out_text, join_held_out
from mnmt_ds.data.holdout import RowHashes
from mnmt_ds.data.language_check import check_language_filter
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.prepare_report import incomplete_rows_line
from mnmt_ds.data.readers.corpus_part import CorpusPart
from mnmt_ds.data.readers.sources import Origin, corpus_parts
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import (
    assign_splits,
    catalog_shortage,
    check_script,
    check_split_sizes,
    complete_rows,
    concatenate_hashes,
    pairs_without_key_language,
    split_of_rows,
    usable_rows,
)
from mnmt_ds.data.text_cleaning import cleaning_rules_for, is_dropped_domain, read_cleaned_blocks, synthetic_domains
from mnmt_ds.data.tokenizer_coverage import count_coverage, coverage_lines
from mnmt_ds.data.vocabulary_size import count_characters, vocabulary_faults
from mnmt_ds.data.worker_pool import ProgressBar, map_in_order, process_pool
from mnmt_ds.errors import UserError
from mnmt_ds.files import sha256
from mnmt_ds.json_files import read_json

LOG = logging.getLogger(__name__)
MAX_LISTED_FAULTS = 20
"""Faults that are listed of one file; the rest are counted."""


def validate(settings: DataSettings, processes: int | None = None, checks_tokenizer: bool = True) -> list[str]:
    """Reads and cleans all text without writing any, and checks what ``prepare`` wrote.

    Args:
        settings: the recipe's ``data`` section.
        processes: worker processes; None: one for each processor.
        checks_tokenizer: whether the settings of the tokenizer are looked at; not where they are known to be at fault.

    Returns:
        One line a fault, in the order of the pairs; empty: all is well.
    """
    with process_pool(processes) as pool:
        return [
            *(_tokenizer_faults(settings) if checks_tokenizer else []),
            *_language_filter_faults(settings),
            *_source_faults(settings, pool, checks_tokenizer),
            *_corpus_faults(settings, pool, checks_tokenizer),
        ]


def _tokenizer_faults(settings: DataSettings) -> list[str]:
    """The fault of a tokenizer that is given, if it has one."""
    try:
        open_recipe_tokenizer(settings)
    except UserError as fault:
        return list(fault.faults)
    return []


def _language_filter_faults(settings: DataSettings) -> list[str]:
    try:
        check_language_filter(settings)
    except UserError as error:
        return [str(error)]
    return []


def _source_faults(settings: DataSettings, pool: Executor, checks_tokenizer: bool) -> list[str]:
    """Faults of the recipe's text."""
    faults: list[str] = []
    origin: Origin = "files" if settings.source == "auto" else settings.source
    if settings.source == "auto" and not any(settings.files_of(pair).train for pair in settings.pairs):
        origin = "gettext"
    characters: dict[str, Counter[str]] = {}
    hashes, counts, faulty = _read_all(settings, pool, origin, faults, characters)
    if settings.source == "auto" and origin == "gettext":
        usable_counts = {pair: int(usable_rows(settings, hashes[pair]["train"])[0].sum()) for pair in settings.pairs}
        if reason := catalog_shortage(settings, usable_counts):
            LOG.warning("validate: %s", reason)
            characters.clear()
            hashes, counts, faulty = _read_all(settings, pool, "cldr", faults, characters)
    if message := pairs_without_key_language(settings):
        LOG.info("validate: %s", message)
    assignments = {pair: assign_splits(settings, hashes[pair]) for pair in settings.pairs}
    held_out = join_held_out([held_out_text(pair, hashes[pair], assignments[pair].held_out) for pair in settings.pairs])
    for pair in settings.pairs:
        if pair in faulty:
            continue
        split_N, split_counts = split_of_rows(settings, pair, hashes[pair]["train"], assignments[pair], held_out)
        held_out_sizes = {
            role: complete_rows(texts, settings.split.seed) for role, texts in hashes[pair].items() if role != "train"
        }
        try:
            all_counts = counts[pair] + split_counts
            check_split_sizes(settings, pair, split_N, held_out_sizes, all_counts, assignments[pair].keys)
        except UserError as fault:
            faults += fault.faults
    if checks_tokenizer and not faulty:
        faults += vocabulary_faults(characters, settings.tokenizer)
    return faults


def _read_all(
    settings: DataSettings, pool: Executor, origin: Origin, faults: list[str], characters: dict[str, Counter[str]]
) -> tuple[dict[str, dict[str, RowHashes]], dict[str, Counter[str]], set[str]]:
    """Hashes of every pair's text, counts of its training text, and the pairs with faults, which are appended."""
    hashes: dict[str, dict[str, RowHashes]] = {pair: {} for pair in settings.pairs}
    counts: dict[str, Counter[str]] = {pair: Counter() for pair in settings.pairs}
    texts = [(pair, role) for pair in settings.pairs for role in holdout.SPLITS]
    faulty = set()
    for name, role in [*texts, *((lang, "mono") for lang in settings.monolingual)]:
        faults_before = len(faults)
        parts: list[CorpusPart] = []
        try:
            parts = corpus_parts(settings, name, role, origin)
        except UserError as fault:
            faults += fault.faults
        if not parts and role == "train" and origin == "files":
            faults.append(f"data.corpora: no train files for {name}; add them, or set data.source")
        text_hashes, text_counts = _read(settings, pool, name, role, parts, faults, characters)
        if role == "mono":
            try:
                check_script(name, text_counts)
            except UserError as fault:
                faults += fault.faults
        if len(faults) > faults_before:
            faulty.add(name)
        if role == "train":
            counts[name] = text_counts
        if role != "mono" and (parts or role == "train"):
            hashes[name][role] = text_hashes
    for pair in settings.pairs:
        hashes[pair].setdefault("train", concatenate_hashes([]))
    return hashes, counts, faulty


def _read(
    settings: DataSettings, pool: Executor, name: str, role: str, parts: list[CorpusPart], faults: list[str],
    characters: dict[str, Counter[str]],
) -> tuple[RowHashes, Counter[str]]:  # fmt: skip
    """Hashes and counts of one text; its faults are appended, and its characters counted where it is for training."""
    rules = cleaning_rules_for(settings, name, role in ("dev", "test"))
    rules = rules._replace(list_faults=rules.is_held_out_set or settings.clean.bad_lines == "error")
    counts: Counter[str] = Counter()
    blocks, places = [], dict[str, str]()
    domains = list(dict.fromkeys(part.domain for part in parts))
    for part in parts:
        if is_dropped_domain(part, rules):
            continue
        part_faults: list[str] = []
        domain = domains.index(part.domain)
        try:
            for block in read_cleaned_blocks(pool, rules, [part], f"check {name} {role} {part.domain}"):
                counts += block.counts
                places = {**block.places, **places}
                part_faults += block.faults
                if role == "train":
                    for language, content in zip(split_pair(name), (block.source, block.target), strict=True):
                        count_characters(characters.setdefault(language, Counter()), content)
                blocks.append(block._replace(source=b"", target=b"", faults=[], domain=domain))
        except UserError as fault:
            part_faults += fault.faults
        faults += part_faults[:MAX_LISTED_FAULTS]
        if len(part_faults) > MAX_LISTED_FAULTS:
            faults.append(f"{part.files[0]}: {len(part_faults) - MAX_LISTED_FAULTS} more lines like these")
    if counts[EMPTY_SIDE]:
        print(incomplete_rows_line(name, role, counts, places[EMPTY_SIDE]))
    return concatenate_hashes(blocks)._replace(synthetic=synthetic_domains(parts)), counts


def _corpus_faults(settings: DataSettings, pool: Executor, checks_tokenizer: bool) -> Iterator[str]:
    """Faults of what ``prepare`` wrote, if it did."""
    directory = Path(settings.directory)
    if not (directory / MANIFEST).exists():
        return
    try:
        corpus = Corpus.open(directory)
    except UserError as fault:
        yield from fault.faults
        return
    files = corpus.manifest["files"]
    paths = [directory / name for name in files]
    is_whole = True
    with ProgressBar("check hashes", "files", len(files)) as progress:
        for digest, (name, entry) in zip(map_in_order(pool, sha256, paths), files.items(), strict=True):
            progress.add(1)
            if digest != entry["sha256"]:
                is_whole = False
                yield f"{directory / name}: its content changed since it was prepared; run mnmt-ds prepare again"
    if is_whole:
        overlaps = count_overlap(pool, corpus_texts(directory, corpus.manifest))
        print(f"{directory}: {overlap_line(overlaps)}")
        yield from overlap_faults(directory, overlaps)
        coverage = count_coverage(pool, corpus_texts(directory, corpus.manifest), directory / "tokenizer")
        print("\n".join(f"{directory}: {line}" for line in coverage_lines(coverage)))
    changed = changed_settings(corpus.manifest, settings)
    if changed := [name for name in changed if checks_tokenizer or not name.startswith("tokenizer.")]:
        yield f"{directory / MANIFEST}: prepared with other settings ({', '.join(changed)}); run mnmt-ds prepare again"
    try:
        read_json(directory / "report.json")
    except (OSError, ValueError):
        yield f"{directory / 'report.json'}: missing or not JSON; run mnmt-ds prepare again"

"""From a recipe's ``data:`` section to a corpus on disk; a second run redoes only what changed.

Steps: 1 read and clean, 2 select (duplicates, held-out sets, limits), 3 tokenizer, 4 ids; then all is published.
"""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mnmt_ds.data import holdout, prepare_report
from mnmt_ds.data.binarization import ParallelText, build_binary_dataset
from mnmt_ds.data.build_cache import (
    BuildOutput,
    fingerprint_of,
    finished_output,
    load_output,
    lock_corpus,
    new_output,
    remove_unused_outputs,
)
from mnmt_ds.data.given_tokenizer import build_given_tokenizer, open_recipe_tokenizer
from mnmt_ds.data.held_out_overlap import LanguageFile, count_overlap
from mnmt_ds.data.held_out_text import held_out_text, join_held_out
from mnmt_ds.data.language_check import check_language_filter, check_languages
from mnmt_ds.data.language_choice import open_questions
from mnmt_ds.data.language_identifiers import Identifier, identifier_version
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.manifest import BuiltCorpus, publish_corpus
from mnmt_ds.data.readers.sources import Origin, corpus_parts
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import (
    assign_splits,
    catalog_shortage,
    pairs_without_key_language,
    usable_rows,
)
from mnmt_ds.data.text_cleaning import build_clean_text, load_row_hashes
from mnmt_ds.data.text_selection import build_monolingual_text, build_selected_text
from mnmt_ds.data.tokenizer_coverage import count_coverage, coverage_values
from mnmt_ds.data.tokenizer_training import TextFile, TrainingText, build_tokenizer
from mnmt_ds.data.worker_pool import process_pool
from mnmt_ds.errors import UserError, file_fault
from mnmt_ds.files import remove_temporary_files

LOG = logging.getLogger(__name__)
COVERAGE_VERSION = 1
"""Version of what ``tokenizer_coverage`` counts."""
LANGUAGES_VERSION = 1
"""Version of what ``language_check`` counts."""
OVERLAP_VERSION = 3
"""Version of what ``held_out_overlap`` counts."""
CleanText = dict[str, dict[str, BuildOutput]]
"""Cleaned text by pair (or "mono.fr") and split."""


def prepare(settings: DataSettings, processes: int | None = None, fresh: bool = False) -> Path:
    """Prepares a corpus. The old one stays whole until the new one is; then files are exchanged, the manifest last.

    Args:
        settings: the recipe's ``data`` section.
        processes: worker processes; None: one for each processor.
        fresh: redo everything, also what did not change.

    Returns:
        Path of the manifest.

    Raises:
        UserError: for what the user can mend: a fault of the text, a full disk, another prepare at work.
    """
    directory = Path(settings.directory)
    if settings.unused:
        LOG.warning("prepare: not among the pairs, unused: %s", ", ".join(settings.unused))
    check_language_filter(settings)
    if phrases := open_questions(settings.languages):
        LOG.info("prepare: language codes: %s", "; ".join(phrases))
    with lock_corpus(directory), process_pool(processes) as pool:
        if fresh:
            remove_unused_outputs(directory / "work", [])
        try:
            for written in (directory, *(directory / name for name in ("text", "bin", "tokenizer"))):
                remove_temporary_files(written)  # of a prepare that was killed; the lock keeps others out
            built = _build(settings, directory / "work", pool)
            path = publish_corpus(directory, settings, built)
        except BrokenProcessPool:
            raise UserError(
                f"{directory}: a worker process died (out of memory?); free some memory, or use --processes 1"
            ) from None
        except OSError as error:
            if error.errno is None:
                raise
            reason = os.strerror(error.errno)
            fault = file_fault(error, directory) or f"{error.filename or directory}: {reason}; mend it"
            raise UserError(f"{fault}; then prepare again") from None
        remove_unused_outputs(directory / "work", built.outputs())
    print(prepare_report.summary_table(path))
    return path


def _build(settings: DataSettings, work: Path, pool: Executor) -> BuiltCorpus:
    """Runs all steps, one after another."""
    base_tokenizer = open_recipe_tokenizer(settings)
    origin, clean = _clean_from_best_origin(settings, work, pool)
    if message := pairs_without_key_language(settings):
        LOG.info("prepare: %s", message)
    assignments, held_out_texts = {}, []
    for pair in settings.pairs:
        hashes = {split: load_row_hashes(output, settings.split.seed) for split, output in clean[pair].items()}
        assignments[pair] = assign_splits(settings, hashes)
        held_out_texts.append(held_out_text(pair, hashes, assignments[pair].held_out))
    held_out = join_held_out(held_out_texts)
    texts: dict[str, BuildOutput] = {}
    for pair in settings.pairs:
        selection = build_selected_text(work, settings, pair, clean[pair], assignments.pop(pair), held_out)
        texts[pair] = _announce(f"select {pair}", *selection)
    for lang in settings.monolingual:
        selection = build_monolingual_text(work, settings, lang, clean[f"mono.{lang}"]["train"], held_out)
        texts[f"mono.{lang}"] = _announce(f"select mono.{lang}", *selection)
    to_tokenise = dict(_texts_to_tokenise(texts))
    if base_tokenizer is None:
        made = build_tokenizer(work, pool, settings, list(_tokenizer_texts(settings, texts)))
    else:
        training = list(_tokenizer_texts(settings, texts)) if settings.tokenizer.new_pieces else []
        made = build_given_tokenizer(work, pool, settings, base_tokenizer, list(to_tokenise.values()), training)
    tokenizer = _announce("tokenizer", *made)
    binaries = {
        name: _announce(f"tokenise {name}", *build_binary_dataset(work, pool, name, text, tokenizer))
        for name, text in to_tokenise.items()
    }
    return BuiltCorpus(origin, clean, texts, tokenizer, binaries, _overlap(work, pool, texts),
                       _coverage(work, pool, texts, tokenizer),
                       _languages(work, texts, settings.clean.language_identifier))  # fmt: skip


def _overlap(work: Path, pool: Executor, texts: dict[str, BuildOutput]) -> BuildOutput:
    """Gives the output whose record says how much held-out text the training texts hold."""
    by_name = dict(_texts_to_tokenise(texts))
    fingerprint = fingerprint_of({name: text.hashes for name, text in by_name.items()}, OVERLAP_VERSION)
    if not load_output(work, "overlap", fingerprint):
        with new_output(work, "overlap", fingerprint) as (_, record):
            counts = count_overlap(pool, _language_files(by_name))
            record["overlap"] = {name: overlap._asdict() for name, overlap in counts.items()}
    return finished_output(work, "overlap", fingerprint)


def _coverage(work: Path, pool: Executor, texts: dict[str, BuildOutput], tokenizer: BuildOutput) -> BuildOutput:
    """Gives the output whose record says what the tokenizer cannot say of the texts."""
    by_name = dict(_texts_to_tokenise(texts))
    hashes = {name: (text.hashes, text.languages) for name, text in by_name.items()}
    fingerprint = fingerprint_of(hashes, tokenizer.record["hash"], COVERAGE_VERSION)
    if not load_output(work, "coverage", fingerprint):
        with new_output(work, "coverage", fingerprint) as (_, record):
            files = _language_files(by_name)
            counts = count_coverage(pool, files, tokenizer.directory)
            record["coverage"] = coverage_values(counts)
    return finished_output(work, "coverage", fingerprint)


def _languages(work: Path, texts: dict[str, BuildOutput], identifier: Identifier) -> BuildOutput:
    """Gives the output whose record says which languages the texts seem to be in."""
    by_name = dict(_texts_to_tokenise(texts))
    hashes = {name: (text.hashes, text.languages) for name, text in by_name.items()}
    fingerprint = fingerprint_of(hashes, identifier, identifier_version(identifier), LANGUAGES_VERSION)
    if not load_output(work, "languages", fingerprint):
        with new_output(work, "languages", fingerprint) as (_, record):
            record["languages"] = check_languages(_language_files(by_name), identifier)
    return finished_output(work, "languages", fingerprint)


def _language_files(by_name: dict[str, ParallelText]) -> dict[str, list[LanguageFile]]:
    return {name: list(map(LanguageFile, text.paths, text.languages)) for name, text in by_name.items()}


def _clean_from_best_origin(settings: DataSettings, work: Path, pool: Executor) -> tuple[Origin, CleanText]:
    """Where the text came from, and the cleaned text of every pair."""
    if settings.source != "auto":
        return settings.source, _clean(settings, work, pool, settings.source)
    pairs_with_files = [pair for pair in settings.pairs if settings.files_of(pair).train]
    if pairs_with_files:
        if missing := sorted(set(settings.pairs) - set(pairs_with_files)):
            raise UserError(f"data.corpora: no train files for {', '.join(missing)}; add them, or set data.source")
        return "files", _clean(settings, work, pool, "files")
    outputs = _clean(settings, work, pool, "gettext")
    hashes = {pair: load_row_hashes(outputs[pair]["train"], settings.split.seed) for pair in settings.pairs}
    usable_counts = {pair: int(usable_rows(settings, hashes[pair])[0].sum()) for pair in settings.pairs}
    if not (reason := catalog_shortage(settings, usable_counts)):
        return "gettext", outputs
    LOG.warning("prepare: %s", reason)
    return "cldr", _clean(settings, work, pool, "cldr")


def _clean(settings: DataSettings, work: Path, pool: Executor, origin: Origin) -> CleanText:
    """Cleaned text of every pair and language."""
    outputs: CleanText = {}
    for pair in settings.pairs:
        outputs[pair] = {}
        for split in holdout.SPLITS:
            parts = corpus_parts(settings, pair, split, origin)
            if parts or split == "train":
                frozen = origin == "gettext" and split == "train"
                cleaned = build_clean_text(work, pool, settings, pair, split, parts, frozen)
                outputs[pair][split] = _announce(f"read {pair} {split}", *cleaned)
    for lang in settings.monolingual:
        cleaned = build_clean_text(work, pool, settings, lang, "mono", corpus_parts(settings, lang, "mono", origin))
        outputs[f"mono.{lang}"] = {"train": _announce(f"read mono.{lang}", *cleaned)}
    return outputs


def _tokenizer_texts(settings: DataSettings, texts: dict[str, BuildOutput]) -> Iterator[TrainingText]:
    """What trains the tokenizer: every pair's training text; monolingual text of a language that no pair has."""
    languages_of_pairs = {side for pair in settings.pairs for side in split_pair(pair)}
    for name, output in texts.items():
        languages = _languages_of_text(name)
        for language, suffix in zip(languages, ("src", "tgt"), strict=False):
            if len(languages) == 2 or language not in languages_of_pairs:
                file = f"train.{suffix}"
                lines = TextFile(output.directory / file, output.record["sentences"]["train"])
                yield TrainingText(language, lines, output.sha256(file))


def _texts_to_tokenise(texts: dict[str, BuildOutput]) -> Iterator[tuple[str, ParallelText]]:
    """Names and files of all that gets ids."""
    for name, output in texts.items():
        languages = _languages_of_text(name)
        tags = tuple((str(tag), int(lines)) for tag, lines in output.record.get("tags", ()))
        for split, count in output.record["sentences"].items():
            files = [f"{split}.{suffix}" for _, suffix in zip(languages, ("src", "tgt"), strict=False)]
            paths, hashes = [output.directory / file for file in files], [output.sha256(file) for file in files]
            yield (
                f"{name}.{split}" if len(languages) == 2 else name,
                ParallelText(tuple(paths), languages, tuple(hashes), count, tags if split == "train" else ()),
            )


def _languages_of_text(name: str) -> tuple[str, ...]:
    """The two languages of a pair, or the one of "mono.fr"."""
    return (name.removeprefix("mono."),) if name.startswith("mono.") else split_pair(name)


def _announce(label: str, output: BuildOutput, was_made: bool) -> BuildOutput:
    """The output, with a line for each one that had to be made."""
    if was_made:
        LOG.info("%s: done", label)
    return output

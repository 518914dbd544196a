"""From a recipe's ``data:`` section to a corpus on disk; a second run redoes only what changed.

Stages: 1 read and clean, 2 select (duplicates, held-out sets, limits), 3 tokenizer, 4 ids; then all is published.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mnmt_ds.data import holdout, prepare_report
from mnmt_ds.data.binarize_stage import ParallelText, build_binary_stage
from mnmt_ds.data.build_cache import BuildStage, lock_corpus, remove_unused_stages
from mnmt_ds.data.cleaning_stage import build_cleaned_stage, load_row_hashes
from mnmt_ds.data.manifest import BuiltCorpus, publish_corpus
from mnmt_ds.data.readers.sources import Origin, corpus_parts
from mnmt_ds.data.selection_stage import build_monolingual_stage, build_selection_stage
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.split_assignment import assign_splits, catalog_shortage, held_out_keys, usable_rows
from mnmt_ds.data.tokenizer_stage import TextFile, TrainingText, build_tokenizer_stage
from mnmt_ds.data.worker_pool import process_pool
from mnmt_ds.errors import UserError

CleanStages = dict[str, dict[str, BuildStage]]


def prepare(settings: DataSettings, processes: int | None = None, fresh: bool = False) -> Path:
    """Prepares ``settings.directory`` and returns its manifest's path; UserError for what the user can mend.

    The old corpus stays whole until the new one is; then files are exchanged and the manifest is written last.
    """
    directory = Path(settings.directory)
    if settings.unused:
        print(f"prepare: not among the pairs, unused: {', '.join(settings.unused)}", file=sys.stderr)
    with lock_corpus(directory), process_pool(processes) as pool:
        if fresh:
            remove_unused_stages(directory / "work", [])
        try:
            built = _build(settings, directory / "work", pool)
            path = publish_corpus(directory, settings, built)
        except BrokenProcessPool:
            raise UserError(
                f"{directory}: a worker process died (out of memory?); free some memory, or use --processes 1"
            ) from None
        except OSError as error:
            if error.errno is None:
                raise
            raise UserError(
                f"{error.filename or directory}: {os.strerror(error.errno)}; mend it and prepare again"
            ) from None
        remove_unused_stages(directory / "work", built.stages())
    print(prepare_report.summary_table(path))
    return path


def _build(settings: DataSettings, work: Path, pool: Executor) -> BuiltCorpus:
    origin, clean = _clean_all(settings, work, pool)
    plans, held = {}, []
    for pair in settings.pairs:
        hashes = {which: load_row_hashes(stage) for which, stage in clean[pair].items()}
        plans[pair] = assign_splits(settings, hashes)
        held.append(held_out_keys(hashes, plans[pair]))
    kept_out = holdout.union_of_keys(held)
    texts: dict[str, BuildStage] = {}
    for pair in settings.pairs:
        made = build_selection_stage(work, settings, pair, clean[pair], plans.pop(pair), kept_out)
        texts[pair] = _said(f"select {pair}", *made)
    for lang in settings.monolingual:
        made = build_monolingual_stage(
            work, settings, lang, clean[f"mono.{lang}"]["train"], [texts[pair] for pair in settings.pairs]
        )
        texts[f"mono.{lang}"] = _said(f"select mono.{lang}", *made)
    tokenizer = _said("tokenizer", *build_tokenizer_stage(work, pool, settings, list(_sides(settings, texts))))
    binaries = {
        name: _said(
            f"tokenise {name}",
            *build_binary_stage(work, pool, name, text, tokenizer.directory, tokenizer.record["hash"]),
        )
        for name, text in _texts(texts)
    }
    return BuiltCorpus(origin, clean, texts, tokenizer, binaries)


def _clean_all(settings: DataSettings, work: Path, pool: Executor) -> tuple[Origin, CleanStages]:
    """Where the text came from, and the cleaned text of every pair."""
    if settings.source != "auto":
        return settings.source, _clean(settings, work, pool, settings.source)
    given = [pair for pair in settings.pairs if settings.files_of(pair).train]
    if given:
        if missing := sorted(set(settings.pairs) - set(given)):
            raise UserError(f"data.corpora: no train files for {', '.join(missing)}; add them, or set data.source")
        return "files", _clean(settings, work, pool, "files")
    stages = _clean(settings, work, pool, "gettext")
    counts = {
        pair: int(usable_rows(settings, load_row_hashes(stages[pair]["train"]))[0].sum()) for pair in settings.pairs
    }
    if not (reason := catalog_shortage(settings, counts)):
        return "gettext", stages
    print(f"prepare: {reason}", file=sys.stderr)
    return "cldr", _clean(settings, work, pool, "cldr")


def _clean(settings: DataSettings, work: Path, pool: Executor, origin: Origin) -> CleanStages:
    stages: CleanStages = {}
    for pair in settings.pairs:
        stages[pair] = {}
        for which in holdout.SPLITS:
            parts = corpus_parts(settings, pair, which, origin)
            if parts or which == "train":
                frozen = origin == "gettext" and which == "train"
                made = build_cleaned_stage(work, pool, settings, pair, which, parts, frozen)
                stages[pair][which] = _said(f"read {pair} {which}", *made)
    for lang in settings.monolingual:
        made = build_cleaned_stage(work, pool, settings, lang, "mono", corpus_parts(settings, lang, "mono", origin))
        stages[f"mono.{lang}"] = {"train": _said(f"read mono.{lang}", *made)}
    return stages


def _sides(settings: DataSettings, texts: dict[str, BuildStage]) -> Iterator[TrainingText]:
    """What trains the tokenizer: every pair's training text; monolingual text of a language that no pair has."""
    paired = {side for pair in settings.pairs for side in pair.split("-")}
    for name, stage in texts.items():
        mono = name.removeprefix("mono.") if name.startswith("mono.") else None
        languages = [mono] if mono else name.split("-")
        for language, short in zip(languages, ("src", "tgt"), strict=False):
            if not mono or language not in paired:
                file = f"train.{short}"
                lines = TextFile(stage.directory / file, stage.record["sentences"]["train"])
                yield TrainingText(language, lines, stage.sha256(file))


def _texts(texts: dict[str, BuildStage]) -> Iterator[tuple[str, ParallelText]]:
    """Names and files of all that gets ids."""
    for name, stage in texts.items():
        mono = name.startswith("mono.")
        languages = [name.removeprefix("mono.")] if mono else name.split("-")
        for which, count in stage.record["sentences"].items():
            files = [f"{which}.{short}" for _, short in zip(languages, ("src", "tgt"), strict=False)]
            paths, hashes = [stage.directory / file for file in files], [stage.sha256(file) for file in files]
            yield (
                name if mono else f"{name}.{which}",
                ParallelText(tuple(paths), tuple(languages), tuple(hashes), count),
            )


def _said(what: str, stage: BuildStage, made: bool) -> BuildStage:
    """The stage, with a line for each one that had to be made."""
    if made:
        print(f"{what}: done", file=sys.stderr, flush=True)
    return stage

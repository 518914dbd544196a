"""From a recipe's ``data:`` section to a corpus on disk; a second run redoes only what changed."""

import os
import sys
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mnmt_ds.data import report, split
from mnmt_ds.data.binarize import Text, binarized
from mnmt_ds.data.cleaning import array, cleaned
from mnmt_ds.data.manifest import publish_all
from mnmt_ds.data.parallel import workers
from mnmt_ds.data.readers.sources import Origin, parts_of
from mnmt_ds.data.selection import held_keys, plan, selected, usable
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.stages import Stage, collect_garbage, fingerprint, finished, locked, new_directory
from mnmt_ds.data.tokenizer import JOINT, Tokenizer
from mnmt_ds.data.vocabulary import THREADS, Lines, train
from mnmt_ds.errors import UserError

CleanStages = dict[str, dict[str, Stage]]


def prepare(settings: DataSettings, processes: int | None = None, fresh: bool = False) -> Path:
    """Prepares ``settings.directory`` and returns its manifest's path; UserError for what the user can mend.

    The old corpus stays whole until the new one is; then files are exchanged and the manifest is written last.
    """
    directory = Path(settings.directory)
    work = directory / "work"
    with locked(directory), workers(processes) as pool:
        if fresh:
            collect_garbage(work, [])
        try:
            return _prepared(settings, directory, work, pool)
        except BrokenProcessPool:
            raise UserError(
                f"{directory}: a worker process died (out of memory?); free some memory, or use --processes 1"
            ) from None
        except OSError as error:
            if error.errno is None:
                raise
            raise UserError(f"{error.filename or directory}: {os.strerror(error.errno)}; then prepare again") from None


def _prepared(settings: DataSettings, directory: Path, work: Path, pool: Executor) -> Path:
    origin, stages = _clean_all(settings, work, pool)
    plans = {pair: plan(settings, stages[pair]) for pair in settings.pairs}
    kept_out = split.union([held_keys(stages[pair], plans[pair]) for pair in settings.pairs])
    texts = {
        pair: _said(f"select {pair}", *selected(work, settings, pair, stages[pair], plans[pair], kept_out))
        for pair in settings.pairs
    }
    tokenizer = _tokenizer(settings, work, pool, texts)
    hash_ = Tokenizer.open(tokenizer.directory).hash
    binaries: dict[str, Stage] = {}
    for pair, stage in texts.items():
        for which, count in stage.record["sentences"].items():
            names = (f"{which}.src", f"{which}.tgt")
            source, target = pair.split("-")
            text = Text(
                (stage.directory / names[0], stage.directory / names[1]),
                (source, target),
                (stage.sha256(names[0]), stage.sha256(names[1])),
                count,
            )
            name = f"{pair}.{which}"
            binaries[name] = _said(f"tokenise {name}", *binarized(work, pool, name, text, tokenizer.directory, hash_))
    path = publish_all(directory, settings, origin, stages, texts, tokenizer, binaries)
    used = [stage for by_split in stages.values() for stage in by_split.values()]
    collect_garbage(work, [*used, *texts.values(), tokenizer, *binaries.values()])
    print(report.table(path))
    return path


def _clean_all(settings: DataSettings, work: Path, pool: Executor) -> tuple[Origin, CleanStages]:
    """Where the text came from, and the cleaned text of every pair."""
    if settings.source != "auto":
        return settings.source, _clean(settings, work, pool, settings.source)
    given = [pair for pair in settings.pairs if settings.files_of(pair).train]
    if given:
        missing = sorted(set(settings.pairs) - set(given))
        if missing:
            raise UserError(f"data.corpora: no train files for {', '.join(missing)}; add them, or set data.source")
        return "files", _clean(settings, work, pool, "files")
    stages = _clean(settings, work, pool, "gettext")
    counts = {pair: int(usable(settings, stages[pair]["train"], array(stages[pair]["train"], "pair"))[0].sum())
              for pair in settings.pairs}  # fmt: skip
    few = {pair: count for pair, count in counts.items() if count < settings.min_catalog_pairs}
    if not few:
        return "gettext", stages
    print(
        "prepare: too few sentence pairs in this machine's gettext catalogs ("
        + ", ".join(f"{pair} {count}" for pair, count in few.items())
        + f"; {settings.min_catalog_pairs} wanted). Falling back to Babel's CLDR data for every pair: enough to try"
        " the commands, no evidence for any method.",
        file=sys.stderr,
    )
    return "cldr", _clean(settings, work, pool, "cldr")


def _clean(settings: DataSettings, work: Path, pool: Executor, origin: Origin) -> CleanStages:
    stages: CleanStages = {}
    for pair in settings.pairs:
        stages[pair] = {}
        for which in split.NAMES:
            parts = parts_of(settings, pair, which, origin)
            if parts or which == "train":
                stages[pair][which] = _said(f"read {pair} {which}", *cleaned(work, pool, settings, pair, which, parts))
    return stages


def _tokenizer(settings: DataSettings, work: Path, pool: Executor, texts: dict[str, Stage]) -> Stage:
    """Trained on the training text alone; per language: on all training text in that language."""
    wanted = settings.tokenizer
    sides = [
        (
            language,
            stage.directory / f"train.{short}",
            stage.sha256(f"train.{short}"),
            stage.record["sentences"]["train"],
        )
        for pair, stage in texts.items()
        for language, short in zip(pair.split("-"), ("src", "tgt"), strict=True)
    ]
    print_ = fingerprint(
        wanted.model_dump(mode="json"), settings.languages, THREADS, [(lang, hash_) for lang, _, hash_, _ in sides]
    )
    if stage := finished(work, "tokenizer", print_):
        return _said("tokenizer", stage, False)
    names = [JOINT] if wanted.kind == "joint" else list(settings.languages)
    print(f"training SentencePiece ({wanted.kind}, {wanted.size} pieces)", file=sys.stderr, flush=True)
    jobs = {
        name: pool.submit(
            train,
            [Lines(path, count) for language, path, _, count in sides if name in (JOINT, language)],
            wanted,
            "all languages" if name == JOINT else name,
        )
        for name in names
    }
    with new_directory(work, "tokenizer", print_) as (path, _):
        Tokenizer(settings.languages, {name: job.result() for name, job in jobs.items()}).save_to(path)
    stage = finished(work, "tokenizer", print_)
    assert stage is not None
    return _said("tokenizer", stage, True)


def _said(what: str, stage: Stage, made: bool) -> Stage:
    if made and not sys.stderr.isatty():
        print(f"{what}: done", file=sys.stderr, flush=True)
    return stage

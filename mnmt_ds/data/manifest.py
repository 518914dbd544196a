"""The last step: a finished corpus takes its place, with manifest and report."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data import prepare_report
from mnmt_ds.data.build_cache import BuildOutput
from mnmt_ds.data.corpus import FORMAT, MANIFEST
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.file_integrity import first_altered, read_checked_json, write_checked_json
from mnmt_ds.files import link_or_copy, replacing, write_json, write_text

LOG = logging.getLogger(__name__)
PREVIOUS = ".manifest.previous.json"
"""Name of the old manifest while files are exchanged."""


class BuiltCorpus(NamedTuple):
    """Outputs of all steps of ``mnmt-ds prepare`` for a corpus; monolingual text has names like "mono.fr"."""

    origin: str
    """Where the training text came from: files, gettext or cldr."""
    clean: Mapping[str, Mapping[str, BuildOutput]]
    """Cleaned text by pair and split."""
    texts: Mapping[str, BuildOutput]
    """Selected text by pair."""
    tokenizer: BuildOutput
    """The tokenizer."""
    binaries: Mapping[str, BuildOutput]
    """Ids by "PAIR.SPLIT"."""
    overlap: BuildOutput
    """Counts of held-out text in training text."""
    coverage: BuildOutput
    """What the tokenizer cannot say of the texts."""
    languages: BuildOutput
    """Which languages the texts seem to be in."""

    def outputs(self) -> list[BuildOutput]:
        """Lists the outputs of all steps.

        Returns:
            The outputs that this corpus uses.
        """
        clean = [output for by_split in self.clean.values() for output in by_split.values()]
        counted = [self.overlap, self.coverage, self.languages]
        return [*clean, *self.texts.values(), self.tokenizer, *self.binaries.values(), *counted]


def publish_corpus(directory: Path, settings: DataSettings, built: BuiltCorpus) -> Path:
    """Exchanges the corpus in a directory; meanwhile there is no manifest, so that no half of it is trusted.

    Whatever needs space is done before anything of the old corpus is touched.

    Args:
        directory: the corpus's directory.
        settings: the recipe's ``data`` section.
        built: the outputs of every step for the new corpus.

    Returns:
        Path of the new manifest.
    """
    sources = _published_files(built)
    files = {name: output.record["files"][inner] for name, (output, inner) in sorted(sources.items())}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "hash": _corpus_hash(files),
        "tokenizer_hash": built.tokenizer.record["hash"],
        "vocabulary_size": built.tokenizer.record["size"],
        "sentencepiece": built.tokenizer.record.get("sentencepiece"),
        "origin": built.origin,
        "languages": settings.languages,
        "pairs": {pair: _pair_entry(pair, built) for pair in settings.pairs},
        "monolingual": {lang: _monolingual_entry(f"mono.{lang}", built) for lang in settings.monolingual},
        "held_out_overlap": built.overlap.record["overlap"],
        "tokenizer_coverage": built.coverage.record["coverage"],
        "language_check": built.languages.record["languages"],
        "files": files,
        "settings": settings.model_dump(mode="json"),
    }
    path, previous = directory / MANIFEST, directory / PREVIOUS
    old = _read_manifest(path) or _read_manifest(previous)
    _warn_of_other_sentencepiece(directory, old, manifest)
    with ExitStack() as ready:  # all is written under other names first, so that a full disk changes nothing
        write_checked_json(ready.enter_context(replacing(path)), manifest)  # takes its name last
        write_json(
            ready.enter_context(replacing(directory / "report.json")), prepare_report.corpus_statistics(manifest)
        )
        write_text(ready.enter_context(replacing(directory / "report.md")), prepare_report.markdown_report(manifest))
        if old.get("files") != files or not path.exists() or not _are_whole(directory, files):
            for name, (output, inner) in sources.items():
                if not _is_linked(output.directory / inner, directory / name):
                    link_or_copy(output.directory / inner, ready.enter_context(replacing(directory / name)))
            if path.exists():
                os.replace(path, previous)
            for name in set(old.get("files", {})) - set(files):
                (directory / name).unlink(missing_ok=True)
    previous.unlink(missing_ok=True)
    return path


def _is_linked(source: Path, target: Path) -> bool:
    """Whether both names are of one file; of such two, a rename would leave both."""
    return target.exists() and os.path.samefile(source, target)


def _warn_of_other_sentencepiece(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Says that the vocabulary is another one only because SentencePiece is."""
    versions = [manifest.get("sentencepiece") for manifest in (old, new)]
    if all(versions) and versions[0] != versions[1] and old.get("tokenizer_hash") != new["tokenizer_hash"]:
        LOG.warning(
            "%s: its tokenizer was trained by SentencePiece %s, and is now by %s: another vocabulary; runs on the old"
            " one cannot go on, and dev losses are not comparable", directory, *versions
        )  # fmt: skip


def _published_files(built: BuiltCorpus) -> dict[str, tuple[BuildOutput, str]]:
    """Final names, and whence each file comes."""
    sources: dict[str, tuple[BuildOutput, str]] = {}
    for name, output in built.texts.items():
        for inner in output.record["files"]:
            final = name if name.startswith("mono.") else f"{name}.{inner}"
            sources[f"text/{final}"] = output, inner
    for name, output in built.binaries.items():
        for kind in ("bin", "idx"):
            sources[f"bin/{name}.{kind}"] = output, f"ids.{kind}"
    for inner in built.tokenizer.record["files"]:
        sources[f"tokenizer/{inner}"] = built.tokenizer, inner
    return sources


def _pair_entry(pair: str, built: BuiltCorpus) -> dict[str, Any]:
    clean, text = built.clean[pair], built.texts[pair]
    splits = {}
    for split, count in text.record["sentences"].items():
        source, target = built.binaries[f"{pair}.{split}"].record["tokens"]
        splits[split] = {"sentences": count, "source_tokens": source, "target_tokens": target}
    return {
        "splits": splits,
        "given": {split: clean[split].record["counts"] for split in ("dev", "test") if split in clean},
        **_common_entry(clean, text),
        **({"synthetic": text.record["synthetic"]} if text.record.get("synthetic") else {}),
    }


def _monolingual_entry(name: str, built: BuiltCorpus) -> dict[str, Any]:
    text, tokens = built.texts[name], built.binaries[name].record["tokens"]
    return {
        "sentences": text.record["sentences"]["train"],
        "tokens": tokens[0],
        **_common_entry(built.clean[name], text),
    }


def _common_entry(clean: Mapping[str, BuildOutput], text: BuildOutput) -> dict[str, Any]:
    train = clean["train"].record
    return {
        "counts": {**train["counts"], **text.record["counts"]},
        "places": {split: output.record["places"] for split, output in clean.items()},
        "domains": train["domains"],
        "left_out": train["left_out"],
        "inputs": {split: output.record["inputs"] for split, output in clean.items()},
    }


def _corpus_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([[name, entry["sha256"]] for name, entry in files.items()]).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return read_checked_json(path)
    except (OSError, ValueError):
        return {}


def _are_whole(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every published file is there and holds what it should."""
    try:
        return first_altered({directory / name: entry["sha256"] for name, entry in files.items()}, directory) is None
    except OSError:
        return False

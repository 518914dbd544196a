"""The last step: a finished corpus takes its place, with manifest and report."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data import prepare_report
from mnmt_ds.data.build_cache import BuildStage, publish, write_atomically
from mnmt_ds.data.corpus import FORMAT, MANIFEST
from mnmt_ds.data.settings import DataSettings

PREVIOUS = ".manifest.previous.json"


class BuiltCorpus(NamedTuple):
    """Every stage of a corpus; monolingual text stands as "mono.fr"."""

    origin: str
    clean: Mapping[str, Mapping[str, BuildStage]]
    texts: Mapping[str, BuildStage]
    tokenizer: BuildStage
    binaries: Mapping[str, BuildStage]

    def stages(self) -> list[BuildStage]:
        """All of them."""
        clean = [stage for by_split in self.clean.values() for stage in by_split.values()]
        return [*clean, *self.texts.values(), self.tokenizer, *self.binaries.values()]


def publish_corpus(directory: Path, settings: DataSettings, built: BuiltCorpus) -> Path:
    """Exchanges the corpus in ``directory``; meanwhile there is no manifest, so that no half of it is trusted."""
    sources = _published(built)
    files = {name: stage.record["files"][inner] for name, (stage, inner) in sorted(sources.items())}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "hash": _hash(files),
        "tokenizer_hash": built.tokenizer.record["hash"],
        "vocabulary_size": built.tokenizer.record["size"],
        "origin": built.origin,
        "languages": settings.languages,
        "pairs": {pair: _facts(pair, built) for pair in settings.pairs},
        "monolingual": {lang: _mono_facts(f"mono.{lang}", built) for lang in settings.monolingual},
        "files": files,
        "settings": settings.model_dump(mode="json"),
    }
    path, previous = directory / MANIFEST, directory / PREVIOUS
    old = _read(path) or _read(previous)
    if old.get("files") != files or not path.exists():
        if path.exists():
            os.replace(path, previous)
        for name, (stage, inner) in sources.items():
            publish(stage.directory / inner, directory / name)
        for name in set(old.get("files", {})) - set(files):
            (directory / name).unlink(missing_ok=True)
    write_atomically(
        directory / "report.json",
        json.dumps(prepare_report.corpus_statistics(manifest), indent=1, ensure_ascii=False) + "\n",
    )
    write_atomically(directory / "report.md", prepare_report.markdown_report(manifest))
    write_atomically(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    previous.unlink(missing_ok=True)
    return path


def _published(built: BuiltCorpus) -> dict[str, tuple[BuildStage, str]]:
    """Final names, and whence each file comes."""
    sources: dict[str, tuple[BuildStage, str]] = {}
    for name, stage in built.texts.items():
        for inner in stage.record["files"]:
            final = name if name.startswith("mono.") else f"{name}.{inner}"
            sources[f"text/{final}"] = stage, inner
    for name, stage in built.binaries.items():
        for kind in ("bin", "idx"):
            sources[f"bin/{name}.{kind}"] = stage, f"ids.{kind}"
    for inner in built.tokenizer.record["files"]:
        sources[f"tokenizer/{inner}"] = built.tokenizer, inner
    return sources


def _facts(pair: str, built: BuiltCorpus) -> dict[str, Any]:
    clean, text = built.clean[pair], built.texts[pair]
    splits = {}
    for which, count in text.record["sentences"].items():
        source, target = built.binaries[f"{pair}.{which}"].record["tokens"]
        splits[which] = {"sentences": count, "source_tokens": source, "target_tokens": target}
    return {
        "splits": splits,
        "given": {which: clean[which].record["counts"] for which in ("dev", "test") if which in clean},
        **_common(clean, text),
    }


def _mono_facts(name: str, built: BuiltCorpus) -> dict[str, Any]:
    text, tokens = built.texts[name], built.binaries[name].record["tokens"]
    return {"sentences": text.record["sentences"]["train"], "tokens": tokens[0], **_common(built.clean[name], text)}


def _common(clean: Mapping[str, BuildStage], text: BuildStage) -> dict[str, Any]:
    train = clean["train"].record
    return {
        "counts": {**train["counts"], **text.record["counts"]},
        "places": {which: stage.record["places"] for which, stage in clean.items()},
        "domains": train["domains"],
        "left_out": train["left_out"],
        "inputs": {which: stage.record["inputs"] for which, stage in clean.items()},
    }


def _hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([[name, facts["sha256"]] for name, facts in files.items()]).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

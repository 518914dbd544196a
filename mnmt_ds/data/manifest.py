"""The last step: a finished corpus takes its place, with manifest and report."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnmt_ds.data import report
from mnmt_ds.data.corpus import FORMAT, MANIFEST
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.stages import Stage, publish, write_atomically
from mnmt_ds.data.tokenizer import Tokenizer

PREVIOUS = ".manifest.previous.json"


def publish_all(
    directory: Path,
    settings: DataSettings,
    origin: str,
    stages: Mapping[str, Mapping[str, Stage]],
    texts: Mapping[str, Stage],
    tokenizer: Stage,
    binaries: Mapping[str, Stage],
) -> Path:
    """Exchanges the corpus in ``directory``; while files are exchanged there is no manifest, so that none is trusted."""
    sources: dict[str, tuple[Stage, str]] = {}
    for pair, stage in texts.items():
        for which in stage.record["sentences"]:
            for side in ("src", "tgt"):
                sources[f"text/{pair}.{which}.{side}"] = stage, f"{which}.{side}"
    for name, stage in binaries.items():
        for kind in ("bin", "idx"):
            sources[f"bin/{name}.{kind}"] = stage, f"ids.{kind}"
    for name in tokenizer.record["files"]:
        sources[f"tokenizer/{name}"] = tokenizer, name
    files = {name: stage.record["files"][inner] for name, (stage, inner) in sorted(sources.items())}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "hash": _hash(files),
        "tokenizer_hash": Tokenizer.open(tokenizer.directory).hash,
        "origin": origin,
        "languages": settings.languages,
        "pairs": {pair: _facts(pair, stages[pair], texts[pair], binaries) for pair in texts},
        "monolingual": {},
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
    write_atomically(directory / "report.json", json.dumps(report.facts(manifest), indent=1, ensure_ascii=False) + "\n")
    write_atomically(directory / "report.md", report.markdown(manifest))
    write_atomically(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    previous.unlink(missing_ok=True)
    return path


def _facts(pair: str, stages: Mapping[str, Stage], text: Stage, binaries: Mapping[str, Stage]) -> dict[str, Any]:
    return {
        "splits": {
            which: {
                "sentences": count,
                "source_tokens": binaries[f"{pair}.{which}"].record["tokens"][0],
                "target_tokens": binaries[f"{pair}.{which}"].record["tokens"][1],
            }
            for which, count in text.record["sentences"].items()
        },
        "counts": {**stages["train"].record["counts"], **text.record["counts"]},
        "given": {which: stages[which].record["counts"] for which in ("dev", "test") if which in stages},
        "places": {which: stage.record["places"] for which, stage in stages.items()},
        "domains": stages["train"].record["domains"],
        "left_out": stages["train"].record["left_out"],
        "inputs": {which: stage.record["inputs"] for which, stage in stages.items()},
    }


def _hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([[name, facts["sha256"]] for name, facts in files.items()]).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

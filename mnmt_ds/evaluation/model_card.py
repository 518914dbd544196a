"""What an exported model's README says of it: languages, training data, dev losses, scores with their signatures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.language_codes import canonical_language
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.report import read_report
from mnmt_ds.run_files import data_directory

PARENTS = 3
"""Directories above a model in which its run may be."""


def front_matter(description: Mapping[str, Any], library: str) -> str:
    """Writes the head that model hubs read.

    Args:
        description: the model's ``model.json``.
        library: with which the files are used.

    Returns:
        YAML between two lines of dashes.
    """
    languages = list(
        dict.fromkeys(canonical_language(side) for pair in description["pairs"] for side in split_pair(pair))
    )
    values = {"library_name": library, "pipeline_tag": "translation", "language": languages, "tags": ["mnmt_ds"]}
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def model_card(directory: Path, description: Mapping[str, Any]) -> str:
    """Writes what is known of a model's training and scores.

    Args:
        directory: the model's; of a model within a run the run's reports and corpus are looked into, too.
        description: its ``model.json``.

    Returns:
        Markdown; sections of which nothing is known are left out.
    """
    pairs = description["pairs"]
    sentences, reports = _train_sentences(directory, description), _reports(directory, description)
    dev = description.get("dev") or {}
    facts = {
        "update": "update", "epoch": "epoch", "weights": "sha256", "tokenizer": "tokenizer_hash", "corpus": "data_hash",
        "SentencePiece": "sentencepiece",
    }  # fmt: skip
    known_facts = {name: description[key] for name, key in facts.items() if description.get(key) is not None}
    lines = ["## The model", "", *(f"- {name}: {value}" for name, value in known_facts.items())]
    lines += [f"- mean of the weights of: {each['model']}" for each in description.get("averaged", [])]
    names = ["pair", *(["training sentences"] if sentences else []), *(["dev loss, nats a token"] if dev else [])]
    names += [f"{split} {metric}" for split in reports for metric in ("BLEU", "chrF")]
    rows = []
    for pair in pairs:
        cells = [pair, *([f"{sentences.get(pair, 0):,}"] if sentences else [])]
        cells += [f"{dev[pair]:.3f}" if pair in dev else "–"] if dev else []
        for report in reports.values():
            scores = report["pairs"].get(pair, {})
            cells += [f"{scores[key]:.1f}" if key in scores else "–" for key in ("bleu", "chrf")]
        rows.append(cells)
    if len(names) > 1:
        lines += ["", *("| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names), *rows))]
    signatures = {
        scores[key] for report in reports.values() for scores in report["pairs"].values()
        for key in ("bleu_signature", "chrf_signature") if key in scores
    }  # fmt: skip
    lines += ["", *(f"- `{signature}`" for signature in sorted(signatures))] if signatures else []
    return "\n".join(lines) + "\n"


def _train_sentences(directory: Path, description: Mapping[str, Any]) -> dict[str, int]:
    """Training sentences by pair, where the corpus that the model was trained on is at hand."""
    for run in list(directory.absolute().parents)[:PARENTS]:
        try:
            corpus_directory = data_directory(run)
            corpus = Corpus.open(corpus_directory) if corpus_directory is not None else None
        except UserError:
            continue
        if corpus is not None and corpus.hash == description.get("data_hash"):
            return {pair: entry["splits"]["train"]["sentences"] for pair, entry in corpus.manifest["pairs"].items()}
    return {}


def _reports(directory: Path, description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The run's evaluations of these very weights, by split."""
    reports = {}
    for run in list(directory.absolute().parents)[:PARENTS]:
        for path in sorted((run / "evaluation").glob("*.json")):
            try:
                report = read_report(path)
            except UserError:
                continue
            if report.get("model") is not None and report.get("model") == description.get("sha256"):
                reports[str(report["split"])] = report
    return reports

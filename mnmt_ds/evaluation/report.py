"""A run's translations of its dev or test sets, their scores, and the files that hold both.

``run/evaluation/<checkpoint>.<split>.json`` has the scores; the directory of the same name without ``.json`` has
``<pair>.src``, ``<pair>.hyp`` and ``<pair>.ref``, one sentence a line.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.decoding.beam_search import SearchSettings
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.decoding.translation import hypothesis_text, translate_all
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation import scores
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.evaluation.significance import paired_bootstrap
from mnmt_ds.run_files import data_directory

Texts = dict[str, list[str]]
"""Lines by language pair."""


class EvaluationTask(NamedTuple):
    """What is evaluated, and how."""

    run: Path
    checkpoint: str
    split: str
    pairs: Sequence[str]
    search: SearchSettings
    score: ScoreSettings
    batch_tokens: int = 1024
    """Padded source tokens of a batch."""
    processes: int = 1


def corpus_of(run: Path, given: Path | None, translator: Translator) -> Corpus:
    """The prepared corpus of a run, or the given one; UserError where its tokenizer is not the model's."""
    directory = given or data_directory(run)
    if directory is None:
        raise UserError(f"{run / 'recipe.yaml'}: does not lead to a prepared corpus from here; give --data DIR")
    corpus = Corpus.open(directory)
    wanted = translator.description["tokenizer_hash"]
    if corpus.tokenizer.hash != wanted:
        raise UserError(
            f"{directory}: its tokenizer ({corpus.tokenizer.hash[:12]}) is not the model's ({wanted[:12]});"
            " give the corpus that the model was trained on"
        )
    return corpus


def evaluate(
    task: EvaluationTask, translator: Translator, corpus: Corpus, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Translates (unless the same model did before, with the same settings), scores, writes and returns the report."""
    splits = {pair: corpus.split(pair, task.split) for pair in task.pairs}
    empty = [pair for pair, split in splits.items() if len(split) == 0]
    if empty:
        raise UserError(f"{corpus.directory}: the {task.split} set of {', '.join(empty)} is empty; leave them out")
    for pair in splits:
        for name in task.score.tokenizers:
            scores.bleu_tokenizer(name, pair.partition("-")[2])
    texts = {pair: split.text() for pair, split in splits.items()}
    identity = {
        "model": translator.description.get("sha256"),
        "update": translator.description.get("update"),
        "data_hash": corpus.hash,
        "search": task.search.model_dump(mode="json"),
        "dtype": str(translator.model.embedding.weight.dtype).removeprefix("torch."),
    }
    report: dict[str, Any] = {"checkpoint": task.checkpoint, "split": task.split, **identity, "seconds": 0.0}
    path = report_path(task.run, task.checkpoint, task.split)
    hypotheses = _earlier(path, identity, task.pairs)
    if hypotheses is None:
        begin = time.monotonic()
        pieces = {pair: [split.pieces(i)[0] for i in range(len(split))] for pair, split in splits.items()}
        found = translate_all(translator, pieces, task.search, task.batch_tokens, task.processes, progress)
        report["seconds"] = time.monotonic() - begin
        hypotheses = {
            pair: [hypothesis_text(translator, best[0]) if best else "" for best in rows]
            for pair, rows in found.items()
        }
    else:
        report["seconds"] = read_report(path)["seconds"]
        progress(sum(map(len, hypotheses.values())))
    report["tokenizer_hash"] = corpus.tokenizer.hash
    report["pairs"] = {
        pair: pair_facts(hypotheses[pair], texts[pair][1], pair, corpus, task.score) for pair in task.pairs
    }
    report["macro"] = scores.averages(report["pairs"])
    report["classes"] = scores.class_averages(report["pairs"])
    report["score"] = task.score.model_dump(mode="json")
    for old in path.with_suffix("").glob("*"):
        old.unlink()
    write_lines(path.with_suffix(""), "src", {pair: text[0] for pair, text in texts.items()})
    write_lines(path.with_suffix(""), "ref", {pair: text[1] for pair, text in texts.items()})
    write_lines(path.with_suffix(""), "hyp", hypotheses)
    write_report(path, report)
    return report


def pair_facts(
    hypotheses: Sequence[str], references: Sequence[str], pair: str, corpus: Corpus, settings: ScoreSettings
) -> dict[str, Any]:
    """Scores of a pair, and how much it was trained on."""
    size = int(corpus.manifest["pairs"][pair]["splits"].get("train", {}).get("sentences", 0))
    facts = scores.score_pair(hypotheses, references, pair.partition("-")[2], settings)
    return {**facts, "train_sentences": size, "class": scores.resource_class(size, settings)}


def compare_with(
    run: Path, other: Path, checkpoint: str, split: str, settings: ScoreSettings, other_checkpoint: str | None = None
) -> dict[str, Any]:
    """Paired bootstrap of one evaluated run against another; UserError where the other has no such evaluation."""
    path = report_path(other, other_checkpoint or checkpoint, split)
    if not path.exists():
        raise UserError(f"{path}: not evaluated yet; run mnmt-ds evaluate {other} --split {split} first")
    ours, theirs = report_path(run, checkpoint, split).with_suffix(""), path.with_suffix("")
    references, others = read_lines(ours, "ref"), read_lines(theirs, "ref")
    shared = [pair for pair in references if pair in others]
    strange = [pair for pair in shared if references[pair] != others[pair]]
    if strange or not shared:
        raise UserError(
            f"{theirs}: other test sentences than {ours}"
            + (f" ({', '.join(strange)})" if strange else "")
            + "; compare runs on the same data"
        )
    found = paired_bootstrap(
        [read_lines(ours, "hyp")], [read_lines(theirs, "hyp")], {pair: references[pair] for pair in shared}, settings
    )
    tables = {metric: {pair: row._asdict() for pair, row in rows.items()} for metric, rows in found.items()}
    return {"run": str(other), "samples": settings.samples, "seed": settings.seed, **tables}


def report_path(run: Path, checkpoint: str, split: str) -> Path:
    """Where the scores of a checkpoint are."""
    return run / "evaluation" / f"{checkpoint}.{split}.json"


def read_report(path: Path) -> dict[str, Any]:
    """A written report; UserError where it cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable report ({error}); evaluate again with --fresh") from None


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_lines(directory: Path, kind: str, texts: Mapping[str, Sequence[str]]) -> None:
    """One file a pair, ``<pair>.<kind>``, one sentence a line."""
    directory.mkdir(parents=True, exist_ok=True)
    for pair, lines in texts.items():
        (directory / f"{pair}.{kind}").write_bytes("".join(f"{line}\n" for line in lines).encode())


def read_lines(directory: Path, kind: str) -> Texts:
    """What ``write_lines`` wrote."""
    paths = sorted(directory.glob(f"*.{kind}"))
    return {path.name.removesuffix(f".{kind}"): path.read_bytes().decode().split("\n")[:-1] for path in paths}


def _earlier(path: Path, identity: Mapping[str, Any], pairs: Sequence[str]) -> Texts | None:
    """Hypotheses of an earlier evaluation of the same model with the same search, if all pairs are there."""
    if not path.exists() or identity["model"] is None:
        return None
    report = read_report(path)
    if any(report.get(key) != value for key, value in identity.items()):
        return None
    texts = read_lines(path.with_suffix(""), "hyp")
    counts = {pair: facts.get("sentences") for pair, facts in report.get("pairs", {}).items()}
    if any(len(texts.get(pair, ())) != counts.get(pair, -1) for pair in pairs):
        return None
    return {pair: texts[pair] for pair in pairs}

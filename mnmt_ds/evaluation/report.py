"""A run's translations of its dev or test sets, their scores, and the files that hold both.

``run/evaluation/<checkpoint>.<split>.json`` has the scores; the directory of the same name without ``.json`` has
``<pair>.src``, ``<pair>.hyp`` and ``<pair>.ref``, one sentence a line.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.decoding.beam_search import BeamSettings
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.decoding.translation import hypothesis_text, translate_all
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation import scores
from mnmt_ds.evaluation.comparability import unlike_translations
from mnmt_ds.evaluation.report_json import ReportJson
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.evaluation.significance import paired_bootstrap
from mnmt_ds.evaluation.tokenised_text import tokenised_lines
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from mnmt_ds.files import replacing_directory, sha256, write_bytes
from mnmt_ds.json_files import reason
from mnmt_ds.run_files import RECIPE, data_directory

LOG = logging.getLogger(__name__)
INSENSITIVE = ("none", "char")
"""BLEU tokenizers to which it is all the same whether the text is tokenised."""
Texts = dict[str, list[str]]
"""Lines by language pair."""


class EvaluationTask(NamedTuple):
    """Settings of one evaluation: which sets are translated, and how."""

    run: Path
    checkpoint: str
    split: str
    pairs: Sequence[str]
    search: BeamSettings
    score: ScoreSettings
    batch_tokens: int = 1024
    """Padded source tokens of a batch."""
    processes: int = 1
    fresh: bool = False
    """Whether an earlier evaluation's translations are left aside."""


def open_evaluation_corpus(run: Path, corpus_directory: Path | None, translator: Translator) -> Corpus:
    """Opens the prepared corpus whose dev and test sets are to be translated.

    Args:
        run: the run's directory.
        corpus_directory: a corpus named by the user; None: the one that the run's recipe names.
        translator: the model; its tokenizer must be the corpus's.

    Returns:
        The corpus.

    Raises:
        UserError: where no corpus is found, or its tokenizer is another one.
    """
    directory = corpus_directory or data_directory(run)
    if directory is None:
        raise UserError(f"{run / RECIPE}: does not lead to a prepared corpus from here; give --data DIR")
    corpus = Corpus.open(directory)
    expected_hash = translator.description["tokenizer_hash"]
    if corpus.tokenizer.hash != expected_hash:
        raise UserError(
            f"{directory}: its tokenizer ({corpus.tokenizer.hash[:12]}) is not the model's ({expected_hash[:12]});"
            " give the corpus that the model was trained on"
        )
    trained_on = translator.description.get("data_hash", corpus.hash)
    if trained_on != corpus.hash:
        LOG.warning(
            "%s: not the text that %s was trained on (%s, not %s), though of the same tokenizer: the model may have"
            " been trained on sentences of this test set", directory, run, corpus.hash[:12], trained_on[:12]
        )  # fmt: skip
    return corpus


def evaluate(
    task: EvaluationTask, translator: Translator, corpus: Corpus, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Translates, scores and writes a report; translations of the same model with the same search are used again.

    Args:
        task: what is evaluated, and how.
        translator: the model.
        corpus: where the test sets come from.
        progress: called with the number of sentences translated, batch by batch.

    Returns:
        The report, as it was written to ``report_path``.

    Raises:
        UserError: where a test set is empty or a BLEU tokenizer cannot be had.
    """
    splits = {pair: corpus.split(pair, task.split) for pair in task.pairs}
    empty = [pair for pair, split in splits.items() if len(split) == 0]
    if empty:
        raise UserError(f"{corpus.directory}: the {task.split} set of {', '.join(empty)} is empty; leave them out")
    for pair in splits:
        for name in task.score.tokenizers:
            scores.bleu_tokenizer(name, split_pair(pair)[1])
    texts = {pair: split.text() for pair, split in splits.items()}
    identity = {
        "model": translator.weights_hash,
        "update": translator.description.get("update"),
        "data_hash": corpus.hash,
        **decoding_facts(task.search, translator),
    }
    report: dict[str, Any] = {"checkpoint": task.checkpoint, "split": task.split, **identity, "seconds": 0.0}
    path = report_path(task.run, task.checkpoint, task.split)
    hypotheses = None if task.fresh else _earlier_hypotheses(path, identity, task.pairs)
    if hypotheses is None:
        begin = time.monotonic()
        pieces = {pair: [split.pieces(i)[0] for i in range(len(split))] for pair, split in splits.items()}
        translations = translate_all(translator, pieces, task.search, task.batch_tokens, task.processes, progress)
        report["seconds"] = time.monotonic() - begin
        hypotheses = {
            pair: [hypothesis_text(translator, best[0]) if best else "" for best in rows]
            for pair, rows in translations.items()
        }
    else:
        report["seconds"] = read_report(path)["seconds"]
        progress(sum(map(len, hypotheses.values())))
    report["tokenizer_hash"] = corpus.tokenizer.hash
    report["pairs"] = {
        pair: score_report_of_pair(hypotheses[pair], texts[pair], pair, corpus, task) for pair in task.pairs
    }
    report["macro"] = scores.macro_averages(report["pairs"], scores.AVERAGED)
    report["classes"] = scores.class_averages(report["pairs"])
    report["score"] = task.score.model_dump(mode="json")
    with replacing_directory(path.with_suffix("")) as lines:  # all is written before anything is replaced
        write_lines(lines, "src", {pair: text[0] for pair, text in texts.items()})
        write_lines(lines, "ref", {pair: text[1] for pair, text in texts.items()})
        write_lines(lines, "hyp", hypotheses)
        write_report(path, report, lines)
    for line in text_warnings(report, path):
        LOG.warning("%s", line)
    return report


def decoding_facts(search: BeamSettings, translator: Translator) -> dict[str, Any]:
    """Collects how a model's translations are made, for the report.

    Args:
        search: beam, length penalty and limits.
        translator: the model.

    Returns:
        ``search`` and ``dtype``.
    """
    dtype = str(translator.model.embedding.weight.dtype).removeprefix("torch.")
    return {"search": search.model_dump(mode="json"), "dtype": dtype}


def text_warnings(report: Mapping[str, Any], path: Path) -> list[str]:
    """Lists the texts of an evaluation that make its scores hard to compare with others'.

    Args:
        report: the report.
        path: its file; the texts are beside it.

    Returns:
        A line a pair and kind of fault.
    """
    lines = []
    for pair, facts in report["pairs"].items():
        counts = facts.get("tokenised") or {}
        for kind in (kind for kind in ("ref", "hyp") if counts.get(kind)):
            noun = {"ref": "references", "hyp": "translations"}[kind]
            lines.append(
                f"{path.with_suffix('') / f'{pair}.{kind}'}: {counts[kind]:,} of {facts['sentences']:,} {noun} of"
                f" {pair} look tokenised ('word .'): BLEU by {facts['bleu_tokenizer']} of tokenised text is not"
                " comparable with published scores; give text as people write it, or take --tokenizers none"
            )
        if facts.get("empty_sides"):
            lines.append(
                f"{path.with_suffix('') / pair}.*: {facts['empty_sides']:,} of {facts['sentences']:,} sentences of"
                f" {pair} have an empty source or reference; kept, so that the lines are those of the test set"
            )
    return lines


def score_report_of_pair(
    hypotheses: Sequence[str], texts: tuple[Sequence[str], Sequence[str]], pair: str, corpus: Corpus,
    task: EvaluationTask,
) -> dict[str, Any]:  # fmt: skip
    """Scores one pair, and adds how much it was trained on, what its tokenizer can reach, and what its texts are.

    Args:
        hypotheses: translations, one a sentence.
        texts: sources and references.
        pair: source and target language, such as ``bs-en``.
        corpus: its manifest knows the pair's training sentences.
        task: how it is scored.

    Returns:
        What ``scores.score_pair`` gives, with train_sentences and class, ceilings (the references' own scores after the
        tokenizer's round trip), hashes of both texts, and counts of lines that look tokenised or have an empty side.
    """
    (sources, references), target, settings = texts, split_pair(pair)[1], task.score
    size = int(corpus.manifest["pairs"][pair]["splits"].get("train", {}).get("sentences", 0))
    facts = scores.score_pair(hypotheses, references, target, settings)
    reachable = corpus.tokenizer.round_trip(references, target, without_unknown=task.search.ban_unknown)
    counts = {"ref": tokenised_lines(references), "hyp": tokenised_lines(hypotheses)}
    return {
        **facts,
        **scores.ceilings(reachable, references, facts["bleu_tokenizer"]),
        "train_sentences": size,
        "class": scores.resource_class(size, settings),
        "source_hash": text_hash(sources),
        "reference_hash": text_hash(references),
        "tokenised": {} if facts["bleu_tokenizer"] in INSENSITIVE else {k: n for k, n in counts.items() if n},
        "empty_sides": sum(not (source and reference) for source, reference in zip(sources, references, strict=True)),
    }


def with_text_hashes(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """Adds the hashes of sources and references that an older report lacks, from the texts beside it.

    Args:
        report: a report.
        path: its file.

    Returns:
        The report; as it is where it has hashes, or the texts are not there.
    """
    for kind, key in (("src", "source_hash"), ("ref", "reference_hash")):
        if any(key not in facts for facts in report.get("pairs", {}).values()):
            texts = read_lines(path.with_suffix(""), kind)
            for pair, facts in report["pairs"].items():
                if pair in texts:
                    facts.setdefault(key, text_hash(texts[pair]))
    return report


def text_hash(lines: Sequence[str]) -> str:
    """Hashes a text.

    Args:
        lines: its sentences.

    Returns:
        SHA-256 of the file that ``write_lines`` makes of them.
    """
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def bootstrap_against(
    run: Path, other: Path, checkpoint: str, split: str, settings: ScoreSettings, other_checkpoint: str | None = None
) -> dict[str, Any]:
    """Compares an evaluated run with another one by paired bootstrap.

    Args:
        run: the run.
        other: the run that it is compared with.
        checkpoint: name of the run's evaluated checkpoint.
        split: dev or test.
        settings: resamples, seed and BLEU tokenizer.
        other_checkpoint: the other run's checkpoint; None: the same name.

    Returns:
        The other run, samples, seed, and for bleu and chrf the differences by pair and ``macro``.

    Raises:
        UserError: where the other run has no such evaluation, or other test sentences, or was translated otherwise.
    """
    path = report_path(other, other_checkpoint or checkpoint, split)
    if not path.exists():
        raise UserError(f"{path}: not evaluated yet; run mnmt-ds evaluate {other} --split {split} first")
    run_lines, other_lines = report_path(run, checkpoint, split).with_suffix(""), path.with_suffix("")
    references, others = read_lines(run_lines, "ref"), read_lines(other_lines, "ref")
    shared = [pair for pair in references if pair in others]
    differing = [pair for pair in shared if references[pair] != others[pair]]
    if differing or not shared:
        raise UserError(
            f"{other_lines}: other test sentences than {run_lines}"
            + (f" ({', '.join(differing)})" if differing else "")
            + "; compare runs on the same data"
        )
    check_translated_alike(read_report(report_path(run, checkpoint, split)), read_report(path), shared, path)
    differences = paired_bootstrap(
        [read_lines(run_lines, "hyp")],
        [read_lines(other_lines, "hyp")],
        {pair: references[pair] for pair in shared},
        settings,
    )
    tables = {metric: {pair: row._asdict() for pair, row in rows.items()} for metric, rows in differences.items()}
    return {"run": str(other), "samples": settings.samples, "seed": settings.seed, **tables}


def check_translated_alike(
    candidate: Mapping[str, Any], baseline: Mapping[str, Any], pairs: Sequence[str], path: Path
) -> None:
    """Refuses to compare translations that were not searched for alike.

    Args:
        candidate: a report, or what will stand in one: ``search``, ``dtype`` and ``pairs``.
        baseline: the report of the run that it is compared with.
        pairs: to compare.
        path: the other report's file, for messages.

    Raises:
        UserError: names what differs.
    """
    for pair in pairs:
        if reasons := unlike_translations(candidate, baseline, pair):
            raise UserError(
                f"{path}: not comparable, here: {'; '.join(reasons)} as there; evaluate both runs with the same options"
            )


def report_path(run: Path, checkpoint: str, split: str) -> Path:
    """Returns the path of a checkpoint's scores.

    Args:
        run: the run's directory.
        checkpoint: such as ``best``.
        split: dev or test.

    Returns:
        Path of the JSON file; texts are in the directory of the same name without its ending.
    """
    return run / "evaluation" / f"{checkpoint}.{split}.json"


def ensemble_checkpoint(checkpoint: str, translator: Translator) -> str:
    """Names the report of an ensemble, so that it stands beside that of the first model alone.

    Args:
        checkpoint: of the first model, such as ``best``.
        translator: the ensemble.

    Returns:
        ``best.ensemble-`` and eight digits that depend on the models' weights, not on their order.
    """
    hashes = sorted(str(each.description.get("sha256")) for each in (translator, *translator.ensemble))
    return f"{checkpoint}.ensemble-{hashlib.sha256('+'.join(hashes).encode()).hexdigest()[:8]}"


def read_report(path: Path) -> dict[str, Any]:
    """Reads a written report.

    Args:
        path: from ``report_path``.

    Returns:
        The report.

    Raises:
        UserError: where it cannot be read, or was altered.
    """
    try:
        return read_checked_json(path, ReportJson)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable report ({reason(error)}); evaluate again with --fresh") from None


def read_verified_report(path: Path) -> dict[str, Any]:
    """Reads a written report and checks that the texts beside it are those that it is about.

    Args:
        path: from ``report_path``.

    Returns:
        The report.

    Raises:
        UserError: where it cannot be read, or it or a text was altered.
    """
    for kind in ("src", "ref", "hyp"):
        read_lines(path.with_suffix(""), kind)
    return read_report(path)


def write_report(path: Path, report: Mapping[str, Any], texts: Path | None = None) -> None:
    """Writes a report, whole or not at all, with the hashes of the texts that it is about.

    Args:
        path: from ``report_path``.
        report: what can be written as JSON.
        texts: where the texts are written already; None: beside the report.
    """
    hashes = {text.name: sha256(text) for text in sorted((texts or path.with_suffix("")).glob("*"))}
    write_checked_json(path, {**report, "files": hashes})


def write_lines(directory: Path, kind: str, texts: Mapping[str, Sequence[str]]) -> None:
    """Writes one file a pair, ``<pair>.<kind>``, one sentence a line.

    Args:
        directory: where the files go; it is made where it is missing.
        kind: src, ref or hyp.
        texts: sentences by pair.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for pair, lines in texts.items():
        write_bytes(directory / f"{pair}.{kind}", "".join(f"{line}\n" for line in lines).encode())


def read_lines(directory: Path, kind: str) -> Texts:
    """Reads what ``write_lines`` wrote.

    Args:
        directory: where the files are.
        kind: src, ref or hyp.

    Returns:
        Sentences by pair; empty where there are no files.

    Raises:
        UserError: that names a file that is not the one of which the report beside the directory tells.
    """
    report = directory.with_name(f"{directory.name}.json")
    hashes = read_report(report).get("files") if report.exists() else None
    texts = {}
    for path in sorted(directory.glob(f"*.{kind}")):
        if hashes is not None and sha256(path) != hashes.get(path.name):
            raise UserError(f"{path}: altered since it was evaluated; evaluate again with --fresh")
        texts[path.name.removesuffix(f".{kind}")] = _lines(path)
    for name in hashes or ():
        if name.endswith(f".{kind}") and name.removesuffix(f".{kind}") not in texts:
            raise UserError(f"{directory / name}: is missing; evaluate again with --fresh")
    return texts


def _lines(path: Path) -> list[str]:
    """A file's lines; UserError where it is no UTF-8."""
    content = path.read_bytes()
    try:
        return content.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8; a file was changed: evaluate again with --fresh") from None


def _earlier_hypotheses(path: Path, identity: Mapping[str, Any], pairs: Sequence[str]) -> Texts | None:
    """Hypotheses of an earlier evaluation of the same model with the same search, if all pairs are there."""
    if not path.exists() or identity["model"] is None:
        return None
    try:
        report, texts = read_report(path), read_lines(path.with_suffix(""), "hyp")
    except UserError as error:
        LOG.warning("%s: doing so", error)
        return None
    search = {
        **BeamSettings().model_dump(mode="json"),
        **(report.get("search") or {}),
    }  # what came later: default
    if any({**report, "search": search}.get(key) != value for key, value in identity.items()):
        return None
    counts = {pair: facts.get("sentences") for pair, facts in report.get("pairs", {}).items()}
    if any(len(texts.get(pair, ())) != counts.get(pair, -1) for pair in pairs):
        return None
    return {pair: texts[pair] for pair in pairs}

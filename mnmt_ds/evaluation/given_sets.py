"""Test sets that are given as files: a source and one or several references, scored by any metric."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mnmt_ds.data.language_codes import may_be_same
from mnmt_ds.data.language_identifiers import IDENTIFIERS, Identifier, check_installed, is_known
from mnmt_ds.data.readers.lines import read_lines
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.scores import MORE_METRICS, ScoreSettings, bleu_tokenizer, make_metric, sentence_chrf

LONGEST_LINE = 1_000_000
"""Bytes of a line that are read at most."""


class MetricValue(NamedTuple):
    """Score of a corpus by one metric."""

    name: str
    """As people write it: BLEU, spBLEU, chrF, chrF++, TER."""
    value: float
    signature: str


def read_text(path: str) -> list[str]:
    """Reads a file of sentences, one a line.

    Args:
        path: UTF-8 text, perhaps compressed or in a zip archive.

    Returns:
        Its lines; a carriage return before the line's end is no part of them.

    Raises:
        UserError: when it cannot be read, or a line is not UTF-8 or too long.
    """
    lines = []
    for number, line in enumerate(read_lines(path, LONGEST_LINE), 1):
        if line is None:
            raise UserError(f"{path}:{number}: a line of more than {LONGEST_LINE} bytes; is this a text file?")
        try:
            lines.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: byte {error.start + 1} is not UTF-8; convert the file") from None
    return lines


def read_given_set(paths: Sequence[str]) -> list[list[str]]:
    """Reads a source and its references.

    Args:
        paths: the source's file, then one a reference.

    Returns:
        Their lines, each file's as many as the source's.

    Raises:
        UserError: when a file cannot be read, is empty, or has another number of lines.
    """
    texts = [read_text(path) for path in paths]
    if not texts[0]:
        raise UserError(f"{paths[0]}: is empty; give a test set")
    for path, text in zip(paths, texts, strict=True):
        if len(text) != len(texts[0]):
            raise UserError(f"{path}: has {len(text)} lines, but {paths[0]} has {len(texts[0])}; give parallel files")
    return texts


def metric_values(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], target: str, settings: ScoreSettings
) -> list[MetricValue]:
    """Scores translations by all metrics that are asked for.

    Args:
        hypotheses: translations, one a sentence.
        references: one or several texts of as many lines.
        target: code of the target language.
        settings: BLEU's tokenizers, and further metrics.

    Returns:
        BLEU by each tokenizer, chrF, then the further metrics.

    Raises:
        UserError: where a tokenizer cannot be had.
    """
    tokenizers = dict.fromkeys(bleu_tokenizer(name, target) for name in settings.tokenizers)
    metrics = [("spBLEU" if name.startswith("flores") else "BLEU", make_metric("bleu", name)) for name in tokenizers]
    metrics += [("chrF", make_metric("chrf", ""))]
    metrics += [(MORE_METRICS[name], make_metric(name, "")) for name in settings.metrics]
    values = []
    for name, metric in metrics:
        score = metric.corpus_score(list(hypotheses), [list(text) for text in references])
        values.append(MetricValue(name, float(score.score), str(metric.get_signature())))
    return values


def off_target_rate(texts: Sequence[str], target: str, identify: Callable[[str], str]) -> float:
    """Measures how many texts are in another language than they should be.

    Args:
        texts: sentences; empty ones do not count.
        target: code of the language in which they should be.
        identify: says a text's language.

    Returns:
        The share of texts in another language, 0 to 1; 0 where there is no text.
    """
    is_target_language = [may_be_same(identify(text), target) for text in texts if text.strip()]
    return is_target_language.count(False) / len(is_target_language) if is_target_language else 0.0


def language_identifier(identifier: Identifier, target: str) -> Callable[[str], str]:
    """Returns the function that identifies languages.

    Args:
        identifier: who is asked.
        target: the language that texts should be in.

    Returns:
        A function from a text to its language's code.

    Raises:
        UserError: where the identifier is not installed, or does not know the language.
    """
    check_installed(identifier, "--off-target:")
    if not is_known(target, identifier):
        raise UserError(
            f"--off-target: {identifier} does not know {target}; take the other identifier, or leave it out"
        )
    return lambda text: IDENTIFIERS[identifier].identify(text)[0]


def sample_rows(
    texts: Sequence[Sequence[str]], hypotheses: Sequence[str], count: int
) -> list[tuple[float, int, str, str, str]]:
    """Picks sentences from the worst to the best.

    Args:
        texts: the source, then the references.
        hypotheses: translations.
        count: how many sentences.

    Returns:
        chrF against the first reference, line from 1, source, reference and translation, evenly spread in the order of
        chrF, the lowest first.
    """
    scored = sorted((sentence_chrf(line, texts[1][i]), i) for i, line in enumerate(hypotheses))
    count = min(count, len(scored))
    rows = []
    for number in range(count):
        chrf, line = scored[round(number * (len(scored) - 1) / max(1, count - 1))]
        rows.append((chrf, line + 1, texts[0][line], texts[1][line], hypotheses[line]))
    return rows


def write_given_set(directory: Path, pair: str, texts: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> None:
    """Writes a set and its translations, one file each.

    Args:
        directory: where the files go: ``<pair>.src``, ``<pair>.hyp``, ``<pair>.ref`` (``.ref1``, … of several).
        pair: source and target language.
        texts: the source, then the references.
        hypotheses: translations.
    """
    from mnmt_ds.files import write_bytes

    directory.mkdir(parents=True, exist_ok=True)
    kinds = ["src", *(["ref"] if len(texts) == 2 else [f"ref{number}" for number in range(1, len(texts))]), "hyp"]
    for kind, lines in zip(kinds, [*texts, hypotheses], strict=True):
        write_bytes(directory / f"{pair}.{kind}", "".join(f"{line}\n" for line in lines).encode())

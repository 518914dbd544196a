"""Scores of a model on test files that are named on the command line."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mnmt_ds.cli.translate import open_ensemble, processes, search_settings

if TYPE_CHECKING:
    from mnmt_ds.decoding.loading import Translator
    from mnmt_ds.evaluation.scores import ScoreSettings

LOG = logging.getLogger(__name__)


def evaluate_files(args: argparse.Namespace, score: "ScoreSettings") -> int:
    """Translates a source, or takes its translations from a file, scores them and prints a table.

    Args:
        args: the parsed arguments; ``test`` has the source's file, then those of the references.
        score: tokenizers and metrics.

    Returns:
        The exit code.

    Raises:
        UserError: where files or arguments do not fit together, or there is no such model.
    """
    from mnmt_ds.data.language_pairs import is_pair, split_pair
    from mnmt_ds.distributed import uses_gpu
    from mnmt_ds.errors import UserError
    from mnmt_ds.evaluation import given_sets
    from mnmt_ds.evaluation.comet import comet_score, open_comet
    from mnmt_ds.evaluation.scores import bleu_tokenizer

    if not args.pairs or not is_pair(args.pairs):
        raise UserError("--test: needs --pairs with the one pair that the files are of, such as --pairs fr-en")
    if len(args.test) < 2:
        raise UserError(f"--test {args.test[0]}: needs a reference, too: --test SOURCE REFERENCE [REFERENCE ...]")
    if args.ensemble and args.hypotheses is not None:
        raise UserError("--ensemble: no model translates with --hypotheses; leave one of both out")
    if args.against is not None:
        raise UserError("--against: compares runs on their corpus; leave it out, or leave out --test")
    target = split_pair(args.pairs)[1]
    for name in score.tokenizers:  # before anything is translated
        bleu_tokenizer(name, target)
    comet = open_comet(args.comet, args.comet_python) if args.comet is not None else None
    identify = given_sets.language_identifier(args.off_target, target) if args.off_target else None
    texts = given_sets.read_given_set([str(path) for path in args.test])
    if args.hypotheses:
        hypotheses = given_sets.read_given_set([str(args.test[0]), str(args.hypotheses)])[1]
    else:
        hypotheses = _translations(args, texts[0])
    values = given_sets.metric_values(hypotheses, texts[1:], target, score)
    if comet is not None:  # which takes one reference
        values.append(comet_score(comet, texts[0], hypotheses, texts[1], gpus=int(uses_gpu())))
    print(f"{args.pairs}: {len(hypotheses):,} sentences, {len(texts) - 1} reference(s)")
    for value in values:
        print(f"{value.name:<8}{value.value:>8.2f}   {value.signature}")
    if identify is not None:
        rates = [given_sets.off_target_rate(lines, target, identify) for lines in (hypotheses, texts[1])]
        print(f"off-target {rates[0]:.2%} of the translations, {rates[1]:.2%} of the references, by {args.off_target}")
    for chrf, line, *sides in given_sets.sample_rows(texts, hypotheses, args.show):
        print(f"\nline {line}, chrF {chrf:.1f}")
        for name, side in zip(("source", "reference", "translation"), sides, strict=True):
            print(f"  {name:<13}{side}")
    if args.output is not None:
        given_sets.write_given_set(args.output, args.pairs, texts, hypotheses)
        print(f"written: {args.output}")
    return 0


def _translations(args: argparse.Namespace, sources: list[str]) -> list[str]:
    """The model's best translation of every line."""
    from mnmt_ds.data.language_pairs import split_pair
    from mnmt_ds.data.worker_pool import ProgressBar
    from mnmt_ds.decoding.loading import warn_untrained_pair
    from mnmt_ds.decoding.translation import hypothesis_text, translate_all

    translator = open_ensemble(args, args.pairs, _model(args.directory, args.checkpoint), args.data)
    for each in (translator, *translator.ensemble):
        warn_untrained_pair(each, args.pairs)
    pieces = translator.tokenizer.encode_many(sources, split_pair(args.pairs)[0])
    _warn_of_cuts(args, translator, [len(ids) for ids in pieces])
    with ProgressBar(f"evaluate {args.pairs}", "sentences", len(sources)) as progress:
        rows = translate_all(
            translator, {args.pairs: pieces}, search_settings(args), args.batch_tokens,
            processes(args, translator, len(sources)), progress.add,
        )[args.pairs]  # fmt: skip
    return [hypothesis_text(translator, row[0]) if row else "" for row in rows]


def _warn_of_cuts(args: argparse.Namespace, translator: "Translator", lengths: list[int]) -> None:
    room = translator.max_positions - translator.frame(args.pairs).source_extra
    cut = [number for number, length in enumerate(lengths, 1) if length > room]
    if cut:
        LOG.warning("%s: %d line(s) have more pieces than the model has positions, the first is line %d; their ends are"
                    " left out", args.test[0], len(cut), cut[0])  # fmt: skip


def _model(directory: Path, checkpoint: str) -> Path:
    """The model that is meant: a run's checkpoint, or a model directory itself."""
    return directory / checkpoint if (directory / checkpoint / "model.json").exists() else directory

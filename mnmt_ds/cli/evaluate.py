"""Translate a run's dev or test sets and score them: BLEU and chrF per pair, with signatures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnmt_ds.cli.translate import (
    add_ensemble_argument,
    add_search_arguments,
    open_ensemble,
    processes,
    search_settings,
)
from mnmt_ds.config.paths import path_option

if TYPE_CHECKING:
    from mnmt_ds.evaluation.comet import CometModel
    from mnmt_ds.evaluation.scores import ScoreSettings

HELP = "BLEU and chrF of a run, per language pair, also against another run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import setting_option
    from mnmt_ds.evaluation.scores import TOKENIZERS, ScoreSettings

    default = ScoreSettings()
    parser.add_argument(
        "directory", type=path_option, metavar="RUN", help="run directory; with --test also a model directory"
    )
    _add_test_arguments(parser)
    parser.add_argument("--checkpoint", default="best", help="best, best_<pair>, last… (default: %(default)s)")
    add_ensemble_argument(parser)
    parser.add_argument("--split", default="test", help="dev or test (default: %(default)s)")
    parser.add_argument("--pairs", help="bs-en,mr-en… (default: the run's)")
    parser.add_argument("--data", type=path_option, help="prepared corpus (default: the recipe's)")
    parser.add_argument(
        "--against", type=path_option, metavar="RUN", help="paired bootstrap against another evaluated run"
    )
    parser.add_argument("--against-checkpoint", metavar="NAME", help="its checkpoint (default: as --checkpoint)")
    parser.add_argument("--tokenizers", default=",".join(default.tokenizers),
                        help=f"BLEU tokenizers, the first is the main one: {', '.join(TOKENIZERS)}")  # fmt: skip
    parser.add_argument(
        "--high",
        type=setting_option(ScoreSettings, "high"),
        default=default.high,
        help="sentence pairs from which a language pair counts as high-resource (default: %(default)s)",
    )
    parser.add_argument(
        "--very-low",
        type=setting_option(ScoreSettings, "very_low"),
        default=default.very_low,
        help="sentence pairs below which a language pair counts as very low-resource (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=setting_option(ScoreSettings, "samples"),
        default=default.samples,
        help="bootstrap resamples (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=setting_option(ScoreSettings, "seed"),
        default=default.seed,
        help="of the resamples (default: %(default)s)",
    )
    parser.add_argument("--fresh", action="store_true", help="translate anew even where nothing changed")
    add_search_arguments(parser)


def _add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of test files, and further metrics."""
    from mnmt_ds.config.ranges import number_option
    from mnmt_ds.data.language_identifiers import IDENTIFIERS

    parser.add_argument(
        "--test", type=path_option, nargs="+", metavar="FILE",
        help="score these files, not the run's sets: source, one or several references; --pairs names their pair",
    )  # fmt: skip
    parser.add_argument("--hypotheses", type=path_option, metavar="FILE",
                        help="with --test: score these translations, load no model")  # fmt: skip
    parser.add_argument("--show", type=number_option(int, ge=0), default=0, metavar="N",
                        help="with --test: print N sentences, from the worst to the best")  # fmt: skip
    parser.add_argument("--off-target", choices=IDENTIFIERS, nargs="?", const="py3langid", metavar="IDENTIFIER",
                        help="with --test: share of translations in another language, by py3langid or lingua"
                        " (default: py3langid)")  # fmt: skip
    parser.add_argument("-o", "--output", type=path_option, metavar="DIR",
                        help="with --test: write texts and translations")  # fmt: skip
    parser.add_argument("--metrics", default="", help="further metrics: chrf++, ter (default: none)")
    parser.add_argument(
        "--comet", type=path_option, metavar="MODEL", help="score by COMET, too: directory or .ckpt file of its model"
    )
    parser.add_argument(
        "--comet-python", type=path_option, metavar="PYTHON", help="Python of an environment with unbabel-comet"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates the run, or each of its students.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    from mnmt_ds.cli.evaluate_files import evaluate_files
    from mnmt_ds.decoding.loading import model_directory
    from mnmt_ds.errors import UserError
    from mnmt_ds.reporting.runs import student_directories

    if args.comet_python is not None and args.comet is None:
        raise UserError(f"--comet-python {args.comet_python}: runs COMET; give its model, too: --comet MODEL")
    if args.test:
        return evaluate_files(args, score_settings(args))
    for option in ("hypotheses", "show", "off_target", "output"):
        if getattr(args, option):
            raise UserError(f"--{option.replace('_', '-')}: is for test files; give --test SOURCE REFERENCE")
    others = student_directories(args.against) if args.against is not None else [None]
    directories = student_directories(args.directory)
    if args.ensemble and len(directories) > 1:  # as translate: the student with the lowest dev loss, and the others
        pairs = (args.pairs or "").split(",")
        directories = [model_directory(args.directory, pairs[0] if len(pairs) == 1 else "").parent]
    for number, directory in enumerate(directories):
        other = others[number] if number < len(others) else others[0]
        evaluate_model(argparse.Namespace(**{**vars(args), "directory": directory, "against": other}))
    return 0


def evaluate_model(args: argparse.Namespace) -> None:
    """Evaluates a model, writes evaluation/ beside it and prints a table.

    Args:
        args: the parsed arguments; ``directory`` is a run of one student.

    Raises:
        UserError: when there is no such run, checkpoint or corpus.
    """
    from mnmt_ds.data.worker_pool import ProgressBar
    from mnmt_ds.decoding.loading import warn_untrained_pair
    from mnmt_ds.evaluation import report as reports
    from mnmt_ds.evaluation.comet import open_comet

    search = search_settings(args)
    score = score_settings(args)
    comet = open_comet(args.comet, args.comet_python) if args.comet is not None else None
    directory = _checkpoint(args.directory, args.checkpoint)
    other = _other_report(args) if args.against is not None else None
    translator = open_ensemble(args, "", directory, args.data)
    if args.ensemble:
        name = reports.ensemble_checkpoint(args.checkpoint, translator)
        before = args.against_checkpoint or args.checkpoint
        args = argparse.Namespace(**{**vars(args), "checkpoint": name, "against_checkpoint": before})
    corpus = reports.open_evaluation_corpus(args.directory, args.data, translator)
    pairs = args.pairs.split(",") if args.pairs else list(translator.description["pairs"])
    for pair in pairs:
        warn_untrained_pair(translator, pair)
    if other is not None:
        planned = {**reports.decoding_facts(search, translator), "pairs": {}}
        reports.check_translated_alike(planned, other, pairs, _other_path(args))
    sentences = sum(len(corpus.split(pair, args.split)) for pair in pairs)
    path = reports.report_path(args.directory, args.checkpoint, args.split)
    task = reports.EvaluationTask(
        args.directory, args.checkpoint, args.split, pairs, search, score, args.batch_tokens,
        processes(args, translator, sentences), args.fresh,
    )  # fmt: skip
    with ProgressBar(f"evaluate {args.directory.name} {args.checkpoint}", "sentences", sentences) as progress:
        report = reports.evaluate(task, translator, corpus, progress.add)
    if comet is not None:
        _add_comet(comet, report, path)
    if args.against is not None:
        report["against"] = reports.bootstrap_against(
            args.directory, args.against, args.checkpoint, args.split, score, args.against_checkpoint
        )
        reports.write_report(path, report)
    print(table(report, path))


def _add_comet(comet: "CometModel", report: dict[str, Any], path: Path) -> None:
    """Adds COMET's scores of the texts beside a report, and writes the report anew."""
    from mnmt_ds.distributed import uses_gpu
    from mnmt_ds.evaluation import report as reports
    from mnmt_ds.evaluation.comet import comet_score

    sources, hypotheses, references = (
        reports.read_lines(path.with_suffix(""), kind) for kind in ("src", "hyp", "ref")
    )  # fmt: skip
    for pair, facts in report["pairs"].items():
        value = comet_score(comet, sources[pair], hypotheses[pair], references[pair], int(uses_gpu()))
        facts["other_scores"] = [*facts.get("other_scores", []), value._asdict()]
    reports.write_report(path, report)


def score_settings(args: argparse.Namespace) -> "ScoreSettings":
    """Makes the settings of scoring that the arguments ask for.

    Args:
        args: the parsed arguments.

    Returns:
        The settings.

    Raises:
        UserError: where a metric is not known.
    """
    from mnmt_ds.errors import UserError
    from mnmt_ds.evaluation.scores import ScoreSettings

    metrics = tuple(name for name in args.metrics.split(",") if name)
    if unknown := [name for name in metrics if name not in ("chrf++", "ter")]:
        raise UserError(f"--metrics: '{unknown[0]}' is not known; take of chrf++, ter (BLEU and chrF are always there)")
    return ScoreSettings(
        tokenizers=tuple(args.tokenizers.split(",")), metrics=metrics, high=args.high, very_low=args.very_low,
        samples=args.samples, seed=args.seed,
    )  # fmt: skip


def table(report: dict[str, Any], path: Path) -> str:
    """Formats a report for a terminal.

    Args:
        report: what ``evaluate`` of ``mnmt_ds.evaluation.report`` made.
        path: the report's file.

    Returns:
        Lines: a table of the pairs, signatures, speed, and where the report is.
    """
    against = report.get("against", {}).get("bleu", {})
    head = f"{'pair':<12}{'train':>10}{'sentences':>11}{'BLEU':>8}{'ceiling':>9}{'chrF':>8}"
    lines = [head + (f"   BLEU - {report['against']['run']}" if against else "")]
    rows = [(pair, facts["train_sentences"], facts["sentences"], facts) for pair, facts in report["pairs"].items()]
    rows.sort(key=lambda row: row[1])
    total = sum(row[2] for row in rows)
    for name, size, count, facts in [*rows, ("macro", sum(row[1] for row in rows), total, report["macro"])]:
        line = (
            f"{name:<12}{size:>10,}{count:>11,}{facts['bleu']:>8.2f}{facts['bleu_ceiling']:>9.2f}{facts['chrf']:>8.2f}"
        )
        lines.append(line + (f"   {difference_text(against[name])}" if name in against else ""))
    if missing := [pair for pair in report["pairs"] if against and pair not in against]:
        lines.append(f"the difference of macro is without {', '.join(missing)}, which the other run does not have")
    if len(report["classes"]) > 1:
        for name, facts in report["classes"].items():
            lines.append(f"{name + ' resource':<33}{facts['bleu']:>8.2f}{'':>9}{facts['chrf']:>8.2f}")
    signatures = {
        facts[f"{metric}_signature"]: metric for metric in ("bleu", "chrf") for facts in report["pairs"].values()
    }
    lines += [
        f"{'BLEU' if metric == 'bleu' else 'chrF'} signature: {signature}" for signature, metric in signatures.items()
    ]
    for pair, facts in report["pairs"].items():
        for other in [*facts.get("other_bleu", []), *facts.get("other_scores", [])]:
            name = other.get("name") or ("spBLEU" if "tok:flores" in other["signature"] else "BLEU")
            lines.append(f"{pair:<12}{name:<8}{other['value']:>8.2f}   {other['signature']}")
    if report["seconds"]:
        lines.append(f"decoded in {report['seconds']:.1f} s, {total / report['seconds']:.0f} sentences/s")
    return "\n".join([*lines, f"written: {path}"])


def difference_text(row: dict[str, float]) -> str:
    """Formats a difference with its interval and p: ``+1.23 [0.40, 2.01] p=0.003``.

    Args:
        row: delta, low, high and p of a paired bootstrap.

    Returns:
        The text.
    """
    return f"{row['delta']:+.2f} [{row['low']:.2f}, {row['high']:.2f}] p={row['p']:.3f}"


def _checkpoint(run: Path, name: str) -> Path:
    """The model directory of a run's checkpoint; UserError where there is none."""
    from mnmt_ds.errors import UserError

    if not run.is_dir():
        raise UserError(f"{run}: no such run; give the directory that the recipe names")
    if not (run / name / "model.json").exists():
        existing = sorted(path.parent.name for path in run.glob("*/model.json"))
        raise UserError(f"{run / name}: no such checkpoint; this run has {', '.join(existing) or 'none yet'}")
    return run / name


def _other_path(args: argparse.Namespace) -> Path:
    """Where the scores of the other run are."""
    from mnmt_ds.evaluation.report import report_path

    return report_path(args.against, args.against_checkpoint or args.checkpoint, args.split)


def _other_report(args: argparse.Namespace) -> dict[str, Any]:
    """The other run's report; UserError where it is not evaluated yet as it is: before anything is translated here."""
    from mnmt_ds.errors import UserError
    from mnmt_ds.evaluation.comparability import outdated
    from mnmt_ds.evaluation.report import read_report
    from mnmt_ds.models.weights import describe_model

    path, command = _other_path(args), f"run mnmt-ds evaluate {args.against} --split {args.split}"
    if not path.exists():
        raise UserError(f"{path}: not evaluated yet; {command} first")
    report, model = read_report(path), args.against / (args.against_checkpoint or args.checkpoint)
    if (model / "model.json").exists() and (reason := outdated(report, describe_model(model))):
        raise UserError(f"{path}: {reason}; {command} again")
    return report

"""Which parameters serve which language: paper 3's analyses of a run's checkpoint, as pictures and numbers.

``sensitivity`` comes first and its results are kept; the others read them. Works under torchrun or srun, too: ranks
share the work.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnmt_ds.config.paths import path_option

if TYPE_CHECKING:
    from mnmt_ds.analysis.analyses import AnalysisSettings

LOG = logging.getLogger(__name__)
HELP = "sensitivity, language-specificity, correlation of languages, pruning"
WHAT = {
    "sensitivity": "mean |theta * dL/dtheta| of every parameter, by language, and its distribution",
    "specificity": "how specific each matrix is to each language (Equation 4)",
    "correlation": "heat maps: how alike two languages use the parameters, for the most sensitive and the others",
    "prune": "BLEU against the share of pruned parameters, the least language-specific first",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("what", choices=WHAT, help="; ".join(f"{name}: {text}" for name, text in WHAT.items()))
    parser.add_argument(
        "runs", type=path_option, nargs="+", metavar="RUN", help="run directories, shown beside each other"
    )
    parser.add_argument(
        "-o", "--output", type=path_option, metavar="DIR", help="for pictures and numbers (default: RUN/analysis)"
    )
    parser.add_argument("--checkpoint", default="best", help="best, best_<pair>, last… (default: %(default)s)")
    parser.add_argument("--task", choices=("translation", "cd"), default="translation", help="whose loss")
    parser.add_argument("--data", type=path_option, help="prepared corpus (default: the recipe's)")
    parser.add_argument(
        "--batches", type=number_option(int, ge=1), default=500, help="random batches a language (default: %(default)s)"
    )
    parser.add_argument(
        "--max-tokens",
        type=number_option(int, ge=1),
        default=1024,
        help="padded tokens of a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--top",
        type=number_option(float, gt=0, lt=1),
        default=0.1,
        help="share that counts as most sensitive (default: %(default)s)",
    )
    parser.add_argument(
        "--others", choices=("mixed", "mean"), default="mixed",
        help="all languages but one in Equation 4: mixed batches of them, as in paper 3, or the mean of each one's own,"
        " which sensitivity measures in half the time (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--ratios", help="shares to prune, such as 0,0.2,0.4 (default: 0 to 0.8 by 0.1)")
    parser.add_argument("--split", default="test", help="prune: dev or test (default: %(default)s)")
    parser.add_argument(
        "--beam", type=number_option(int, ge=1, le=1000), default=5, help="prune: beam size (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=number_option(int, ge=0), default=1, help="of the batches (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Makes the analysis that the arguments ask for and prints where it is.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    from mnmt_ds.distributed import is_main, job

    together = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1
    with job() if together else nullcontext():
        numbers, output = _analyse(args)
        if is_main():
            for line in _lines(args.what, numbers):
                print(line)
            print(f"written: {output}")
    return 0


def _analyse(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The numbers of the analysis, by run, and the directory that they were written to."""
    from mnmt_ds.analysis import analyses
    from mnmt_ds.distributed import is_main, on_main_first
    from mnmt_ds.reporting.runs import distinct_runs

    settings = _settings(args)
    runs, output = distinct_runs(args.runs), args.output or args.runs[0] / "analysis"
    _refuse_equal_names(runs)
    if is_main() and args.what in ("sensitivity", "prune"):
        _warn_of_unlike(runs, args.checkpoint, args.what, args.data)
    if args.what == "sensitivity":
        for run in runs:
            analyses.measure_sensitivities(run, args.checkpoint, args.task, args.data, settings)
        return on_main_first(analyses.compare_distributions, runs, args.checkpoint, args.task, output), output
    if args.what == "prune":
        from mnmt_ds.decoding.beam_search import BeamSettings

        search = BeamSettings(beam=args.beam)
        bleu = {
            run.name: analyses.score_pruned_models(run, args.checkpoint, args.split, args.data, settings, search)
            for run in runs
        }
        return on_main_first(analyses.draw_pruning_curves, bleu, output), output
    if args.what == "correlation":
        return on_main_first(
            analyses.correlate_languages, runs, args.checkpoint, args.task, output, settings.top
        ), output
    return {
        run.name: on_main_first(
            analyses.measure_specificities, run, args.checkpoint, args.task, output, settings.others
        )
        for run in runs
    }, output


def _refuse_equal_names(runs: Sequence[Path]) -> None:
    """UserError where two runs have the name under which the results hold each of them."""
    from mnmt_ds.errors import UserError

    by_name: dict[str, Path] = {}
    for run in runs:
        if other := by_name.get(run.name):
            raise UserError(f"{other} and {run}: both are called {run.name} in the results; rename one")
        by_name[run.name] = run


def _warn_of_unlike(runs: Sequence[Path], checkpoint: str, what: str, data: Path | None) -> None:
    """Names the runs whose numbers are not comparable with the first one's."""
    from mnmt_ds.models.weights import describe_model

    models = {run: describe_model(run / checkpoint) for run in runs if (run / checkpoint / "model.json").exists()}
    facts = {"tokenizer_hash": "a token is another unit: another tokenizer", "data_hash": "other prepared text"}
    first = next(iter(models), runs[0])
    for run, model in models.items():
        hashes = {key: {models[first][key], model[key]} for key in facts if key in models[first] and key in model}
        hashes.pop("data_hash" if data is not None else "", None)
        if reasons := [facts[key] for key, values in hashes.items() if len(values) > 1]:
            LOG.warning("%s: its %s is not comparable with that of %s: %s", run, what, first, "; ".join(reasons))


def _settings(args: argparse.Namespace) -> "AnalysisSettings":
    """The analysis settings that the arguments ask for; UserError where one is out of range."""
    from mnmt_ds.analysis.analyses import AnalysisSettings
    from mnmt_ds.errors import UserError

    settings = AnalysisSettings(
        batches=args.batches, max_tokens=args.max_tokens, top=args.top, seed=args.seed, others=args.others
    )
    if not 0 < args.top < 1 or args.batches < 1:
        raise UserError("analyse: --top must lie between 0 and 1, --batches must be at least 1")
    if args.ratios is None:
        return settings
    try:
        ratios = tuple(float(word) for word in args.ratios.split(","))
    except ValueError:
        ratios = (-1.0,)
    if not all(0 <= ratio <= 1 for ratio in ratios):
        raise UserError(f"analyse: --ratios {args.ratios}: give shares from 0 to 1, such as 0,0.2,0.4")
    return settings.model_copy(update={"ratios": ratios})


def _lines(analysis: str, numbers: dict[str, Any]) -> list[str]:
    """The numbers of an analysis, a line a run."""
    if analysis == "sensitivity":
        return [
            f"{name:20} standard deviation {row['deviation']:.3e}, mean {row['mean']:.3e}"
            for name, row in numbers.items()
        ]
    if analysis == "correlation":
        return [
            f"{name:20} mean correlation {row['low']['mean']:.3f} (less sensitive), {row['high']['mean']:.3f} (most)"
            for name, row in numbers.items()
        ]
    if analysis == "prune":
        return [
            f"{name:20} " + "  ".join(f"{ratio}: {row['mean']:.2f}" for ratio, row in rows.items())
            for name, rows in numbers.items()
        ]
    return [
        f"{name:20} parameters with D > 1: "
        + "  ".join(f"{lang} {share:.3f}" for lang, share in row["above_1"].items())
        for name, row in numbers.items()
    ]

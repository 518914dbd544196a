"""Runs side by side: a table, CSV files and one offline HTML page with the curves, scores and costs."""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mnmt_ds.config.paths import path_option
from mnmt_ds.files import write_together

HELP = "table and offline HTML page about several runs"
IN_NATS = ("dev", "deficit", "dev_at_own_best", "dev_at_overall_best")
"""Columns whose values are nats a token."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import setting_option
    from mnmt_ds.evaluation.scores import ScoreSettings

    parser.add_argument(
        "runs", type=path_option, nargs="+", metavar="RUN", help="run directories; the first is the baseline"
    )
    parser.add_argument("-o", "--output", type=path_option, required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--checkpoint", default="best", help="whose evaluation is shown (default: %(default)s)")
    parser.add_argument("--split", default="test", help="dev or test (default: %(default)s)")
    parser.add_argument(
        "--high",
        type=setting_option(ScoreSettings, "high"),
        help="sentence pairs from which a language pair counts as high-resource (default: as evaluated)",
    )
    parser.add_argument(
        "--very-low",
        type=setting_option(ScoreSettings, "very_low"),
        help="sentence pairs below which a language pair counts as very low-resource (default: as evaluated)",
    )
    parser.add_argument("--title", default="Runs compared", help="heading of the page")
    parser.add_argument(
        "--samples",
        type=setting_option(ScoreSettings, "samples"),
        default=1000,
        help="bootstrap resamples (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes compare.html, compare.md, runs.csv and pairs.csv, and prints the table.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    from mnmt_ds.evaluation.scores import ScoreSettings
    from mnmt_ds.reporting.comparison import compare_groups, group_runs
    from mnmt_ds.reporting.frontier import find_experiments, frontier_markdown
    from mnmt_ds.reporting.gallery import read_pictures
    from mnmt_ds.reporting.kept_bootstraps import BOOTSTRAPS, read_bootstraps
    from mnmt_ds.reporting.metrics import with_resource_classes
    from mnmt_ds.reporting.page import render_page
    from mnmt_ds.reporting.runs import distinct_runs, read_runs, student_directories
    from mnmt_ds.reporting.summary import pair_rows, run_rows, score_signatures, summary_markdown
    from mnmt_ds.reporting.tables import change_table, table_markdown

    settings = ScoreSettings(samples=args.samples)
    directories = [directory for run in distinct_runs(args.runs) for directory in student_directories(run)]
    runs = read_runs(directories, args.checkpoint, args.split)
    limits = {"high": args.high, "very_low": args.very_low}
    if any(limit is not None for limit in limits.values()):
        limits = {name: limit for name, limit in limits.items() if limit is not None}
        runs = [with_resource_classes(run, settings.model_copy(update=limits)) for run in runs]
    bootstraps = read_bootstraps(args.output)
    compared = compare_groups(group_runs(runs), settings, bootstraps=bootstraps)
    pictures = read_pictures((run.directory for run in runs), "analysis/**/*.png")
    table = summary_markdown(compared)
    points = frontier_markdown(find_experiments(runs))
    table += f"\n\n{points}" if points else ""
    if (changes := change_table(compared)).rows:
        table += f"\n\n{table_markdown(changes)}"
    notes = "\n".join(f"- `{line}`" for line in score_signatures(runs))
    write_together(
        {
            args.output / "compare.md": f"{table}\n\n{notes}\n" if notes else table + "\n",
            args.output / "runs.csv": _csv(run_rows(runs)),
            args.output / "pairs.csv": _csv(pair_rows(runs, compared.sizes)),
            args.output / BOOTSTRAPS: bootstraps.text(),
            args.output / "compare.html": render_page(args.title, [compared], pictures=pictures),
        }
    )
    print(table)
    waiting = [str(run.directory) for run in runs if run.report is None]
    if waiting:
        print(f"no {args.split} scores of {', '.join(waiting)}; mnmt-ds evaluate makes them")
    print(f"written: {args.output / 'compare.html'}")
    return 0


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A CSV file whose columns are all keys of the rows, with the unit behind those of losses."""
    rows = [{f"{name}_nats" if name in IN_NATS else name: value for name, value in row.items()} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""Summaries of compared runs: a row a run, a group of seeds or a pair; the groups' table as Markdown.

Shape letters: V validations of a run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnmt_ds.evaluation.report import text_warnings
from mnmt_ds.evaluation.scores import AVERAGED
from mnmt_ds.reporting.comparison import ComparedRuns, RunGroup
from mnmt_ds.reporting.formatting import format_difference, format_number, markdown_row
from mnmt_ds.reporting.metrics import (
    COMPARED_METRICS,
    METRIC_TITLES,
    NATS_A_BIT,
    ComparedMetric,
    metrics_of_run,
)
from mnmt_ds.reporting.runs import Run
from mnmt_ds.reporting.unlike import FIGURES, OF_PAIRS, TRAINING, unlike_runs

Row = dict[str, str | float]
"""Values by column of a CSV file."""


class GroupSummary(NamedTuple):
    """Metrics of a group's runs over its seeds."""

    label: str
    method: str
    seeds: list[int]
    status: str
    """finished, or what the unfinished runs are: ``1 of 3 running``."""
    mean: dict[str, float]
    """By key in ``COMPARED_METRICS``; nan where no run has a value."""
    spread: dict[str, float]
    """Standard deviation; nan with fewer than two values."""


def summarise_groups(groups: Sequence[RunGroup]) -> list[GroupSummary]:
    """Computes each metric's mean and spread over a group's seeds.

    Args:
        groups: the groups.

    Returns:
        A summary a group.
    """
    summaries = []
    for group in groups:
        rows = [metrics_of_run(run) for run in group.runs]
        values = {m.key: [row[m.key] for row in rows if np.isfinite(row[m.key])] for m in COMPARED_METRICS}
        mean = {key: float(np.mean(v)) if v else float("nan") for key, v in values.items()}
        spread = {key: float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for key, v in values.items()}
        seeds = [run.seed for run in group.runs]
        summaries.append(GroupSummary(group.label, group.runs[0].method, seeds, _status(group.runs), mean, spread))
    return summaries


def _status(runs: Sequence[Run]) -> str:
    unfinished = [run.status for run in runs if run.status != "finished"]
    if not unfinished:
        return "finished"
    return unfinished[0] if len(unfinished) == len(runs) else f"{len(unfinished)} of {len(runs)} {unfinished[0]}"


def filled_metrics(summaries: Sequence[GroupSummary]) -> list[ComparedMetric]:
    """Lists the metrics that a summary table shows.

    Args:
        summaries: the table's rows.

    Returns:
        The main metrics of which any group has a value.
    """
    return [
        metric
        for metric in COMPARED_METRICS
        if metric.main and any(np.isfinite(summary.mean[metric.key]) for summary in summaries)
    ]


def run_rows(runs: Sequence[Run]) -> list[Row]:
    """Makes a row a run, for CSV.

    Args:
        runs: the runs.

    Returns:
        Values by column: directory, label, seed, method, status, all ``COMPARED_METRICS``, and what of them is not
        comparable with the first run's.
    """
    rows = []
    for run in runs:
        row: Row = {"run": str(run.directory), "label": run.label, "seed": run.seed, "method": run.method}
        rows.append({**row, "status": run.status, **metrics_of_run(run), "not_comparable": _unlike(run, runs, None)})
    return rows


def _unlike(run: Run, runs: Sequence[Run], pair: str | None) -> str:
    """What of a run's figures is not comparable with those of the first run that has them, and why."""
    pairs = None if pair is None else [pair]
    figures = [figure for figure in dict.fromkeys(FIGURES.values()) if pair is None or figure in OF_PAIRS]
    unlike_figures = {figure: unlike_runs([run], runs, figure, pairs) for figure in figures}
    return "; ".join(f"{figure}: {', '.join(reasons)}" for figure, reasons in unlike_figures.items() if reasons)


def pair_rows(runs: Sequence[Run], sizes: Mapping[str, int]) -> list[Row]:
    """Makes a row a run and pair, for CSV.

    Args:
        runs: the runs.
        sizes: training sentences by pair; their order is the rows'.

    Returns:
        Values by column: best epochs, dev losses, deficit, scores, share of the data; only what is known.
    """
    rows = []
    for run in runs:
        deficits = run.deficits()
        for pair in [pair for pair in sizes if pair in run.pairs]:
            scores = (run.report or {}).get("pairs", {}).get(pair, {})
            row: Row = {"run": str(run.directory), "label": run.label, "seed": run.seed, "pair": pair}
            row["train_sentences"] = sizes[pair] or ""
            if pair in deficits:
                best = run.own_best[pair]
                row["best_epoch"] = run.epoch_V[best]
                row["dev_at_own_best"] = run.dev_losses[pair][best]
                row["dev_at_overall_best"] = run.dev_losses[pair][run.best_validation]
                row |= {"deficit": deficits[pair], "deficit_bits": deficits[pair] / NATS_A_BIT}
            row |= {key: scores[key] for key in (*AVERAGED, "bleu_signature", "chrf_signature") if key in scores}
            row["not_comparable"] = _unlike(run, runs, pair)
            for name in ("share", "passes"):
                if name in run.pair_metrics.get(pair, {}):
                    row[name] = run.pair_metrics[pair][name][-1]
            rows.append(row)
    return rows


def score_signatures(runs: Sequence[Run]) -> list[str]:
    """Lists the SacreBLEU signatures of the runs' scores.

    Args:
        runs: the runs.

    Returns:
        Each signature once, after the name of its metric.
    """
    signatures: dict[str, None] = {}
    for run in runs:
        for scores in (run.report or {}).get("pairs", {}).values():
            for name in ("BLEU", "chrF"):
                if signature := scores.get(f"{name.lower()}_signature"):
                    signatures[f"{name} {signature}"] = None
    return list(signatures)


def format_with_spread(summary: GroupSummary, metric: ComparedMetric) -> str:
    """Formats a group's mean and, over several seeds, its standard deviation.

    Args:
        summary: of the group.
        metric: which mean.

    Returns:
        Such as ``14.57 ±0.21``; no spread for metrics that are neither better nor worse.
    """
    text, spread = format_number(summary.mean[metric.key], metric.digits), summary.spread[metric.key]
    return f"{text} ±{spread:.{metric.digits}f}" if np.isfinite(spread) and metric.direction else text


def summary_markdown(compared_runs: ComparedRuns) -> str:
    """Writes the groups' table as Markdown that reads well on a terminal, too.

    Args:
        compared_runs: compared runs.

    Returns:
        The table, then a line a t-test.
    """
    summaries, footnotes = summarise_groups(compared_runs.groups), compared_runs.footnotes()
    metrics = filled_metrics(summaries)
    delta = f"ΔBLEU to {compared_runs.baseline.label} [95 %]"
    head = ["run", "method", "seeds", *(metric.title for metric in metrics)] + (
        [delta] if compared_runs.bootstraps else []
    )
    table = [head]
    for summary, group in zip(summaries, compared_runs.groups, strict=True):
        label = summary.label if summary.status == "finished" else f"{summary.label} ({summary.status})"
        cells = [
            label + footnotes.mark(compared_runs.unlike(group, TRAINING)),
            summary.method,
            ",".join(map(str, summary.seeds)),
        ]
        for metric in metrics:
            mark = footnotes.mark(compared_runs.unlike(group, metric.key))
            cells.append(format_with_spread(summary, metric) + mark)
        if compared_runs.bootstraps:
            difference = compared_runs.bootstrap(summary.label, "bleu", "macro")
            cells.append(format_difference(difference) if difference is not None else "")
        table.append(cells)
    tests = [
        f"{label}, {METRIC_TITLES[key]} over seeds (Welch's t-test): {format_difference(difference, 3)}"
        for label, differences in compared_runs.t_tests.items()
        for key, difference in differences.items()
    ]
    return "\n".join(
        [*_aligned(table, text_columns=3), "", *footnotes.lines(), *text_notes(compared_runs.runs), *tests]
    )


def text_notes(runs: Sequence[Run]) -> list[str]:
    """Lists the evaluated texts that make scores hard to compare with published ones.

    Args:
        runs: the runs.

    Returns:
        A line a run, pair and kind of fault.
    """
    return [
        line
        for run in runs
        if run.report is not None and run.translations is not None
        for line in text_warnings(run.report, Path(f"{run.translations}.json"))
    ]


def _aligned(table: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    """Lines of a Markdown table whose cells are padded; the first columns to the left, all others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    right = [i >= text_columns for i in range(len(widths))]
    lines = [
        markdown_row([t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)])
        for row in table
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return [lines[0], rule, *lines[1:]]

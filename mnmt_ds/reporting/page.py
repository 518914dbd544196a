"""One offline HTML page about runs: tables and inline pictures, no network."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from mnmt_ds import __version__
from mnmt_ds.evaluation.significance import Difference
from mnmt_ds.reporting.comparison import ComparedRuns
from mnmt_ds.reporting.drawing import group_colour, pair_name
from mnmt_ds.reporting.formatting import format_difference, format_interval, format_number, format_p_value
from mnmt_ds.reporting.gallery import Picture
from mnmt_ds.reporting.many_pairs import notable_runs
from mnmt_ds.reporting.metrics import COMPARED_METRICS, METRIC_TITLES, ComparedMetric
from mnmt_ds.reporting.pair_table import pair_table
from mnmt_ds.reporting.run_settings import count_equal_settings, differing_settings
from mnmt_ds.reporting.samples import sample_translations
from mnmt_ds.reporting.sections import SECTIONS, PageSection
from mnmt_ds.reporting.summary import (
    GroupSummary,
    filled_metrics,
    run_rows,
    score_signatures,
    summarise_groups,
    text_notes,
)
from mnmt_ds.reporting.tables import Table, change_table
from mnmt_ds.reporting.unlike import TRAINING, as_html


class SummaryCell(NamedTuple):
    """A group's metric as the summary shows it."""

    key: str
    text: str
    spread: str
    """Standard deviation over seeds; empty where there is none."""
    best: bool
    """Whether this is the best group."""
    mark: str
    """Footnote mark; empty where the metric is comparable with the baseline's."""


class DifferenceCells(NamedTuple):
    """A group's BLEU difference to the baseline as the summary shows it."""

    style: str
    """CSS class: good, bad, or empty where the interval holds zero."""
    text: str
    p: str


class SummaryRow(NamedTuple):
    """A group's row of the summary."""

    group: GroupSummary
    mark: str
    """Footnote mark at its name."""
    cells: list[SummaryCell]
    difference: DifferenceCells | None


class Chart(NamedTuple):
    """A section of the page with its chart."""

    section: PageSection
    text: str
    """Explains the chart, HTML."""
    svg: str


def render_page(
    title: str, comparisons: Sequence[ComparedRuns], tables: Sequence[Table] = (), command: str = "compare",
    pictures: Sequence[Picture] = (),
) -> str:  # fmt: skip
    """Renders the page: the tables, then everything about each part, then pictures that other commands drew.

    Args:
        title: heading of the page.
        comparisons: compared runs, a section each.
        tables: what stands above all parts.
        command: the subcommand of ``mnmt-ds`` that makes the page; the footer names it.
        pictures: what stands below all parts.

    Returns:
        HTML that needs no other file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        title=title,
        parts=[comparison_values(compared_runs) for compared_runs in comparisons],
        tables=tables,
        pictures=pictures,
        command=command,
        version=__version__,
        date=datetime.date.today().isoformat(),
    )


def comparison_values(compared_runs: ComparedRuns) -> dict[str, Any]:
    """Collects the values that the template shows of a part.

    Args:
        compared_runs: compared runs.

    Returns:
        Values by their names in ``page.html``.
    """
    metrics = filled_metrics(summarise_groups(compared_runs.groups))
    drawn = notable_runs(compared_runs)
    recipes = [group.runs[0].recipe for group in compared_runs.groups]
    rows, footnotes = summary_rows(compared_runs)
    return dict(
        name=compared_runs.name,
        id_prefix=f"{compared_runs.name}-" if compared_runs.name else "",
        run_count=len(compared_runs.runs),
        pair_count=len(compared_runs.sizes),
        groups=compared_runs.groups,
        drawn_groups=drawn.groups,
        drawn_pair_count=len(drawn.sizes),
        colours={group.label: group_colour(i) for i, group in enumerate(drawn.groups)},
        metrics=metrics,
        summary=rows,
        footnotes=[*footnotes, *text_notes(compared_runs.runs)],
        has_bootstrap=bool(compared_runs.bootstraps),
        bootstrap_samples=compared_runs.score.samples,
        t_tests=[
            f"{label}, {METRIC_TITLES[key]} {format_difference(difference, 3)}"
            for label, differences in compared_runs.t_tests.items()
            for key, difference in differences.items()
        ],
        signatures=score_signatures(compared_runs.runs),
        charts=_charts(drawn),
        pair_table=pair_table(compared_runs),
        pair_notes="".join(_unlike_in_chart(compared_runs, metric) for metric in ("dev", "bleu")),
        differing_settings=differing_settings(recipes),
        equal_setting_count=count_equal_settings(recipes),
        changes=change_table(compared_runs),
        samples={
            pair_name(pair): samples for pair, samples in sample_translations(drawn.groups, [*drawn.sizes]).items()
        },
        all_metrics=COMPARED_METRICS,
        runs=[
            {**row, "cells": [format_number(row[metric.key], metric.digits) for metric in COMPARED_METRICS]}
            for row in run_rows(compared_runs.runs)
        ],
    )


def _charts(compared_runs: ComparedRuns) -> list[Chart]:
    """The sections whose chart has something to show."""
    charts = []
    for section in SECTIONS:
        svg = section.draw(compared_runs)
        if svg is not None:
            text = section.text + (section.bootstrap_text if compared_runs.bootstraps else "")
            charts.append(Chart(section, text + _unlike_in_chart(compared_runs, section.metric), svg))
    return charts


def _unlike_in_chart(compared_runs: ComparedRuns, metric: str) -> str:
    """HTML that names the groups whose metric is not comparable with the baseline's, and why."""
    reasons = {group.label: compared_runs.unlike(group, metric) for group in compared_runs.groups} if metric else {}
    return as_html(
        [
            f"{label}: not comparable with {compared_runs.baseline.label}: {'; '.join(why)}"
            for label, why in reasons.items()
            if why
        ]
    )


def summary_rows(compared_runs: ComparedRuns) -> tuple[list[SummaryRow], tuple[str, ...]]:
    """Makes the rows of the summary.

    Args:
        compared_runs: compared runs.

    Returns:
        A row a group: its summary, a cell a metric, and its difference to the baseline; and the footnotes.
    """
    summaries, footnotes = summarise_groups(compared_runs.groups), compared_runs.footnotes()
    metrics = filled_metrics(summaries)
    best = _best_values(compared_runs, summaries, metrics)
    rows = [
        SummaryRow(
            summary,
            footnotes.mark(compared_runs.unlike(group, TRAINING)),
            [
                SummaryCell(
                    metric.key,
                    format_number(summary.mean[metric.key], metric.digits),
                    format_number(summary.spread[metric.key], metric.digits).strip("–") if metric.direction else "",
                    summary.mean[metric.key] == best.get(metric.key) and compared_runs.is_comparable(group, metric.key),
                    footnotes.mark(compared_runs.unlike(group, metric.key)),
                )
                for metric in metrics
            ],
            _difference_cells(compared_runs.bootstrap(summary.label, "bleu", "macro")),
        )
        for summary, group in zip(summaries, compared_runs.groups, strict=True)
    ]
    return rows, footnotes.lines()


def _best_values(
    compared_runs: ComparedRuns, summaries: Sequence[GroupSummary], metrics: Sequence[ComparedMetric]
) -> Mapping[str, float]:
    """The best mean by metric, of those that can be better and that two groups or more have, comparably."""
    best = {}
    for metric in metrics:
        values = [
            summary.mean[metric.key]
            for summary, group in zip(summaries, compared_runs.groups, strict=True)
            if np.isfinite(summary.mean[metric.key]) and compared_runs.is_comparable(group, metric.key)
        ]
        if metric.direction and len(values) > 1:
            best[metric.key] = max(values) if metric.direction > 0 else min(values)
    return best


def _difference_cells(difference: Difference | None) -> DifferenceCells | None:
    if difference is None:
        return None
    style = "good" if difference.low > 0 else "bad" if difference.high < 0 else ""
    return DifferenceCells(style, format_interval(difference), format_p_value(difference.p).removeprefix("= "))

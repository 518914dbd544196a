"""One offline HTML page about runs: tables and inline pictures, no network."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from mnmt_ds import __version__
from mnmt_ds.evaluation.report import read_lines
from mnmt_ds.evaluation.scores import sentence_chrf
from mnmt_ds.evaluation.significance import Difference
from mnmt_ds.reporting import charts, figures, mutual_distillation
from mnmt_ds.reporting.comparison import (
    COLUMNS,
    TITLES,
    Bootstrap,
    RunGroup,
    chance,
    group_rows,
    interval,
    known_columns,
    number,
    run_rows,
    signatures,
)
from mnmt_ds.reporting.gallery import Picture
from mnmt_ds.reporting.runs import ASIDE, Run, differing, flat
from mnmt_ds.reporting.tables import ComparedRuns, Table

SAMPLES = 4
"""Sample sentences a pair."""


class PageSection(NamedTuple):
    """A part of the page; left out where it has nothing to show."""

    id: str
    title: str
    text: str
    figure: str | None = None
    folded: bool = False
    """Whether the reader opens it."""


def render(
    title: str, parts: Sequence[ComparedRuns], tables: Sequence[Table] = (), command: str = "compare",
    pictures: Sequence[Picture] = (),
) -> str:  # fmt: skip
    """The page as text: the tables, then everything about each part, then pictures that other commands drew."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    date = datetime.date.today().isoformat()
    return environment.get_template("page.html").render(
        title=title,
        parts=[shown(part) for part in parts],
        tables=tables,
        pictures=pictures,
        command=command,
        version=__version__,
        date=date,
    )


def shown(part: ComparedRuns) -> dict[str, Any]:
    """What the template shows of a part."""
    groups, sizes, found = part.groups, part.sizes, part.bootstraps
    runs = [run for group in groups for run in group.runs]
    columns = known_columns(group_rows(groups))
    firsts = [group.runs[0] for group in groups]
    different = differing(firsts)
    return dict(
        name=part.name,
        id=f"{part.name}-" if part.name else "",
        runs=len(runs),
        pairs=len(sizes),
        groups=groups,
        colours=[figures.colour(i) for i in range(len(groups))],
        sections=[section for section in _sections(groups, sizes, found) if section.figure],
        columns=columns,
        rows=_summary(groups, columns, found),
        bootstrap=bool(found),
        samples=part.score.samples,
        tests=[
            f"{label}, {TITLES[key]} {interval(Difference(**test), 3)}"
            for label, row in part.tests.items()
            for key, test in row.items()
        ],
        signatures=signatures(runs),
        differing=different,
        differing_labels=[group.label for group in groups],
        same=_same(firsts, different),
        samples_by_pair=samples(groups, sizes),
        run_table=[
            {**row, "cells": [number(row[column.key], column.digits) for column in COLUMNS]} for row in run_rows(runs)
        ],
        run_columns=COLUMNS,
    )


def _sections(
    groups: Sequence[RunGroup], sizes: Mapping[str, int], found: Mapping[str, Bootstrap]
) -> list[PageSection]:
    return [
        PageSection(
            "curves",
            "Dev loss by language pair",
            "Pairs from the least training text to the most (sentences after the name). <b>●</b> with its dotted line:"
            " the pair's own best checkpoint; <b>◇</b> with its dashed line: the run's overall best one. A pair whose"
            " ● and ◇ lie apart converges out of step with the rest; the height between them is its part of the"
            " deficit. With several seeds, thin lines are seeds and the bold one their mean; marks belong to the first"
            " seed.",
            figures.dev_curves(groups, sizes),
        ),
        PageSection(
            "convergence",
            "Convergence, pair by epoch",
            "How far each pair's dev loss is above its own best. White circle: the pair's best epoch; dashed line: the"
            " overall best checkpoint. Circles in one column mean that all pairs converge together.",
            figures.excess_maps(groups, sizes),
        ),
        PageSection(
            "deficit",
            "Performance deficit",
            "What the overall best checkpoint loses against each pair's own best checkpoint, summed over pairs.",
            charts.deficit(groups, sizes),
        ),
        PageSection(
            "bleu",
            "BLEU by language pair",
            "Test sets, overall best checkpoints." + (_INTERVALS if found else ""),
            charts.scores_by_pair(groups, sizes, found, "bleu"),
        ),
        PageSection(
            "chrf",
            "chrF by language pair",
            "The same by chrF.",
            charts.scores_by_pair(groups, sizes, found, "chrf"),
            folded=True,
        ),
        PageSection(
            "frontier",
            "Pareto frontier",
            "Each point a model: mean BLEU over its high-resource pairs against the mean over all others. A line joins"
            " what an experiment's students reach together; its hypervolume is the area below it, from (0, 0).",
            mutual_distillation.frontiers(groups),
        ),
        PageSection(
            "weights",
            "Distillation weights",
            "How much each student learns from its peer, by pair; searched weights move at validations.",
            mutual_distillation.weights(groups, sizes),
        ),
        PageSection(
            "teachers",
            "Teachers and switches",
            "Coloured: the pair is being distilled, from a teacher of that age. Blank: its switch is off. A tick: the"
            " pair improved, and its teacher was replaced.",
            figures.switch_maps(groups, sizes),
        ),
        PageSection(
            "shares",
            "Data",
            "What each pair contributed to training, and how often its own text was gone through.",
            charts.data_shares(groups, sizes),
        ),
        PageSection(
            "sampling",
            "Sampling distribution",
            "How likely each pair is drawn, where a dynamic sampler moves it: from every change to the next.",
            charts.sampling(groups, sizes),
        ),
        PageSection("training", "Training", "Loss on the training data and speed, every run.", charts.training(groups)),
    ]


_INTERVALS = (
    " Right: difference to the first experiment with its 95 % interval; filled where the interval excludes zero."
)


def _summary(
    groups: Sequence[RunGroup], columns: Sequence[Any], found: Mapping[str, Bootstrap]
) -> list[dict[str, Any]]:
    rows = group_rows(groups)
    best = {}
    for column in columns:
        known = [row[column.key] for row in rows if np.isfinite(row[column.key])]
        if column.better and len(known) > 1:
            best[column.key] = max(known) if column.better > 0 else min(known)
    for row in rows:
        row["cells"] = [
            {
                "key": column.key,
                "text": number(row[column.key], column.digits),
                "spread": number(row[column.key + "_std"], column.digits).strip("–") if column.better else "",
                "best": row[column.key] == best.get(column.key),
            }
            for column in columns
        ]
        delta = found.get(row["label"], {}).get("bleu", {}).get("macro")
        row["delta"] = None
        if delta is not None:
            sign = "good" if delta.low > 0 else "bad" if delta.high < 0 else ""
            text = f"{delta.delta:+.2f} [{delta.low:.2f}, {delta.high:.2f}]"
            row["delta"] = {"sign": sign, "text": text, "p": chance(delta.p).removeprefix("= ")}
    return rows


def _same(runs: Sequence[Run], different: Mapping[str, Any]) -> int:
    names = set().union(*(flat(run.recipe) for run in runs))
    return len([name for name in names - different.keys() if not name.startswith(ASIDE)])


def samples(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> dict[str, list[list[tuple[str, str, str]]]]:
    """{pair: sentences}, each a list of (who, text, kind): source, reference and every experiment's translation."""
    firsts = [(group.label, group.runs[0].texts) for group in groups]
    known = [(label, path) for label, path in firsts if path is not None]
    if not known:
        return {}
    references, sources = read_lines(known[0][1], "ref"), read_lines(known[0][1], "src")
    translations = [(label, read_lines(path, "hyp")) for label, path in known]
    found: dict[str, list[list[tuple[str, str, str]]]] = {}
    for pair in sizes:
        lines = references.get(pair, [])
        systems = [(label, texts[pair]) for label, texts in translations if len(texts.get(pair, ())) == len(lines)]
        if not lines or not systems:
            continue
        values = np.array([[sentence_chrf(h, r) for h, r in zip(texts, lines, strict=True)] for _, texts in systems])
        interest = np.ptp(values, 0) if len(systems) > 1 else -np.abs(values[0] - np.median(values[0]))
        for i in np.argsort(-interest, kind="stable")[:SAMPLES]:
            rows = [("source", sources[pair][i], "")] if i < len(sources.get(pair, ())) else []
            rows += [("reference", lines[i], "ref"), *((label, texts[i] or "(empty)", "") for label, texts in systems)]
            found.setdefault(figures.arrow(pair), []).append(rows)
    return found

"""Runs side by side as tables: a row a run, a group of seeds or a pair; differences with their significance."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnmt_ds.evaluation.report import read_lines
from mnmt_ds.evaluation.scores import RESOURCE_CLASSES, ScoreSettings, class_averages, resource_class
from mnmt_ds.evaluation.significance import Difference, paired_bootstrap, welch_t_test
from mnmt_ds.reporting.runs import Run

Bootstrap = dict[str, dict[str, Difference]]
"""{"bleu" or "chrf": {pair or "macro": difference}}."""


class RunGroup(NamedTuple):
    """Runs that differ in nothing but the seed."""

    label: str
    runs: tuple[Run, ...]


class Figure(NamedTuple):
    """A figure that runs are compared by."""

    key: str
    title: str
    digits: int
    better: int
    """1: more is better, -1: less, 0: neither."""
    main: bool = True
    """Whether the summary shows it, too."""


COLUMNS = (
    Figure("best_epoch", "best epoch", 1, 0),
    Figure("dev", "dev loss", 3, -1),
    Figure("deficit", "deficit", 3, -1),
    Figure("bleu", "BLEU", 2, 1),
    Figure("chrf", "chrF", 2, 1),
    Figure("bleu_high", "BLEU high", 2, 1),
    Figure("bleu_low", "BLEU low", 2, 1),
    Figure("bleu_very_low", "BLEU very low", 2, 1),
    Figure("epochs", "epochs", 1, 0, False),
    Figure("minutes", "minutes", 1, 0),
    Figure("tokens_per_sec", "tokens/s", 0, 0),
    Figure("memory_gb", "peak GB", 2, 0, False),
)

TITLES = {column.key: column.title for column in COLUMNS}


def group(runs: Sequence[Run]) -> list[RunGroup]:
    """Runs of one label together, in the order given."""
    labels = list(dict.fromkeys(run.label for run in runs))
    return [
        RunGroup(label, tuple(sorted((run for run in runs if run.label == label), key=lambda run: run.seed)))
        for label in labels
    ]


def figures_of(run: Run) -> dict[str, float]:
    """A run's value for every column; nan where there is none yet."""
    nan, validated = float("nan"), run.best >= 0
    scores = (run.report or {}).get("macro", {})
    classes = (run.report or {}).get("classes", {})
    classes = classes if len(classes) > 1 else {}
    return {
        "best_epoch": float(run.epoch_V[run.best]) if validated else nan,
        "dev": float(run.mean_V[run.best]) if validated else nan,
        "deficit": sum(run.deficits().values()) if validated else nan,
        "bleu": scores.get("bleu", nan),
        "chrf": scores.get("chrf", nan),
        **{f"bleu_{name.replace(' ', '_')}": classes.get(name, {}).get("bleu", nan) for name in RESOURCE_CLASSES},
        "epochs": float(np.nanmax(run.epoch_V)) if validated else nan,
        "minutes": run.seconds / 60,
        "tokens_per_sec": run.tokens_per_sec,
        "memory_gb": run.memory_gb or nan,
    }


def classified(run: Run, settings: ScoreSettings) -> Run:
    """The run with its pairs in resource classes by other thresholds than it was evaluated with."""
    if run.report is None:
        return run
    pairs = {
        pair: {**facts, "class": resource_class(facts["train_sentences"], settings)}
        for pair, facts in run.report["pairs"].items()
    }
    return run._replace(report={**run.report, "pairs": pairs, "classes": class_averages(pairs)})


def bootstraps(groups: Sequence[RunGroup], settings: ScoreSettings) -> dict[str, Bootstrap]:
    """{label of every group but the first: paired bootstrap against the first group}.

    Over several seeds, the i-th run of one group is held against the i-th of the other.
    """
    found = {}
    for other in groups[1:]:
        couples = list(zip(other.runs, groups[0].runs, strict=False))
        paths = [
            (run.texts, rival.texts) for run, rival in couples if run.texts is not None and rival.texts is not None
        ]
        gold = [read_lines(path, "ref") for couple in paths for path in couple]
        if not gold:
            continue
        shared = {pair: lines for pair, lines in gold[0].items() if lines and all(g.get(pair) == lines for g in gold)}
        ours, theirs = ([read_lines(couple[side], "hyp") for couple in paths] for side in (0, 1))
        if shared:
            found[other.label] = paired_bootstrap(ours, theirs, shared, settings)
    return found


def seed_tests(groups: Sequence[RunGroup]) -> dict[str, dict[str, dict[str, Any]]]:
    """{label: {column: Welch's t-test against the first group}} where both have two seeds or more."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    base = [figures_of(run) for run in groups[0].runs]
    for other in groups[1:]:
        own = [figures_of(run) for run in other.runs]
        for key in ("dev", "deficit", "bleu", "chrf"):
            ours, theirs = ([row[key] for row in rows if np.isfinite(row[key])] for rows in (own, base))
            test = welch_t_test(ours, theirs)
            if test is not None:
                found.setdefault(other.label, {})[key] = test
    return found


def group_rows(groups: Sequence[RunGroup]) -> list[dict[str, Any]]:
    """One row a group: its mean over seeds under each column's key, the spread under ``<key>_std``."""
    rows = []
    for found in groups:
        values = [figures_of(run) for run in found.runs]
        row: dict[str, Any] = {"label": found.label, "method": found.runs[0].method}
        row["seeds"] = [run.seed for run in found.runs]
        row["status"] = _state(found.runs)
        for column in COLUMNS:
            known = [value[column.key] for value in values if np.isfinite(value[column.key])]
            row[column.key] = float(np.mean(known)) if known else float("nan")
            row[column.key + "_std"] = float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
        rows.append(row)
    return rows


def _state(runs: Sequence[Run]) -> str:
    """``finished``, or what the others are: ``1 of 3 running``."""
    states = [run.status for run in runs if run.status != "finished"]
    if not states:
        return "finished"
    return states[0] if len(states) == len(runs) else f"{len(states)} of {len(runs)} {states[0]}"


def run_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run."""
    return [
        {"run": str(run.directory), "label": run.label, "seed": run.seed, "method": run.method, "status": run.status}
        | figures_of(run)
        for run in runs
    ]


def pair_rows(runs: Sequence[Run], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row a run and pair: best epochs, dev losses, deficit, scores, share of the data."""
    rows = []
    for run in runs:
        deficits = run.deficits()
        for pair in [pair for pair in sizes if pair in run.pairs]:
            facts = (run.report or {}).get("pairs", {}).get(pair, {})
            row: dict[str, Any] = {"run": str(run.directory), "label": run.label, "seed": run.seed, "pair": pair}
            row["train_sentences"] = sizes[pair] or ""
            if pair in deficits:
                row["best_epoch"] = run.epoch_V[run.best_of(pair)]
                row["dev_at_own_best"] = run.dev[pair][run.best_of(pair)]
                row["dev_at_overall_best"] = run.dev[pair][run.best]
                row["deficit"] = deficits[pair]
            row |= {key: facts[key] for key in ("bleu", "chrf", "bleu_signature", "chrf_signature") if key in facts}
            for key in ("share", "passes"):
                if key in run.by_pair.get(pair, {}):
                    row[key] = run.by_pair[pair][key][-1]
            rows.append(row)
    return rows


def signatures(runs: Sequence[Run]) -> list[str]:
    """The signatures of all scores that are shown, each with what it belongs to."""
    found: dict[str, None] = {}
    for run in runs:
        for facts in (run.report or {}).get("pairs", {}).values():
            found |= {f"BLEU {facts['bleu_signature']}": None, f"chrF {facts['chrf_signature']}": None}
    return list(found)


def number(value: Any, digits: int) -> str:
    """A figure for a table; – where there is none."""
    if not isinstance(value, int | float) or not np.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def known_columns(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The main columns that hold anything."""
    return [column for column in COLUMNS if column.main and any(np.isfinite(row[column.key]) for row in rows)]


def with_spread(row: Mapping[str, Any], column: Figure) -> str:
    """Mean and, over several seeds, standard deviation: ``14.57 ±0.21``."""
    text, spread = number(row[column.key], column.digits), row[column.key + "_std"]
    return f"{text} ±{spread:.{column.digits}f}" if np.isfinite(spread) and column.better else text


def markdown(groups: Sequence[RunGroup], found: Mapping[str, Bootstrap], tests: Mapping[str, Mapping[str, Any]]) -> str:
    """The group table as Markdown; it reads well on a terminal too."""
    rows = group_rows(groups)
    columns = known_columns(rows)
    delta = f"ΔBLEU to {groups[0].label} [95 %]"
    head = ["run", "method", "seeds", *(column.title for column in columns)] + ([delta] if found else [])
    table = [head]
    for row in rows:
        seeds = ",".join(map(str, row["seeds"]))
        cells = [row["label"] + ("" if row["status"] == "finished" else f" ({row['status']})"), row["method"], seeds]
        cells += [with_spread(row, column) for column in columns]
        if found:
            cells.append(interval(found[row["label"]]["bleu"]["macro"]) if row["label"] in found else "")
        table.append(cells)
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    right = [i >= 3 for i in range(len(head))]
    lines = ["| " + " | ".join(_pad(cell, widths[i], right[i]) for i, cell in enumerate(line)) + " |" for line in table]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    notes = [
        f"{label}, {TITLES[key]} over seeds (Welch's t-test): {interval(Difference(**test), 3)}"
        for label, row in tests.items()
        for key, test in row.items()
    ]
    return "\n".join([lines[0], rule, *lines[1:], "", *notes])


def interval(found: Difference, digits: int = 2) -> str:
    """``+2.05 [1.18, 2.87], p = 0.001``."""
    return f"{found.delta:+.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}], p {chance(found.p)}"


def chance(p: float) -> str:
    """A p-value with its relation sign."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)

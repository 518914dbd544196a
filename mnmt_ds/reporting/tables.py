"""The papers' tables: BLEU by pair with gains, rows by settings, deficits, cost; as Markdown or CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.evaluation.significance import Difference
from mnmt_ds.reporting.comparison import Bootstrap, RunGroup, bootstraps, figures_of, number, seed_tests
from mnmt_ds.reporting.runs import train_sizes

Cells = tuple[str, ...]


class Table(NamedTuple):
    """A table of text; the first column names its rows."""

    name: str
    """Of its file."""
    title: str
    note: str
    head: Cells
    rows: Sequence[Cells]


class ComparedRuns(NamedTuple):
    """Runs that were trained and tested on the same data; the first group is the baseline."""

    name: str
    """Of the study's setting; empty where there is one part."""
    groups: Sequence[RunGroup]
    sizes: Mapping[str, int]
    """Training sentences by pair, smallest first."""
    bootstraps: Mapping[str, Bootstrap]
    """Differences to the baseline over sentences, by label."""
    tests: Mapping[str, Mapping[str, Any]]
    """Differences to the baseline over seeds, by label and figure."""
    score: ScoreSettings


def compare_groups(groups: Sequence[RunGroup], score: ScoreSettings, name: str = "") -> ComparedRuns:
    """Groups with their differences."""
    runs = [run for group in groups for run in group.runs]
    return ComparedRuns(name, groups, train_sizes(runs), bootstraps(groups, score), seed_tests(groups), score)


def tables(parts: Sequence[ComparedRuns]) -> list[Table]:
    """All tables that these runs fill."""
    made = [
        over_settings(parts, "bleu", 2, "BLEU", "Macro average over pairs"),
        over_settings(parts, "deficit", 3, "Performance deficit", "Dev loss that the overall best checkpoint loses"
                      " against each pair's own best one, summed over pairs (paper 1, Table 3)"),
        *(by_pair(part) for part in parts),
        *(by_class(part) for part in parts),
        *(cost(part) for part in parts),
    ]  # fmt: skip
    return [table for table in made if any(cell != "–" for row in table.rows for cell in row[1:])]


def over_settings(parts: Sequence[ComparedRuns], key: str, digits: int, title: str, note: str) -> Table:
    """A figure's mean and spread over seeds, a row a method, a column a setting; gains over each setting's baseline."""
    labels = list(dict.fromkeys(group.label for part in parts for group in part.groups))
    rows = []
    for label in labels:
        cells = []
        for part in parts:
            group = next((group for group in part.groups if group.label == label), None)
            values = _values(group, key) if group is not None else []
            base = _values(part.groups[0], key)
            gain = label != part.groups[0].label and values and base
            sure = part.bootstraps.get(label, {}).get("bleu", {}).get("macro") if key == "bleu" else None
            cells.append(_cell(values, digits, float(np.mean(values) - np.mean(base)) if gain else None, sure))
        rows.append((label, *cells))
    star = "; * a gain whose 95 % interval (paired bootstrap over sentences) excludes zero" if key == "bleu" else ""
    gains = f"; in brackets the gain over {_base(parts)}" if len(labels) > 1 else ""
    return Table(key, title, note + gains + star, ("", *(part.name or title for part in parts)), rows)


def by_pair(part: ComparedRuns) -> Table:
    """BLEU of every pair, from the least training text to the most, with gains over the baseline."""
    pairs = list(part.sizes)
    rows = [(group.label, *(_gained(part, group, "pairs", pair) for pair in pairs)) for group in part.groups]
    head = ("", *(f"{pair} ({part.sizes[pair]:,})" for pair in pairs))
    note = f"Training sentences beside the pair; in brackets the gain over {part.groups[0].label}; * as above"
    return Table(_file("pairs", part), f"BLEU by pair{_of(part)}", note, head, rows)


def by_class(part: ComparedRuns) -> Table:
    """Mean BLEU of high-, low- and very-low-resource pairs."""
    reports = [run.report or {} for group in part.groups for run in group.runs]
    classes = list(dict.fromkeys(name for report in reports for name in report.get("classes", {})))
    classes = classes if len(classes) > 1 else []
    rows = [(group.label, *(_gained(part, group, "classes", name) for name in classes)) for group in part.groups]
    note = f"Means over pairs; in brackets the gain over {part.groups[0].label}"
    return Table(_file("classes", part), f"BLEU by resource class{_of(part)}", note, ("", *classes), rows)


def cost(part: ComparedRuns) -> Table:
    """Time and memory, and their ratio to the baseline's."""
    base, rows = _costs(part.groups[0]), []
    for group in part.groups:
        own = _costs(group)
        ratios = [_ratio(base["tokens_per_sec"], own["tokens_per_sec"]), _ratio(own["memory_gb"], base["memory_gb"])]
        ratios.append(_ratio(own["minutes"], base["minutes"]))
        shown = [number(own["tokens_per_sec"], 0), number(own["memory_gb"], 2), number(own["minutes"], 1)]
        rows.append((group.label, shown[0], ratios[0], shown[1], ratios[1], shown[2], ratios[2]))
    head = ("", "tokens/s", "time a token ×", "peak GB", "memory ×", "minutes", "time in all ×")
    note = f"× is the ratio to {part.groups[0].label}; median speed of the training reports, validation aside"
    return Table(_file("cost", part), f"Cost{_of(part)}", note, head, rows)


def markdown(table: Table) -> str:
    """With its title and note."""
    lines = [f"### {table.title}", "", f"{table.note}.", "", "| " + " | ".join(table.head) + " |"]
    lines.append("|---|" + "---:|" * (len(table.head) - 1))
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table.rows)])


def write_csv(table: Table, directory: Path) -> None:
    """``<name>.csv``."""
    with (directory / f"{table.name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([table.head, *table.rows])


def _values(group: RunGroup, key: str) -> list[float]:
    return [value for run in group.runs if np.isfinite(value := figures_of(run)[key])]


def _gained(part: ComparedRuns, group: RunGroup, section: str, name: str) -> str:
    """The BLEU of a pair or class in a group's reports, with its gain over the baseline's."""
    mine, base = (
        [found["bleu"] for run in one.runs if (found := (run.report or {}).get(section, {}).get(name))]
        for one in (group, part.groups[0])
    )
    gain = float(np.mean(mine) - np.mean(base)) if mine and base and group is not part.groups[0] else None
    sure = part.bootstraps.get(group.label, {}).get("bleu", {}).get(name)
    return _cell(mine, 2, gain, sure, spread=False)


def _cell(values: list[float], digits: int, gain: float | None, sure: Difference | None, spread: bool = True) -> str:
    if not values:
        return "–"
    text = number(float(np.mean(values)), digits)
    if spread and len(values) > 1:
        text += f" ±{np.std(values, ddof=1):.{digits}f}"
    if gain is None:
        return text
    star = "*" if sure is not None and (sure.low > 0 or sure.high < 0) else ""
    return f"{text} ({gain:+.{digits}f}{star})"


def _costs(group: RunGroup) -> dict[str, float]:
    rows = [figures_of(run) for run in group.runs]
    keys = ("tokens_per_sec", "memory_gb", "minutes")
    return {key: float(np.mean([row[key] for row in rows])) for key in keys}


def _ratio(own: float, base: float) -> str:
    return number(own / base if base else float("nan"), 2)


def _base(parts: Sequence[ComparedRuns]) -> str:
    names = list(dict.fromkeys(part.groups[0].label for part in parts))
    return names[0] if len(names) == 1 else "each setting's baseline"


def _of(part: ComparedRuns) -> str:
    return f", {part.name}" if part.name else ""


def _file(name: str, part: ComparedRuns) -> str:
    return f"{part.name}-{name}" if part.name else name

"""The papers' tables: BLEU by pair with gains, rows by conditions, deficits, cost; as Markdown or CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.evaluation.significance import Difference
from mnmt_ds.reporting.changed_settings import change_cells
from mnmt_ds.reporting.comparison import ComparedRuns, RunGroup
from mnmt_ds.reporting.formatting import excludes_zero, format_number, markdown_row
from mnmt_ds.reporting.metrics import metrics_of_run
from mnmt_ds.reporting.unlike import CLASSES, TRAINING, Footnotes

Cells = tuple[str, ...]
FigureOf = tuple[str, Sequence[str] | None]
"""A metric's key, and the pairs that it is of; None: those that the metric itself is over."""


class Table(NamedTuple):
    """A table of text; the first column names its rows."""

    name: str
    """Name of its file."""
    title: str
    note: str
    head: Cells
    rows: Sequence[Cells]
    footnotes: Sequence[str] = ()
    """What the marks in its cells mean."""
    is_text: bool = False
    """Cells are sentences, which are wrapped."""


def all_tables(comparisons: Sequence[ComparedRuns]) -> list[Table]:
    """Makes all tables that these runs fill.

    Args:
        comparisons: compared runs, a condition of the study each.

    Returns:
        The tables, without those that would be empty.
    """
    tables = [
        settings_table(comparisons, "bleu", 2, "BLEU", "Macro average over pairs"),
        settings_table(comparisons, "bleu_ceiling", 2, "Ceiling of BLEU", "BLEU of the references themselves after the"
                       " tokenizer's round trip, macro average over pairs: more cannot be reached"),
        settings_table(comparisons, "dev", 3, "Dev loss, nats a token", "Mean over pairs of the label-smoothed"
                       " cross-entropy, at the overall best checkpoint"),
        settings_table(comparisons, "dev_bits", 3, "Dev loss, bits a token", "The same in the unit of paper 1's"
                       " figures: nats times 1.4427"),
        settings_table(comparisons, "deficit", 3, "Performance deficit, nats a token", "Dev loss that the overall"
                       " best checkpoint loses against each pair's own best one, summed over pairs (paper 1, Table 3)"),
        settings_table(comparisons, "deficit_bits", 3, "Performance deficit, bits a token", "The same in the unit of"
                       " paper 1's Table 3: nats times 1.4427"),
        *(bleu_by_pair(compared_runs) for compared_runs in comparisons),
        *(ceiling_by_pair(compared_runs) for compared_runs in comparisons),
        *(bleu_by_class(compared_runs) for compared_runs in comparisons),
        *(cost_table(compared_runs) for compared_runs in comparisons),
        *(change_table(compared_runs) for compared_runs in comparisons),
    ]  # fmt: skip
    return [table for table in tables if any(cell != "–" for row in table.rows for cell in row[1:])]


def settings_table(comparisons: Sequence[ComparedRuns], key: str, digits: int, title: str, note: str) -> Table:
    """Makes a table of a metric's mean and spread over seeds, with gains over each condition's baseline.

    Args:
        comparisons: compared runs, a condition of the study each.
        key: of the metric in ``COMPARED_METRICS``.
        digits: after the decimal point.
        title: of the table.
        note: what the metric is.

    Returns:
        The table: a row a method, a column a condition.
    """
    labels = list(dict.fromkeys(group.label for compared_runs in comparisons for group in compared_runs.groups))
    rows, footnotes = [], Footnotes(_baseline_name(comparisons))
    for label in labels:
        cells = []
        for compared_runs in comparisons:
            group = next((group for group in compared_runs.groups if group.label == label), None)
            values = _values(group, key) if group is not None else []
            baseline = _values(compared_runs.baseline, key)
            gain = float(np.mean(values) - np.mean(baseline)) if values and baseline else None
            difference = compared_runs.bootstrap(label, "bleu", "macro") if key == "bleu" else None
            reasons = (
                (*compared_runs.unlike(group, key), *compared_runs.unlike(group, TRAINING)) if group is not None else ()
            )
            comparable = group is not None and compared_runs.is_comparable(group, key)
            gain = gain if label != compared_runs.baseline.label and comparable else None
            cells.append(_cell(values, digits, gain, difference) + (footnotes.mark(reasons) if values else ""))
        rows.append((label, *cells))
    star = "; * a gain whose 95 % interval (paired bootstrap over sentences) excludes zero" if key == "bleu" else ""
    gains = f"; in brackets the gain over {_baseline_name(comparisons)}" if len(labels) > 1 else ""
    head = ("", *(compared_runs.name or title for compared_runs in comparisons))
    return Table(key, title, note + gains + star, head, rows, footnotes.lines())


def bleu_by_pair(compared_runs: ComparedRuns) -> Table:
    """Makes a table of every pair's BLEU, with gains over the baseline.

    Args:
        compared_runs: compared runs.

    Returns:
        The table: a row a group, a column a pair, from the least training text to the most.
    """
    pairs, footnotes = list(compared_runs.sizes), compared_runs.footnotes()
    metrics: dict[str, FigureOf] = {pair: ("bleu", [pair]) for pair in pairs}
    rows = [_bleu_row(compared_runs, group, "pairs", metrics, footnotes) for group in compared_runs.groups]
    head = ("", *(f"{pair} ({compared_runs.sizes[pair]:,})" for pair in pairs))
    note = f"Training sentences beside the pair; in brackets the gain over {compared_runs.baseline.label}; * as above"
    return Table(
        _file_name("pairs", compared_runs),
        f"BLEU by pair{_title_end(compared_runs)}",
        note,
        head,
        rows,
        footnotes.lines(),
    )


def ceiling_by_pair(compared_runs: ComparedRuns) -> Table:
    """Makes a table of what BLEU the references themselves reach after the tokenizer's round trip.

    Args:
        compared_runs: compared runs.

    Returns:
        The table: a row a group, a column a pair.
    """
    rows, footnotes = [], compared_runs.footnotes()
    for group in compared_runs.groups:
        reports = [(run.report or {}).get("pairs", {}) for run in group.runs]
        cells = [group.label]
        for pair in compared_runs.sizes:
            values = [facts[pair]["bleu_ceiling"] for facts in reports if "bleu_ceiling" in facts.get(pair, {})]
            mark = footnotes.mark(compared_runs.unlike(group, "bleu_ceiling", [pair])) if values else ""
            cells.append(_cell(values, 2, None, None, spread=False) + mark)
        rows.append(tuple(cells))
    note = "BLEU of the references after the tokenizer has encoded and decoded them: more cannot be reached"
    title = f"Ceiling of BLEU by pair{_title_end(compared_runs)}"
    head = ("", *compared_runs.sizes)
    return Table(_file_name("ceilings", compared_runs), title, note, head, rows, footnotes.lines())


def bleu_by_class(compared_runs: ComparedRuns) -> Table:
    """Makes a table of mean BLEU over high-, low- and very-low-resource pairs, with gains over the baseline.

    Args:
        compared_runs: compared runs.

    Returns:
        The table: a row a group, a column a class; no columns where all pairs are of one class.
    """
    reports = [run.report or {} for run in compared_runs.runs]
    keys = {name: key for key, name in CLASSES.items() if any(name in report.get("classes", {}) for report in reports)}
    classes, footnotes = [*keys] if len(keys) > 1 else [], compared_runs.footnotes()
    metrics: dict[str, FigureOf] = {name: (keys[name], None) for name in classes}
    rows = [_bleu_row(compared_runs, group, "classes", metrics, footnotes) for group in compared_runs.groups]
    note = f"Means over pairs; in brackets the gain over {compared_runs.baseline.label}"
    title = f"BLEU by resource class{_title_end(compared_runs)}"
    return Table(_file_name("classes", compared_runs), title, note, ("", *classes), rows, footnotes.lines())


def cost_table(compared_runs: ComparedRuns) -> Table:
    """Makes a table of time and memory, and their ratio to the baseline's.

    Args:
        compared_runs: compared runs.

    Returns:
        The table: a row a group; speed in target tokens a second, memory in 1e9 bytes.
    """
    baseline, rows, footnotes = _mean_costs(compared_runs.baseline), [], compared_runs.footnotes()
    for group in compared_runs.groups:
        costs = _mean_costs(group)
        ratios = {
            "tokens_per_sec": _ratio(baseline["tokens_per_sec"], costs["tokens_per_sec"]),
            "memory_gb": _ratio(costs["memory_gb"], baseline["memory_gb"]),
            "minutes": _ratio(costs["minutes"], baseline["minutes"]),
        }
        for key, text in ratios.items():
            ratios[key] += footnotes.mark(compared_runs.unlike(group, key)) if text != "–" else ""
        rows.append((
            group.label,
            format_number(costs["tokens_per_sec"], 0), ratios["tokens_per_sec"],
            format_number(costs["memory_gb"], 2), ratios["memory_gb"],
            format_number(costs["minutes"], 1), ratios["minutes"],
        ))  # fmt: skip
    head = ("", "tokens/s", "time a token ×", "peak GB", "memory ×", "minutes", "time in all ×")
    note = f"× is the ratio to {compared_runs.baseline.label}; median speed of the training reports, validation aside"
    title = f"Cost{_title_end(compared_runs)}"
    return Table(_file_name("cost", compared_runs), title, note, head, rows, footnotes.lines())


def change_table(compared_runs: ComparedRuns) -> Table:
    """Makes a table of the settings that runs changed on the way.

    Args:
        compared_runs: compared runs.

    Returns:
        The table: a row a change; none where every run was trained by one recipe.
    """
    runs = compared_runs.runs
    rows = change_cells([f"{run.label}, seed {run.seed}" for run in runs], [run.changes for run in runs])
    note = "What a run that was resumed had otherwise from an update on; the run's other tables and its settings do not"
    title = f"Settings changed on the way{_title_end(compared_runs)}"
    head = ("run", "after update", "setting", "before", "from then on")
    return Table(_file_name("changes", compared_runs), title, f"{note} tell it", head, rows)


def table_markdown(table: Table) -> str:
    """Writes a table as Markdown.

    Args:
        table: the table.

    Returns:
        Its title, note, rows and footnotes.
    """
    lines = [f"### {table.title}", "", f"{table.note}.", "", markdown_row(table.head)]
    lines.append("|---|" + "---:|" * (len(table.head) - 1))
    notes = [line for footnote in table.footnotes for line in ("", footnote)]
    return "\n".join([*lines, *(markdown_row(row) for row in table.rows), *notes])


def table_csv(table: Table) -> str:
    """Writes a table as CSV.

    Args:
        table: the table.

    Returns:
        Its head and rows, then its footnotes.
    """
    text = io.StringIO()
    csv.writer(text).writerows([table.head, *table.rows, *((footnote,) for footnote in table.footnotes)])
    return text.getvalue()


def _values(group: RunGroup, key: str) -> list[float]:
    """A metric of the runs that have it."""
    return [value for run in group.runs if np.isfinite(value := metrics_of_run(run)[key])]


def _bleu_row(
    compared_runs: ComparedRuns,
    group: RunGroup,
    section: str,
    metrics: Mapping[str, FigureOf],
    footnotes: Footnotes,
) -> Cells:
    """A group's mean BLEU of each pair or class in its reports, with the gain over the baseline's where comparable."""
    cells = [group.label + footnotes.mark(compared_runs.unlike(group, TRAINING))]
    for name, (metric, pairs) in metrics.items():
        values, baseline = _bleu_values(group, section, name), _bleu_values(compared_runs.baseline, section, name)
        has_gain = (
            values
            and baseline
            and group is not compared_runs.baseline
            and compared_runs.is_comparable(group, metric, pairs)
        )
        gain = float(np.mean(values) - np.mean(baseline)) if has_gain else None
        cell = _cell(values, 2, gain, compared_runs.bootstrap(group.label, "bleu", name), spread=False)
        cells.append(cell + (footnotes.mark(compared_runs.unlike(group, metric, pairs)) if values else ""))
    return tuple(cells)


def _bleu_values(group: RunGroup, section: str, name: str) -> list[float]:
    scores = [(run.report or {}).get(section, {}).get(name) for run in group.runs]
    return [score["bleu"] for score in scores if score]


def _cell(
    values: list[float], digits: int, gain: float | None, difference: Difference | None, spread: bool = True
) -> str:
    """Mean, spread and gain; the gain has a star where its difference's interval excludes zero."""
    if not values:
        return "–"
    text = format_number(float(np.mean(values)), digits)
    if spread and len(values) > 1:
        text += f" ±{np.std(values, ddof=1):.{digits}f}"
    if gain is None:
        return text
    star = "*" if difference is not None and excludes_zero(difference) else ""
    return f"{text} ({gain:+.{digits}f}{star})"


def _mean_costs(group: RunGroup) -> dict[str, float]:
    rows = [metrics_of_run(run) for run in group.runs]
    keys = ("tokens_per_sec", "memory_gb", "minutes")
    return {key: float(np.mean([row[key] for row in rows])) for key in keys}


def _ratio(value: float, base: float) -> str:
    return format_number(value / base if base else float("nan"), 2)


def _baseline_name(comparisons: Sequence[ComparedRuns]) -> str:
    names = list(dict.fromkeys(compared_runs.baseline.label for compared_runs in comparisons))
    return names[0] if len(names) == 1 else "each condition's baseline"


def _title_end(compared_runs: ComparedRuns) -> str:
    return f", {compared_runs.name}" if compared_runs.name else ""


def _file_name(name: str, compared_runs: ComparedRuns) -> str:
    return f"{compared_runs.name}-{name}" if compared_runs.name else name

"""The papers' tables: BLEU by pair with gains, rows by conditions, deficits, cost; as Markdown or CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.evaluation.significance import Difference
from mnmt_ds.reporting.changed_settings import change_cells
from mnmt_ds.reporting.comparison import ComparedRuns, RunGroup
from mnmt_ds.reporting.formatting import excludes_zero, format_number
from mnmt_ds.reporting.metrics import metrics_of_run
from mnmt_ds.reporting.unlike import TRAINING, Footnotes

Cells = tuple[str, ...]


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


def all_tables(parts: Sequence[ComparedRuns]) -> list[Table]:
    """Makes all tables that these runs fill.

    Args:
        parts: compared runs, a condition of the study each.

    Returns:
        The tables, without those that would be empty.
    """
    tables = [
        settings_table(parts, "bleu", 2, "BLEU", "Macro average over pairs"),
        settings_table(parts, "bleu_ceiling", 2, "Ceiling of BLEU", "BLEU of the references themselves after the"
                       " tokenizer's round trip, macro average over pairs: more cannot be reached"),
        settings_table(parts, "dev", 3, "Dev loss, nats a token", "Mean over pairs of the label-smoothed"
                       " cross-entropy, at the overall best checkpoint"),
        settings_table(parts, "dev_bits", 3, "Dev loss, bits a token", "The same in the unit of paper 1's figures:"
                       " nats times 1.4427"),
        settings_table(parts, "deficit", 3, "Performance deficit, nats a token", "Dev loss that the overall best"
                       " checkpoint loses against each pair's own best one, summed over pairs (paper 1, Table 3)"),
        settings_table(parts, "deficit_bits", 3, "Performance deficit, bits a token", "The same in the unit of paper"
                       " 1's Table 3: nats times 1.4427"),
        *(bleu_by_pair(part) for part in parts),
        *(ceiling_by_pair(part) for part in parts),
        *(bleu_by_class(part) for part in parts),
        *(cost_table(part) for part in parts),
        *(change_table(part) for part in parts),
    ]  # fmt: skip
    return [table for table in tables if any(cell != "–" for row in table.rows for cell in row[1:])]


def settings_table(parts: Sequence[ComparedRuns], key: str, digits: int, title: str, note: str) -> Table:
    """Makes a table of a metric's mean and spread over seeds, with gains over each condition's baseline.

    Args:
        parts: compared runs, a condition of the study each.
        key: of the metric in ``COMPARED_METRICS``.
        digits: after the decimal point.
        title: of the table.
        note: what the metric is.

    Returns:
        The table: a row a method, a column a condition.
    """
    labels = list(dict.fromkeys(group.label for part in parts for group in part.groups))
    rows, footnotes = [], Footnotes(_baseline_name(parts))
    for label in labels:
        cells = []
        for part in parts:
            group = next((group for group in part.groups if group.label == label), None)
            values = _values(group, key) if group is not None else []
            baseline = _values(part.baseline, key)
            gain = float(np.mean(values) - np.mean(baseline)) if values and baseline else None
            difference = part.bootstrap(label, "bleu", "macro") if key == "bleu" else None
            reasons = (*part.unlike(group, key), *part.unlike(group, TRAINING)) if group is not None else ()
            comparable = group is not None and part.is_comparable(group, key)
            gain = gain if label != part.baseline.label and comparable else None
            cells.append(_cell(values, digits, gain, difference) + (footnotes.mark(reasons) if values else ""))
        rows.append((label, *cells))
    star = "; * a gain whose 95 % interval (paired bootstrap over sentences) excludes zero" if key == "bleu" else ""
    gains = f"; in brackets the gain over {_baseline_name(parts)}" if len(labels) > 1 else ""
    head = ("", *(part.name or title for part in parts))
    return Table(key, title, note + gains + star, head, rows, footnotes.lines())


def bleu_by_pair(part: ComparedRuns) -> Table:
    """Makes a table of every pair's BLEU, with gains over the baseline.

    Args:
        part: compared runs.

    Returns:
        The table: a row a group, a column a pair, from the least training text to the most.
    """
    pairs, footnotes = list(part.sizes), part.footnotes()
    members = {pair: [pair] for pair in pairs}
    rows = [_bleu_row(part, group, "pairs", members, footnotes) for group in part.groups]
    head = ("", *(f"{pair} ({part.sizes[pair]:,})" for pair in pairs))
    note = f"Training sentences beside the pair; in brackets the gain over {part.baseline.label}; * as above"
    return Table(_file_name("pairs", part), f"BLEU by pair{_title_end(part)}", note, head, rows, footnotes.lines())


def ceiling_by_pair(part: ComparedRuns) -> Table:
    """Makes a table of what BLEU the references themselves reach after the tokenizer's round trip.

    Args:
        part: compared runs.

    Returns:
        The table: a row a group, a column a pair.
    """
    rows = []
    for group in part.groups:
        reports = [(run.report or {}).get("pairs", {}) for run in group.runs]
        ceilings = {
            pair: [facts[pair]["bleu_ceiling"] for facts in reports if "bleu_ceiling" in facts.get(pair, {})]
            for pair in part.sizes
        }
        rows.append((group.label, *(_cell(values, 2, None, None, spread=False) for values in ceilings.values())))
    note = "BLEU of the references after the tokenizer has encoded and decoded them: more cannot be reached"
    title = f"Ceiling of BLEU by pair{_title_end(part)}"
    return Table(_file_name("ceilings", part), title, note, ("", *part.sizes), rows)


def bleu_by_class(part: ComparedRuns) -> Table:
    """Makes a table of mean BLEU over high-, low- and very-low-resource pairs, with gains over the baseline.

    Args:
        part: compared runs.

    Returns:
        The table: a row a group, a column a class; no columns where all pairs are of one class.
    """
    reports = [run.report or {} for run in part.runs]
    classes = list(dict.fromkeys(name for report in reports for name in report.get("classes", {})))
    classes, footnotes = classes if len(classes) > 1 else [], part.footnotes()
    members = {
        name: sorted({pair for report in reports for pair in report.get("classes", {}).get(name, {}).get("pairs", ())})
        for name in classes
    }
    rows = [_bleu_row(part, group, "classes", members, footnotes) for group in part.groups]
    note = f"Means over pairs; in brackets the gain over {part.baseline.label}"
    title = f"BLEU by resource class{_title_end(part)}"
    return Table(_file_name("classes", part), title, note, ("", *classes), rows, footnotes.lines())


def cost_table(part: ComparedRuns) -> Table:
    """Makes a table of time and memory, and their ratio to the baseline's.

    Args:
        part: compared runs.

    Returns:
        The table: a row a group; speed in target tokens a second, memory in 1e9 bytes.
    """
    baseline, rows = _mean_costs(part.baseline), []
    for group in part.groups:
        costs = _mean_costs(group)
        time_per_token = _ratio(baseline["tokens_per_sec"], costs["tokens_per_sec"])
        memory = _ratio(costs["memory_gb"], baseline["memory_gb"])
        time_in_all = _ratio(costs["minutes"], baseline["minutes"])
        rows.append((
            group.label,
            format_number(costs["tokens_per_sec"], 0), time_per_token,
            format_number(costs["memory_gb"], 2), memory,
            format_number(costs["minutes"], 1), time_in_all,
        ))  # fmt: skip
    head = ("", "tokens/s", "time a token ×", "peak GB", "memory ×", "minutes", "time in all ×")
    note = f"× is the ratio to {part.baseline.label}; median speed of the training reports, validation aside"
    return Table(_file_name("cost", part), f"Cost{_title_end(part)}", note, head, rows)


def change_table(part: ComparedRuns) -> Table:
    """Makes a table of the settings that runs changed on the way.

    Args:
        part: compared runs.

    Returns:
        The table: a row a change; none where every run was trained by one recipe.
    """
    runs = part.runs
    rows = change_cells([f"{run.label}, seed {run.seed}" for run in runs], [run.changes for run in runs])
    note = "What a run that was resumed had otherwise from an update on; the run's other tables and its settings do not"
    title = f"Settings changed on the way{_title_end(part)}"
    head = ("run", "after update", "setting", "before", "from then on")
    return Table(_file_name("changes", part), title, f"{note} tell it", head, rows)


def table_markdown(table: Table) -> str:
    """Writes a table as Markdown.

    Args:
        table: the table.

    Returns:
        Its title, note, rows and footnotes.
    """
    lines = [f"### {table.title}", "", f"{table.note}.", "", "| " + " | ".join(table.head) + " |"]
    lines.append("|---|" + "---:|" * (len(table.head) - 1))
    notes = [line for footnote in table.footnotes for line in ("", footnote)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table.rows), *notes])


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
    part: ComparedRuns, group: RunGroup, section: str, members: Mapping[str, Sequence[str]], footnotes: Footnotes
) -> Cells:
    """A group's mean BLEU of each pair or class in its reports, with the gain over the baseline's where comparable."""
    cells = [group.label + footnotes.mark(part.unlike(group, TRAINING))]
    for name, pairs in members.items():
        values, baseline = _bleu_values(group, section, name), _bleu_values(part.baseline, section, name)
        has_gain = values and baseline and group is not part.baseline and part.is_comparable(group, "bleu", pairs)
        gain = float(np.mean(values) - np.mean(baseline)) if has_gain else None
        cell = _cell(values, 2, gain, part.bootstrap(group.label, "bleu", name), spread=False)
        cells.append(cell + (footnotes.mark(part.unlike(group, "bleu", pairs)) if values else ""))
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


def _baseline_name(parts: Sequence[ComparedRuns]) -> str:
    names = list(dict.fromkeys(part.baseline.label for part in parts))
    return names[0] if len(names) == 1 else "each condition's baseline"


def _title_end(part: ComparedRuns) -> str:
    return f", {part.name}" if part.name else ""


def _file_name(name: str, part: ComparedRuns) -> str:
    return f"{part.name}-{name}" if part.name else name

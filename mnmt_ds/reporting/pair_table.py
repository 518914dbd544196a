"""The page's table of all language pairs: its figures are sorted and searched in the browser.

Shape letters: V validations of a run.
"""

import json
from typing import Any

import numpy as np

from mnmt_ds.reporting.comparison import ComparedRuns
from mnmt_ds.reporting.drawing import pair_name

MOST_CELLS = 300_000
"""Numbers in the table; where there would be more, the last experiments are left out."""
FIGURES = {"deficit": 3, "dev": 3, "bleu": 1}
"""Figures of the table, in its order, and their digits."""
TITLES = {
    "deficit": "deficit, nats a token",
    "dev": "dev loss at the overall best, nats a token",
    "bleu": "BLEU",
}


def pair_table(compared_runs: ComparedRuns) -> str:
    """Collects every pair's figures.

    Args:
        compared_runs: compared runs; a group's figure is the mean over its seeds.

    Returns:
        JSON that may stand in HTML: names and training sentences of the pairs, names of the experiments, and by figure
        a row a pair of a number an experiment (null: not known); empty where no figure is known.
    """
    groups = compared_runs.groups[: max(1, MOST_CELLS // max(1, len(FIGURES) * len(compared_runs.sizes)))]
    pairs = [*compared_runs.sizes]
    figures: dict[str, Any] = {}
    by_figure: dict[str, list[list[float | None]]] = {name: [] for name in FIGURES}
    for group in groups:
        deficits = [run.deficits() for run in group.runs]
        scores = [(run.report or {}).get("pairs", {}) for run in group.runs]
        by_figure["deficit"].append([_mean([values.get(pair) for values in deficits], 3) for pair in pairs])
        validated = [run for run in group.runs if run.best_validation >= 0]
        losses = [{pair: loss_V[run.best_validation] for pair, loss_V in run.dev_losses.items()} for run in validated]
        by_figure["dev"].append([_mean([values.get(pair) for values in losses], 3) for pair in pairs])
        by_figure["bleu"].append(
            [_mean([by_pair.get(pair, {}).get("bleu") for by_pair in scores], 1) for pair in pairs]
        )
    for name, title in TITLES.items():
        if any(value is not None for values in by_figure[name] for value in values):
            figures[name] = {"title": title, "digits": FIGURES[name], "rows": [*zip(*by_figure[name], strict=True)]}
    if not figures:
        return ""
    table = {
        "pairs": [pair_name(pair) for pair in pairs],
        "sizes": [compared_runs.sizes[pair] for pair in pairs],
        "groups": [group.label for group in groups],
        "left_out": len(compared_runs.groups) - len(groups),
        "figures": figures,
    }
    return json.dumps(table, separators=(",", ":")).replace("<", "\\u003c")


def _mean(values: list[float | None], digits: int) -> float | None:
    """Mean of what is known."""
    finite_values = [value for value in values if value is not None and np.isfinite(value)]
    return round(float(np.mean(finite_values)), digits) if finite_values else None

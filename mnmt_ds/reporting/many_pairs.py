"""What a page draws of many language pairs: the ones that stand out; and of many validations: as many as can be seen.

Shape letters: V validations of a run.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mnmt_ds.reporting.comparison import ComparedRuns, RunGroup
from mnmt_ds.reporting.runs import Series
from mnmt_ds.reporting.summary import summarise_groups

PAIRS_DRAWN = 31
"""Of more pairs a chart draws these; with the mean over pairs the curves are 32 panels."""
GROUPS_DRAWN = 12
"""Of more experiments, too; there are eight colours."""
POINTS_DRAWN = 60_000
"""Points of all curves of a chart."""
LEAST_POINTS, MOST_POINTS = 30, 400
"""Points of one curve."""
CELLS_AS_SHAPES = 2_000
"""Of more cells a heat map is a picture, not a shape a cell."""


def notable_pairs(compared_runs: ComparedRuns, most: int = PAIRS_DRAWN) -> list[str]:
    """Picks the pairs that a reader would look for first.

    Half of them have the largest deficit in any experiment; the others, where there are test scores, are those whose
    BLEU lies farthest from the baseline's, up and down.

    Args:
        compared_runs: compared runs.
        most: how many.

    Returns:
        All pairs where there are no more than ``most``; else as many, in the order of ``compared_runs.sizes``.
    """
    if len(compared_runs.sizes) <= most:
        return [*compared_runs.sizes]
    runs = [group.runs[0] for group in compared_runs.groups]
    deficits = [run.deficits() for run in runs]
    deficit = {pair: max((values.get(pair, 0.0) for values in deficits), default=0.0) for pair in compared_runs.sizes}
    bleu = [{pair: scores["bleu"] for pair, scores in (run.report or {}).get("pairs", {}).items()} for run in runs]
    bleu_changes = {
        pair: max((abs(scores[pair] - bleu[0][pair]) for scores in bleu[1:] if pair in scores), default=0.0)
        if pair in bleu[0]
        else 0.0
        for pair in compared_runs.sizes
    }
    by_deficit, by_bleu = (
        sorted(compared_runs.sizes, key=lambda pair: -figure[pair]) for figure in (deficit, bleu_changes)
    )
    chosen = dict.fromkeys(by_deficit[: most // 2])
    for pair in by_bleu if any(bleu_changes.values()) else by_deficit:
        if len(chosen) == most:
            break
        chosen[pair] = None
    return [pair for pair in compared_runs.sizes if pair in chosen]


def notable_groups(compared_runs: ComparedRuns, most: int = GROUPS_DRAWN) -> list[RunGroup]:
    """Picks the experiments that charts draw: the baseline, and of the others those with the lowest dev loss.

    Args:
        compared_runs: compared runs.
        most: how many.

    Returns:
        All where there are no more than ``most``; else as many, in the order of ``compared_runs.groups``.
    """
    if len(compared_runs.groups) <= most:
        return [*compared_runs.groups]
    losses = [summary.mean["dev"] for summary in summarise_groups(compared_runs.groups)]
    order = sorted(range(1, len(losses)), key=lambda i: (not np.isfinite(losses[i]), losses[i]))
    chosen = {0, *order[: most - 1]}
    return [group for i, group in enumerate(compared_runs.groups) if i in chosen]


def notable_runs(compared_runs: ComparedRuns) -> ComparedRuns:
    """Selects what charts draw of a part: of many pairs and experiments those that stand out.

    Args:
        compared_runs: compared runs.

    Returns:
        The part; its runs, and their sums and means over pairs, are the same.
    """
    compared_runs = compared_runs._replace(groups=notable_groups(compared_runs))
    return compared_runs._replace(sizes={pair: compared_runs.sizes[pair] for pair in notable_pairs(compared_runs)})


def points_a_curve(curves: int) -> int:
    """Computes how many points a curve gets in a chart of many.

    Args:
        curves: curves of the chart.

    Returns:
        Points of each.
    """
    return int(np.clip(POINTS_DRAWN // max(1, curves), LEAST_POINTS, MOST_POINTS))


def drawn_points(values_V: Series, most: int) -> np.ndarray:
    """Thins out a curve for drawing: each stretch of neighbours keeps its lowest and highest point, and both ends stay.

    Args:
        values_V: the curve; nan where it has no value.
        most: points that stay, about.

    Returns:
        Indices of the points, ascending.
    """
    count = len(values_V)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, max(2, most // 2) + 1).astype(np.int64)
    kept_indices = {0, count - 1}
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        stretch = values_V[first:last]
        if np.isfinite(stretch).any():
            kept_indices |= {int(first + np.nanargmin(stretch)), int(first + np.nanargmax(stretch))}
    return np.array(sorted(kept_indices), np.int64)


def deficit_of_others(deficits: Mapping[str, float], pairs: Sequence[str]) -> float:
    """Sums the deficit of the pairs that are not drawn.

    Args:
        deficits: by pair.
        pairs: those that are drawn.

    Returns:
        In the unit of the deficits; 0.0 where all are drawn.
    """
    drawn = set(pairs)
    return sum((deficit for pair, deficit in deficits.items() if pair not in drawn), start=0.0)

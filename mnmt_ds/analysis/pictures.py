"""The pictures of paper 3's analyses, as PNG: heat maps (Figures 2, 6, 7), pruning curve (3), distribution (10).

Shape letters: N parameters.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mnmt_ds.analysis.specificity import SensitivitySpread
from mnmt_ds.files import replacing

SIZE = 0.62
"""Inches of a heat map's cell."""


def heat_maps(path: Path, maps: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Draws the correlations of every two languages, one map a title, on one scale.

    Args:
        path: PNG file to write.
        maps: (L, L) correlations by title.
        names: the L languages.
    """
    wide = SIZE * len(names) + 1.2
    figure = Figure(figsize=(wide * len(maps) + 0.8, wide), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    low = min(float(values.nan_to_num(1.0).min()) for values in maps.values())
    for ax, (title, values) in zip(axes, maps.items(), strict=True):
        drawn = ax.imshow(values.numpy(), cmap="viridis", vmin=min(low, 0.99), vmax=1.0)
        _cells(ax, values, names, names)
        ax.set_title(title, fontsize=10)
    figure.colorbar(drawn, ax=list(axes), shrink=0.7, label="Pearson's correlation")
    _save(figure, path)


def row_heat_map(path: Path, values: Mapping[str, Mapping[str, float]], label: str) -> None:
    """Draws a number for each row and column, such as a layer's mean specificity for each language.

    Args:
        path: PNG file to write.
        values: {row: {column: number}}, the same columns in every row.
        label: of the colour scale.
    """
    names = list(next(iter(values.values())))
    figure = Figure(figsize=(SIZE * len(names) + 3, 0.32 * len(values) + 1.2), layout="constrained")
    ax = figure.subplots()
    table = np.array([[row[name] for name in names] for row in values.values()])
    drawn = ax.imshow(table, cmap="viridis", aspect="auto")
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(values)), list(values), fontsize=8)
    figure.colorbar(drawn, ax=ax, label=label)
    _save(figure, path)


def pruning_curves(path: Path, bleu: Mapping[str, Mapping[float, float]]) -> None:
    """Draws BLEU against the share of pruned parameters, one curve a run.

    Args:
        path: PNG file to write.
        bleu: {run: {share pruned: BLEU}}.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for name, points in bleu.items():
        ratios = sorted(points)
        ax.plot([100 * ratio for ratio in ratios], [points[ratio] for ratio in ratios], "o-", label=name)
    ax.set_xlabel("parameters pruned, the least language-specific first [%]")
    ax.set_ylabel("BLEU, mean over pairs")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    _save(figure, path)


def sensitivity_violins(path: Path, spreads: Mapping[str, SensitivitySpread]) -> None:
    """Draws violins of the sensitivity (left axis) and its standard deviation (right axis), one a run.

    Args:
        path: PNG file to write.
        spreads: by name of the run.
    """
    figure = Figure(figsize=(2.2 + 1.4 * len(spreads), 4), layout="constrained")
    ax = figure.subplots()
    positions = list(range(1, len(spreads) + 1))
    ax.violinplot([spread.shown_N[:: max(1, len(spread.shown_N) // 20_000)].numpy() for spread in spreads.values()])
    ax.set_xticks(positions, list(spreads))
    ax.set_ylabel("sensitivity")
    other = ax.twinx()
    other.plot(positions, [spread.deviation for spread in spreads.values()], "o-", color="tab:green")
    other.set_ylabel("standard deviation", color="tab:green")
    _save(figure, path)


def _cells(ax: Axes, values: Tensor, across: Sequence[str], down: Sequence[str]) -> None:
    ax.set_xticks(range(len(across)), across, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(down)), down, fontsize=8)
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")

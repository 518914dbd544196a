"""Pictures of mutual distillation: the Pareto frontier (paper 2, Figure 4), searched weights over time (Figure 5)."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import pyplot

from mnmt_ds.reporting.comparison import RunGroup
from mnmt_ds.reporting.figures import FAINT, STYLE, WIDTH, arrow, colour, grid, svg, tag
from mnmt_ds.reporting.frontier import experiments, frontier
from mnmt_ds.reporting.runs import Run


@matplotlib.rc_context(STYLE)
def frontiers(groups: Sequence[RunGroup]) -> str | None:
    """Each model a point, each experiment's frontier a staircase; the legend gives hypervolumes."""
    found = experiments([run for group in groups for run in group.runs])
    if not any(len(experiment.points) > 1 for experiment in found):
        return None
    figure, ax = pyplot.subplots(figsize=(WIDTH * 0.62, 4.6), layout="constrained")
    points = [(point.high, point.low) for experiment in found for point in experiment.points]
    left, bottom = (min(values) - 0.08 * (np.ptp(values) or 1.0) for values in zip(*points, strict=True))
    for index, experiment in enumerate(found):
        own = [(point.high, point.low) for point in experiment.points]
        front = frontier(own)
        xs, ys = [left, *(x for x, _ in front), front[-1][0]], [front[0][1], *(y for _, y in front), bottom]
        ax.step(xs, ys, where="pre", color=colour(index), lw=1.3, alpha=0.8)
        label = f"{experiment.name}  ({experiment.hypervolume:.1f})"
        ax.plot(*zip(*own, strict=True), "o", color=colour(index), ms=6.5, label=label)
        for point in experiment.points if len(own) > 1 else ():
            name = point.label.removeprefix(experiment.name + ".")
            ax.annotate(name, (point.high, point.low), (5, 4), textcoords="offset points", fontsize=7.5, color=FAINT)
    ax.set_xlim(left=left)
    ax.set_ylim(bottom=bottom)
    ax.set_xlabel("mean BLEU, high-resource pairs")
    ax.set_ylabel("mean BLEU, all others")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="experiment (hypervolume)", alignment="left")
    return svg(figure)


@matplotlib.rc_context(STYLE)
def weights(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> str | None:
    """A panel a student (a group's first seed): every pair's distillation weight over epochs."""
    shown = [(i, group, run) for i, group in enumerate(groups) if (run := _weighted(group)) is not None]
    if not shown:
        return None
    pairs = [pair for pair in sizes if any("alpha" in run.by_pair.get(pair, {}) for _, _, run in shown)]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.92, len(pairs)))
    figure, axes = grid(len(shown), 2, WIDTH / 2, 2.5, sharey=True)
    for ax, (index, group, run) in zip(axes, shown, strict=True):
        for pair, shade in zip(pairs, shades, strict=True):
            series = run.by_pair.get(pair, {}).get("alpha")
            if series is not None:
                tag(ax.step(run.epoch_V, series, where="post", color=shade, lw=1.5, label=arrow(pair)), index)
        ax.set_title(group.label)
        ax.set_xlabel("epoch")
        ax.set_ylim(0, 1)
    axes[0].set_ylabel("weight of the peer's lesson, α")
    axes[0].legend(loc="upper left", ncols=2, fontsize=7.5, handlelength=1.2, columnspacing=1.0)
    return svg(figure)


def _weighted(group: RunGroup) -> Run | None:
    return next((run for run in group.runs if any("alpha" in series for series in run.by_pair.values())), None)

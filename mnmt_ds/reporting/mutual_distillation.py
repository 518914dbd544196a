"""Charts of mutual distillation: Pareto frontier (paper 2, Figure 4), searched weights over time (Figure 5), searches.

Shape letters: V validations of a run.
"""

from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from mnmt_ds import metric_keys
from mnmt_ds.reporting.comparison import ComparedRuns, GroupRun
from mnmt_ds.reporting.drawing import (
    FAINT_COLOUR,
    STYLE,
    WIDTH,
    Steps,
    draw_steps,
    group_colour,
    make_panels,
    pair_title,
    set_group,
    to_svg,
)
from mnmt_ds.reporting.frontier import find_experiments, pareto_frontier
from mnmt_ds.reporting.runs import Run


@matplotlib.rc_context(STYLE)
def frontier_chart(compared_runs: ComparedRuns) -> str | None:
    """Draws each model as a point and each experiment's frontier as a staircase; the legend gives hypervolumes.

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no experiment has several models.
    """
    experiments = find_experiments(compared_runs.runs)
    if not any(len(experiment.points) > 1 for experiment in experiments):
        return None
    figure, ax = pyplot.subplots(figsize=(WIDTH * 0.62, 4.6), layout="constrained")
    all_points = [student.point for experiment in experiments for student in experiment.points]
    left, bottom = (min(values) - 0.08 * (np.ptp(values) or 1.0) for values in zip(*all_points, strict=True))
    for index, experiment in enumerate(experiments):
        points = [student.point for student in experiment.points]
        frontier = pareto_frontier(points)
        xs = [left, *(x for x, _ in frontier), frontier[-1][0]]
        ys = [frontier[0][1], *(y for _, y in frontier), bottom]
        ax.step(xs, ys, where="pre", color=group_colour(index), lw=1.3, alpha=0.8)
        label = f"{experiment.name}  ({experiment.hypervolume:.1f})"
        ax.plot(*zip(*points, strict=True), "o", color=group_colour(index), ms=6.5, label=label)
        for student in experiment.points if len(points) > 1 else ():
            name = student.label.removeprefix(experiment.name + ".")
            ax.annotate(name, student.point, (5, 4), textcoords="offset points", fontsize=7.5, color=FAINT_COLOUR)
    ax.set_xlim(left=left)
    ax.set_ylim(bottom=bottom)
    ax.set_xlabel("mean BLEU, high-resource pairs")
    ax.set_ylabel("mean BLEU, all others")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="experiment (hypervolume)", alignment="left")
    return to_svg(figure)


@matplotlib.rc_context(STYLE)
def weight_chart(compared_runs: ComparedRuns) -> str | None:
    """Draws every pair's distillation weight over epochs, a panel a student (a group's first seed).

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run has weights.
    """
    with_weights = compared_runs.first_runs(lambda run: bool(_weights(run)))
    if not with_weights:
        return None
    panels = [(group_run, _weights(group_run.run)) for group_run in with_weights]
    pairs = [pair for pair in compared_runs.sizes if any(pair in weights for _, weights in panels)]
    return draw_steps(panels, pairs, "distillation weight α", 1)


MARKERS = {"raise": "^", "keep": "o", "lower": "v"}
"""Of each action."""


@matplotlib.rc_context(STYLE)
def search_chart(compared_runs: ComparedRuns) -> str | None:
    """Draws every search of weights (paper 2, Algorithm 2), a panel a pair: trials' dev losses, and what was taken.

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run logged a search.
    """
    searched = compared_runs.first_runs(lambda run: bool(np.isfinite(run.step_size_V).any()))
    pairs = [
        pair for pair in compared_runs.sizes if any("action" in row.run.pair_metrics.get(pair, {}) for row in searched)
    ]
    if not pairs:
        return None
    columns = min(4, len(pairs) + 1)
    figure, axes = make_panels(len(pairs) + 1, columns, WIDTH / columns, 2.3, sharex=True)
    for ax, pair in zip(axes, pairs, strict=False):
        ax.set_title(pair_title(pair, compared_runs.sizes))
        ax.axhline(0, color=FAINT_COLOUR, lw=0.8)
        for group_run in searched:
            _draw_trials(ax, group_run, pair)
    axes[-1].set_title("step size μ", fontweight="bold")
    for group_run in searched:
        run, colour = group_run.run, group_colour(group_run.group_index)
        lines = axes[-1].plot(run.epoch_V, run.step_size_V, ".-", color=colour, lw=1.4, label=group_run.group.label)
        set_group(lines, group_run.group_index)
    axes[-1].set_ylim(0, 1.05)
    axes[-1].legend(loc="lower left", fontsize=7.5)
    for ax in axes[-columns:]:
        ax.set_xlabel("epoch")
        ax.xaxis.set_tick_params(labelbottom=True)
    figure.supylabel("dev loss of a trial less that of keeping, nats a token", fontsize=9.5)
    return to_svg(figure)


def _draw_trials(ax: Axes, group_run: GroupRun, pair: str) -> None:
    """A run's trials of one pair: hollow marks where an action was tried, a filled one where it was taken."""
    metrics, colour = group_run.run.pair_metrics.get(pair, {}), group_colour(group_run.group_index)
    if "action" not in metrics:
        return
    epoch_V = group_run.run.epoch_V
    for action, marker in MARKERS.items():
        excess_V = metrics[f"trial_{action}"] - metrics["trial_keep"]
        taken_V = metrics["action"] == metric_keys.ACTION_NUMBERS[action]
        style: Any = {"marker": marker, "color": colour, "ls": "", "ms": 4.5}
        if action != "keep":
            set_group(ax.plot(epoch_V, excess_V, mfc="white", mew=0.9, **style), group_run.group_index)
        set_group(ax.plot(epoch_V[taken_V], excess_V[taken_V], **style), group_run.group_index)


def _weights(run: Run) -> Steps:
    """α of each pair at the validations."""
    return {pair: (run.epoch_V, metrics["alpha"]) for pair, metrics in run.pair_metrics.items() if "alpha" in metrics}

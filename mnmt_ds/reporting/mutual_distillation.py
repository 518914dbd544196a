"""Charts of mutual distillation: the Pareto frontier (paper 2, Figure 4), searched weights over time (Figure 5).

Shape letters: V validations of a run.
"""

import matplotlib
import numpy as np
from matplotlib import pyplot

from mnmt_ds.reporting.comparison import ComparedRuns
from mnmt_ds.reporting.drawing import FAINT_COLOUR, STYLE, WIDTH, Steps, draw_steps, group_colour, to_svg
from mnmt_ds.reporting.frontier import find_experiments, pareto_frontier
from mnmt_ds.reporting.runs import Run


@matplotlib.rc_context(STYLE)
def frontier_chart(part: ComparedRuns) -> str | None:
    """Draws each model as a point and each experiment's frontier as a staircase; the legend gives hypervolumes.

    Args:
        part: compared runs.

    Returns:
        SVG; None where no experiment has several models.
    """
    experiments = find_experiments(part.runs)
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
def weight_chart(part: ComparedRuns) -> str | None:
    """Draws every pair's distillation weight over epochs, a panel a student (a group's first seed).

    Args:
        part: compared runs.

    Returns:
        SVG; None where no run has weights.
    """
    with_weights = part.first_runs(lambda run: bool(_weights(run)))
    if not with_weights:
        return None
    panels = [(group_run, _weights(group_run.run)) for group_run in with_weights]
    pairs = [pair for pair in part.sizes if any(pair in weights for _, weights in panels)]
    return draw_steps(panels, pairs, "distillation weight α", 1)


def _weights(run: Run) -> Steps:
    """α of each pair at the validations."""
    return {pair: (run.epoch_V, metrics["alpha"]) for pair, metrics in run.pair_metrics.items() if "alpha" in metrics}

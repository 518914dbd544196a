"""Charts of convergence: dev-loss curves per pair with their best checkpoints, heat maps of pair by epoch, switches.

Shape letters: V validations of a run, P pairs.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from mnmt_ds.reporting.comparison import ComparedRuns, GroupRun, RunGroup
from mnmt_ds.reporting.drawing import (
    FAINT_COLOUR,
    STYLE,
    TEXT_COLOUR,
    WIDTH,
    add_bits_axis,
    group_colour,
    make_panels,
    pair_title,
    set_group,
    to_svg,
)
from mnmt_ds.reporting.many_pairs import CELLS_AS_SHAPES, drawn_points, points_a_curve
from mnmt_ds.reporting.runs import Run, Series

MOST_TICKS = 100
"""Replacements of a teacher that are drawn in a row, about."""
EXCESS_COLOURS = LinearSegmentedColormap.from_list("excess", ["#f4f7fb", "#9fc3dd", "#3d7fb1", "#173f6b", "#0a1a33"])
AGE_COLOURS = LinearSegmentedColormap.from_list("age", ["#fde3c3", "#f5a259", "#d1562b", "#7c2413"])


@matplotlib.rc_context(STYLE)
def dev_loss_curves(compared_runs: ComparedRuns) -> str | None:
    """Draws the dev loss over epochs, a panel a pair and one for the mean (paper 1, Figures 1 and 3).

    ●: the pair's own best checkpoint (dotted line down); ◇: the run's overall best (dashed line). The height between
    the two is the pair's part of the deficit. Several seeds: thin lines, their mean bold.

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run was validated_runs.
    """
    pairs = [pair for pair in compared_runs.sizes if any(pair in run.dev_losses for run in compared_runs.runs)]
    if not pairs:
        return None
    columns = _panels_a_row(len(pairs) + 1)
    points = points_a_curve(len(compared_runs.runs) * (len(pairs) + 1))
    figure, axes = make_panels(len(pairs) + 1, columns, WIDTH / columns, 2.35, sharex=True)
    for ax, pair in zip(axes, [*pairs, None], strict=True):
        ax.set_title(
            pair_title(pair, compared_runs.sizes) if pair else "mean over pairs",
            fontweight="bold" if pair is None else "normal",
        )
        for index, group in enumerate(compared_runs.groups):
            _draw_curves(ax, index, group, pair, points)
        _cut_start(ax, [_curve(run, pair) for run in compared_runs.runs])
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.margins(x=0.03)
    for ax in axes[-columns:]:
        ax.set_xlabel("epoch")
        ax.xaxis.set_tick_params(labelbottom=True)
    for n, ax in enumerate(axes, start=1):  # each panel has a scale of its own
        add_bits_axis(ax, named=n % columns == 0 or n == len(axes))
    figure.supylabel("dev loss (label-smoothed cross-entropy), nats a token", fontsize=9.5)
    return to_svg(figure)


def _panels_a_row(count: int) -> int:
    """Three or four panels a row, whichever leaves fewer places empty."""
    return min(count, min((4, 3), key=lambda columns: -count % columns))


def _curve(run: Run, pair: str | None) -> Series:
    """A pair's dev loss, (V,), or the mean over pairs; nan where the run has none."""
    if pair is None:
        return run.mean_dev_loss_V
    return run.dev_losses.get(pair, np.full_like(run.mean_dev_loss_V, np.nan))


def _draw_curves(ax: Axes, index: int, group: RunGroup, pair: str | None, points: int) -> None:
    """A group's runs in one panel, thinned; marks of the first seed only."""
    runs = [run for run in group.runs if run.best_validation >= 0 and np.isfinite(_curve(run, pair)).any()]
    several, colour = len(runs) > 1, group_colour(index)
    for seed, run in enumerate(runs):
        loss_V = _curve(run, pair)
        drawn = drawn_points(loss_V, points)
        lines = ax.plot(
            run.epoch_V[drawn], loss_V[drawn], color=colour, lw=0.9 if several else 1.7, alpha=0.45 if several else 1
        )
        set_group(lines, index)
        if several and seed:
            continue
        pair_best = int(np.nanargmin(loss_V))
        x, y = run.epoch_V[pair_best], loss_V[pair_best]
        set_group(ax.plot([x, x], [0, y], color=colour, lw=0.9, ls=(0, (1, 2)), alpha=0.9, zorder=1), index)
        set_group(ax.plot(x, y, "o", color=colour, ms=5.5, zorder=4), index)
        if pair is not None:
            x, y = run.epoch_V[run.best_validation], loss_V[run.best_validation]
            set_group(ax.plot(x, y, "D", ms=6.5, mfc="white", mec=colour, mew=1.5, zorder=5), index)
            set_group(ax.axvline(x, color=colour, lw=0.9, ls=(0, (4, 3)), alpha=0.8, zorder=1), index)
    if several:
        length = min(len(run.epoch_V) for run in runs)
        mean_V = np.mean([_curve(run, pair)[:length] for run in runs], 0)
        drawn = drawn_points(mean_V, points)
        set_group(ax.plot(runs[0].epoch_V[drawn], mean_V[drawn], color=colour, lw=2), index)


def _cut_start(ax: Axes, curves: Sequence[Series]) -> None:
    """Cuts the steep start off, so that the part where runs differ fills the panel."""
    finite = [curve_V[np.isfinite(curve_V)] for curve_V in curves if np.isfinite(curve_V).any()]
    if not finite:
        return
    low = min(loss_V.min() for loss_V in finite)
    start = max(np.sort(loss_V)[int(0.85 * (len(loss_V) - 1))] for loss_V in finite)
    high = max(start, *(loss_V[-1] for loss_V in finite))
    room = max(high - low, 0.02)
    ax.set_ylim(low - 0.12 * room, high + 0.12 * room)


@matplotlib.rc_context(STYLE)
def excess_maps(compared_runs: ComparedRuns) -> str | None:
    """Draws how far each pair is above its own best, pair by epoch, a map a group (its first seed).

    ●: the pair's best epoch; dashed line: the overall best.

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run was validated_runs.
    """
    validated_runs = compared_runs.first_runs(lambda run: run.best_validation >= 0)
    pairs = [
        pair for pair in compared_runs.sizes if any(pair in group_run.run.dev_losses for group_run in validated_runs)
    ]
    if not pairs:
        return None
    excesses = [_excess(group_run.run, pairs) for group_run in validated_runs]
    top = max(0.05, *(float(np.nanpercentile(e_PV[:, e_PV.shape[1] // 4 :], 97)) for e_PV in excesses))
    figure, axes = make_panels(len(validated_runs), 2, WIDTH / 2, 0.9 + 0.24 * len(pairs))
    for ax, group_run, excess_PV in zip(axes, validated_runs, excesses, strict=True):
        run = group_run.run
        image = ax.pcolormesh(
            _edges(run.epoch_V), np.arange(len(pairs) + 1), excess_PV, cmap=EXCESS_COLOURS, vmin=0, vmax=top,
            rasterized=excess_PV.size > CELLS_AS_SHAPES // len(excesses),
        )  # fmt: skip
        for row, pair in enumerate(pairs):
            if pair in run.dev_losses:
                best_epoch = run.epoch_V[run.own_best[pair]]
                ax.plot(best_epoch, row + 0.5, "o", ms=5, mfc="white", mec="#ee6677", mew=1.6)
        ax.axvline(run.epoch_V[run.best_validation], color=TEXT_COLOUR, lw=1.2, ls=(0, (1, 1.5)))
        _set_axes_of_map(ax, group_run, pairs, compared_runs.sizes, _last_epoch(validated_runs))
    figure.colorbar(image, ax=axes, label="nats a token above the pair's own best", shrink=0.8, pad=0.01, extend="max")
    return to_svg(figure)


def _excess(run: Run, pairs: Sequence[str]) -> Series:
    """Dev loss minus its lowest, (P, V); nan where the run lacks the pair."""
    return np.array([
        run.dev_losses[pair] - np.nanmin(run.dev_losses[pair])
        if pair in run.dev_losses
        else np.full_like(run.mean_dev_loss_V, np.nan)
        for pair in pairs
    ])  # fmt: skip


@matplotlib.rc_context(STYLE)
def switch_maps(compared_runs: ComparedRuns) -> str | None:
    """Draws LSSD's switches, pair by epoch (a group's first seed): coloured while a teacher is on, by its age.

    A tick: the pair's teacher was replaced.

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run has teachers.
    """
    with_teachers = compared_runs.first_runs(lambda run: run.has_teachers)
    if not with_teachers:
        return None
    ages_of_runs = [_teacher_ages(group_run.run) for group_run in with_teachers]
    top = max(1.0, *(float(np.nan_to_num(list(ages_of_run.values())).max(initial=0)) for ages_of_run in ages_of_runs))
    pairs = [pair for pair in compared_runs.sizes if any(pair in ages_of_run for ages_of_run in ages_of_runs)]
    figure, axes = make_panels(len(with_teachers), 2, WIDTH / 2, 0.9 + 0.24 * len(pairs))
    for ax, group_run, ages_of_run in zip(axes, with_teachers, ages_of_runs, strict=True):
        run = group_run.run
        age_PV = np.array([ages_of_run.get(pair, np.full_like(run.epoch_V, np.nan)) for pair in pairs])
        image = ax.pcolormesh(
            _edges(run.epoch_V), np.arange(len(pairs) + 1), np.ma.masked_invalid(age_PV), cmap=AGE_COLOURS, vmin=0,
            vmax=top, edgecolors="white", linewidth=0.4, rasterized=age_PV.size > CELLS_AS_SHAPES // len(with_teachers),
        )  # fmt: skip
        for row, pair in enumerate(pairs):
            if pair in ages_of_run:
                replaced = run.epoch_V[np.diff(run.pair_metrics[pair]["version"], prepend=-1) != 0]
                replaced = replaced[:: 1 + len(replaced) // MOST_TICKS]
                ax.plot(replaced, np.full(len(replaced), row + 0.5), "|", color=FAINT_COLOUR, ms=6, mew=1)
        _set_axes_of_map(ax, group_run, pairs, compared_runs.sizes, _last_epoch(with_teachers))
    figure.colorbar(image, ax=axes, label="teacher's age in epochs", shrink=0.8, pad=0.01)
    return to_svg(figure)


def _teacher_ages(run: Run) -> dict[str, Series]:
    """The teacher's age in epochs where the switch is on, nan where it is off, (V,) by pair."""
    epochs_an_update = float(np.nanmax(run.epoch_V) / max(np.nanmax(run.update_V), 1))
    return {
        pair: np.where(metrics["switch"] > 0, metrics["age"] * epochs_an_update, np.nan)
        for pair, metrics in run.pair_metrics.items()
        if {"switch", "age", "version"} <= metrics.keys()
    }


def _last_epoch(group_runs: Sequence[GroupRun]) -> float:
    return max(float(np.nanmax(group_run.run.epoch_V)) for group_run in group_runs)


def _set_axes_of_map(
    ax: Axes, group_run: GroupRun, pairs: Sequence[str], sizes: Mapping[str, int], last_epoch: float
) -> None:
    """Pairs from above to below, epochs from left to right, the group above."""
    several = len(group_run.group.runs) > 1
    ax.set_xlim(0.5, last_epoch + 0.5)
    ax.set_title(group_run.group.label + (f" (seed {group_run.run.seed})" if several else ""))
    ax.set_yticks(np.arange(len(pairs)) + 0.5, [pair_title(pair, sizes) for pair in pairs])
    ax.invert_yaxis()
    ax.grid(False)
    ax.set_xlabel("epoch")
    ax.spines[:].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def _edges(epoch_V: Series) -> Series:
    """Cell borders around the validations' epochs, (V + 1,)."""
    if len(epoch_V) == 1:
        return np.array([epoch_V[0] - 0.5, epoch_V[0] + 0.5])
    middle = (epoch_V[1:] + epoch_V[:-1]) / 2
    return np.concatenate([[2 * epoch_V[0] - middle[0]], middle, [2 * epoch_V[-1] - middle[-1]]])

"""Pictures of convergence: dev-loss curves per pair with their best checkpoints, heat maps of pair by epoch, switches.

Every figure is an inline SVG. What belongs to the i-th group of runs has an id that begins with ``g<i>-``, by which
the page dims and shows it.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnmt_ds.reporting.comparison import RunGroup
from mnmt_ds.reporting.runs import Run

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5500", "#777777")
"""Paul Tol's bright scheme: told apart by colour-blind readers too."""
INK, FAINT, RULE = "#222833", "#7a828f", "#d8dce3"
EXCESS = LinearSegmentedColormap.from_list("excess", ["#f4f7fb", "#9fc3dd", "#3d7fb1", "#173f6b", "#0a1a33"])
AGE = LinearSegmentedColormap.from_list("age", ["#fde3c3", "#f5a259", "#d1562b", "#7c2413"])

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff3",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

WIDTH = 11.8
"""Inches that fill the page."""

_serial = itertools.count()


def colour(index: int) -> str:
    """The colour of a group."""
    return COLOURS[index % len(COLOURS)]


def arrow(pair: str) -> str:
    """``bs-en`` as ``bs → en``."""
    return pair.replace("-", " → ", 1)


def title(pair: str, sizes: Mapping[str, int]) -> str:
    """A pair and how much training text it has."""
    return arrow(pair) + (f"  ·  {sizes[pair]:,}" if sizes.get(pair) else "")


def tag(artist: Any, index: int) -> None:
    """Marks an artist as belonging to a group."""
    for part in artist if isinstance(artist, list | tuple) else [artist]:
        part.set_gid(f"g{index}-{next(_serial)}")


def svg(figure: Figure) -> str:
    """A figure as inline SVG, closed afterwards."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"figure{next(_serial)}"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    width = re.search(r'viewBox="0 0 ([\d.]+)', text)
    size = f'style="max-width:{float(width[1]) * 4 / 3:.0f}px"' if width else ""
    return re.sub(r'<svg ([^>]*?)width="[^"]*"([^>]*)height="[^"]*"', rf"<svg {size} \1\2", text, count=1)


def grid(count: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Small multiples; unused axes are hidden."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **options
    )
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


@matplotlib.rc_context(STYLE)
def dev_curves(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> str | None:
    """Paper 1's Figures 1 and 3: a panel a pair and one for the mean.

    ●: the pair's own best checkpoint (dotted line down); ◇: the run's overall best (dashed line). The height between
    the two is the pair's part of the deficit. Several seeds: thin lines, their mean bold.
    """
    pairs = [pair for pair in sizes if any(pair in run.dev for group in groups for run in group.runs)]
    if not pairs:
        return None
    columns = _columns(len(pairs) + 1)
    figure, axes = grid(len(pairs) + 1, columns, WIDTH / columns, 2.35, sharex=True)
    for ax, pair in zip(axes, [*pairs, None], strict=True):
        ax.set_title(title(pair, sizes) if pair else "mean over pairs", fontweight="bold" if pair is None else "normal")
        for index, group in enumerate(groups):
            _draw_curves(ax, index, group, pair)
        _useful_height(ax, [_curve(run, pair) for group in groups for run in group.runs])
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.margins(x=0.03)
    for ax in axes[-columns:]:
        ax.set_xlabel("epoch")
        ax.xaxis.set_tick_params(labelbottom=True)
    figure.supylabel("dev loss (label-smoothed cross-entropy a token)", fontsize=9.5)
    return svg(figure)


def _columns(count: int) -> int:
    """Three or four panels a row, whichever leaves fewer places empty."""
    return min(count, min((4, 3), key=lambda columns: -count % columns))


def _curve(run: Run, pair: str | None) -> Any:
    return run.mean_V if pair is None else run.dev.get(pair, np.full_like(run.mean_V, np.nan))


def _draw_curves(ax: Axes, index: int, group: RunGroup, pair: str | None) -> None:
    runs = [run for run in group.runs if run.best >= 0 and np.isfinite(_curve(run, pair)).any()]
    several = len(runs) > 1
    for number, run in enumerate(runs):
        y_V, own = _curve(run, pair), int(np.nanargmin(_curve(run, pair)))
        line = ax.plot(run.epoch_V, y_V, color=colour(index), lw=0.9 if several else 1.7, alpha=0.45 if several else 1)
        tag(line, index)
        if several and number:
            continue
        x, y = run.epoch_V[own], y_V[own]
        tag(ax.plot([x, x], [0, y], color=colour(index), lw=0.9, ls=(0, (1, 2)), alpha=0.9, zorder=1), index)
        tag(ax.plot(x, y, "o", color=colour(index), ms=5.5, zorder=4), index)
        mark = dict(ms=6.5, mfc="white", mec=colour(index), mew=1.5, zorder=5)
        if pair is not None:
            tag(ax.plot(run.epoch_V[run.best], y_V[run.best], "D", **mark), index)  # type: ignore[arg-type]
            best = run.epoch_V[run.best]
            tag(ax.axvline(best, color=colour(index), lw=0.9, ls=(0, (4, 3)), alpha=0.8, zorder=1), index)
    if several:
        length = min(len(run.epoch_V) for run in runs)
        mean_V = np.mean([_curve(run, pair)[:length] for run in runs], 0)
        tag(ax.plot(runs[0].epoch_V[:length], mean_V, color=colour(index), lw=2), index)


def _useful_height(ax: Axes, curves: Sequence[Any]) -> None:
    """Cuts the steep start off, so that the part where runs differ fills the panel."""
    known = [curve[np.isfinite(curve)] for curve in curves if np.isfinite(curve).any()]
    if not known:
        return
    low = min(curve.min() for curve in known)
    start = max(np.sort(curve)[int(0.85 * (len(curve) - 1))] for curve in known)
    high = max(start, *(curve[-1] for curve in known))
    room = max(high - low, 0.02)
    ax.set_ylim(low - 0.12 * room, high + 0.12 * room)


@matplotlib.rc_context(STYLE)
def excess_maps(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> str | None:
    """Pair by epoch, a map a group (its first seed): how far a pair is above its own best. ●: its best epoch."""
    runs = [(group, next((run for run in group.runs if run.best >= 0), None)) for group in groups]
    shown = [(group, run) for group, run in runs if run is not None]
    pairs = [pair for pair in sizes if any(pair in run.dev for _, run in shown)]
    if not pairs:
        return None
    excess = [
        np.array([run.dev[p] - np.nanmin(run.dev[p]) if p in run.dev else run.mean_V * np.nan for p in pairs])
        for _, run in shown
    ]
    top = max(0.05, *(float(np.nanpercentile(found[:, found.shape[1] // 4 :], 97)) for found in excess))
    figure, axes = grid(len(shown), 2, WIDTH / 2, 0.9 + 0.24 * len(pairs))
    last = max(float(np.nanmax(run.epoch_V)) for _, run in shown)
    for ax, (group, run), found in zip(axes, shown, excess, strict=True):
        image = ax.pcolormesh(_edges(run.epoch_V), np.arange(len(pairs) + 1), found, cmap=EXCESS, vmin=0, vmax=top)
        for row, pair in enumerate(pairs):
            if pair in run.dev:
                ax.plot(run.epoch_V[run.best_of(pair)], row + 0.5, "o", ms=5, mfc="white", mec="#ee6677", mew=1.6)
        ax.axvline(run.epoch_V[run.best], color=INK, lw=1.2, ls=(0, (1, 1.5)))
        ax.set_xlim(0.5, last + 0.5)
        _pair_rows(ax, pairs, sizes, group.label + (f" (seed {run.seed})" if len(group.runs) > 1 else ""))
    figure.colorbar(image, ax=axes, label="above the pair's own best", shrink=0.8, pad=0.01, extend="max")
    return svg(figure)


@matplotlib.rc_context(STYLE)
def switch_maps(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> str | None:
    """LSSD's switches, pair by epoch (a group's first seed): coloured while a teacher is on, by its age in epochs."""
    shown = [(group, run) for group in groups if (run := next((r for r in group.runs if r.taught), None)) is not None]
    if not shown:
        return None
    ages = [_ages(run) for _, run in shown]
    top = max(1.0, *(float(np.nan_to_num(list(found.values())).max(initial=0)) for found in ages))
    pairs = [pair for pair in sizes if any(pair in found for found in ages)]
    figure, axes = grid(len(shown), 2, WIDTH / 2, 0.9 + 0.24 * len(pairs))
    last = max(float(np.nanmax(run.epoch_V)) for _, run in shown)
    for ax, (group, run), found in zip(axes, shown, ages, strict=True):
        rows = np.array([found.get(pair, run.epoch_V * np.nan) for pair in pairs])
        image = ax.pcolormesh(
            _edges(run.epoch_V), np.arange(len(pairs) + 1), np.ma.masked_invalid(rows), cmap=AGE, vmin=0, vmax=top,
            edgecolors="white", linewidth=0.4,
        )  # fmt: skip
        ax.set_xlim(0.5, last + 0.5)
        for row, pair in enumerate(pairs):
            renewed = run.epoch_V[np.diff(run.by_pair[pair]["version"], prepend=-1) != 0] if pair in found else []
            ax.plot(renewed, np.full(len(renewed), row + 0.5), "|", color=FAINT, ms=6, mew=1)
        _pair_rows(ax, pairs, sizes, group.label + (f" (seed {run.seed})" if len(group.runs) > 1 else ""))
    figure.colorbar(image, ax=axes, label="teacher's age in epochs", shrink=0.8, pad=0.01)
    return svg(figure)


def _ages(run: Run) -> dict[str, Any]:
    """The teacher's age in epochs where the switch is on, nan where it is off, by pair."""
    update_to_epoch = float(np.nanmax(run.epoch_V) / max(np.nanmax(run.update_V), 1))
    return {
        pair: np.where(series["switch"] > 0, series["age"] * update_to_epoch, np.nan)
        for pair, series in run.by_pair.items()
        if {"switch", "age", "version"} <= series.keys()
    }


def _pair_rows(ax: Axes, pairs: Sequence[str], sizes: Mapping[str, int], name: str) -> None:
    ax.set_title(name)
    ax.set_yticks(np.arange(len(pairs)) + 0.5, [title(pair, sizes) for pair in pairs])
    ax.invert_yaxis()
    ax.grid(False)
    ax.set_xlabel("epoch")
    ax.spines[:].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def _edges(epoch_V: Any) -> Any:
    """Cell borders around the validations' epochs."""
    if len(epoch_V) == 1:
        return np.array([epoch_V[0] - 0.5, epoch_V[0] + 0.5])
    middle = (epoch_V[1:] + epoch_V[:-1]) / 2
    return np.concatenate([[2 * epoch_V[0] - middle[0]], middle, [2 * epoch_V[-1] - middle[-1]]])

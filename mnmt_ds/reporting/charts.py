"""Pictures of results and cost: scores by pair, deficit, data shares, training."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from mnmt_ds.reporting.comparison import Bootstrap, RunGroup
from mnmt_ds.reporting.figures import FAINT, INK, STYLE, WIDTH, arrow, colour, grid, svg, tag, title
from mnmt_ds.reporting.runs import Run

MACRO = "macro"


@matplotlib.rc_context(STYLE)
def scores_by_pair(
    groups: Sequence[RunGroup], sizes: Mapping[str, int], found: Mapping[str, Bootstrap], metric: str
) -> str | None:
    """Left: the score of every pair (bars: mean over seeds, dots: seeds). Right: differences to the first group."""
    name = {"bleu": "BLEU", "chrf": "chrF"}[metric]
    values = [[_score(run, metric) for run in group.runs if run.report] for group in groups]
    pairs = [pair for pair in sizes if any(pair in row for rows in values for row in rows)]
    if not pairs:
        return None
    rows = [*pairs, MACRO]
    height = 0.9 + (0.155 * len(groups) + 0.1) * len(rows)
    figure, axes = pyplot.subplots(
        1, 2 if found else 1, figsize=(WIDTH if found else 7, height), squeeze=False, layout="constrained", sharey=True,
        width_ratios=[3, 2] if found else None,
    )  # fmt: skip
    ax = axes[0, 0]
    step = 0.8 / len(groups)
    for index, scored in enumerate(values):
        for place, pair in enumerate(rows):
            known = [row[pair] for row in scored if pair in row]
            if known:
                y = place + (index - (len(groups) - 1) / 2) * step
                tag(list(ax.barh(y, np.mean(known), step * 0.86, color=colour(index))), index)
                if len(known) > 1:
                    tag(ax.plot(known, [y] * len(known), ".", color=INK, ms=3.5), index)
                tag(_beside(ax, 0, y, f"{np.mean(known):.1f}", fontsize=7.5, color="white"), index)
    ax.set_title(name)
    _rows(ax, rows, sizes)
    if found:
        _differences(axes[0, 1], groups, rows, found, metric, step)
        axes[0, 1].set_title(f"Δ{name} to {groups[0].label}, 95 % interval")
    return svg(figure)


def _score(run: Run, metric: str) -> dict[str, float]:
    report: Mapping[str, Any] = run.report or {}
    return {pair: facts[metric] for pair, facts in report["pairs"].items()} | {MACRO: report["macro"][metric]}


def _differences(
    ax: Axes, groups: Sequence[RunGroup], rows: Sequence[str], found: Mapping[str, Bootstrap], metric: str, step: float
) -> None:
    ax.axvline(0, color=INK, lw=0.9)
    for index, group in enumerate(groups):
        for place, pair in enumerate(rows):
            row = found.get(group.label, {}).get(metric, {}).get(pair)
            if row is not None:
                y = place + (index - (len(groups) - 1) / 2) * step
                sure = row.low > 0 or row.high < 0
                tag(ax.plot([row.low, row.high], [y, y], color=colour(index), lw=2.2 if sure else 1.2), index)
                face = colour(index) if sure else "white"
                tag(ax.plot(row.delta, y, "o", mec=colour(index), mfc=face, mew=1.4, ms=5.5), index)


@matplotlib.rc_context(STYLE)
def deficit(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> str | None:
    """Left: each pair's part of the deficit, stacked (mean over seeds). Right: the deficit as training went on."""
    shown = [(i, group, [run for run in group.runs if run.best >= 0]) for i, group in enumerate(groups)]
    shown = [row for row in shown if row[2]]
    if not shown:
        return None
    pairs = [pair for pair in sizes if any(pair in run.dev for _, _, runs in shown for run in runs)]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.92, len(pairs)))
    figure, axes = pyplot.subplots(
        1, 2, figsize=(WIDTH, max(2.4, 1.5 + 0.32 * len(shown))), layout="constrained", width_ratios=[3, 2]
    )
    left = np.zeros(len(shown))
    for pair, shade in zip(pairs, shades, strict=True):
        part = np.array([np.mean([run.deficits().get(pair, 0.0) for run in runs]) for _, _, runs in shown])
        axes[0].barh(range(len(shown)), part, left=left, color=shade, height=0.62, label=arrow(pair), lw=0)
        left += part
    for place, total in enumerate(left):
        _beside(axes[0], total, place, f"{total:.3f}", fontweight="bold")
    axes[0].set_yticks(range(len(shown)), [group.label for _, group, _ in shown])
    axes[0].tick_params(axis="y", colors=INK)
    axes[0].invert_yaxis()
    axes[0].grid(axis="y", visible=False)
    axes[0].margins(x=0.12)
    axes[0].set_title("deficit, by pair")
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=min(len(pairs), 8), fontsize=8,
                   handlelength=0.9, columnspacing=1.0)  # fmt: skip
    for index, _, runs in shown:
        for run in runs:
            tag(axes[1].plot(run.epoch_V, run.deficit_V, color=colour(index), lw=1.5, alpha=0.8), index)
    axes[1].set_title("deficit so far")
    axes[1].set_xlabel("epoch")
    axes[1].set_ylim(bottom=0)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def data_shares(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> str | None:
    """Share of all training sentences drawn, and passes over the pair's own text."""
    shown = [(i, group.runs[0]) for i, group in enumerate(groups) if any(group.runs[0].by_pair.values())]
    pairs = [pair for pair in sizes if any("share" in run.by_pair.get(pair, {}) for _, run in shown)]
    if not pairs:
        return None
    height = 0.9 + (0.12 * len(shown) + 0.14) * len(pairs)
    figure, axes = pyplot.subplots(1, 2, figsize=(WIDTH, height), squeeze=False, layout="constrained")
    names = {"share": "share of sentences seen, %", "passes": "passes over its text"}
    for ax, key in zip(axes[0], names, strict=False):
        alike = len({tuple(_last(run, pairs, key)) for _, run in shown}) == 1  # then one bar a pair says it for all
        drawn = shown[:1] if alike else shown
        step = 0.8 / len(drawn)
        for slot, (index, run) in enumerate(drawn):
            y = np.arange(len(pairs)) + (slot - (len(drawn) - 1) / 2) * step
            bars = ax.barh(y, _last(run, pairs, key), step * 0.86, color=FAINT if alike else colour(index))
            tag(list(bars), -1 if alike else index)
        ax.set_title(names[key] + (", all experiments" if alike and len(shown) > 1 else ""))
        _rows(ax, pairs, sizes)
    axes[0, 1].set_yticklabels([])
    return svg(figure)


@matplotlib.rc_context(STYLE)
def sampling(groups: Sequence[RunGroup], sizes: Mapping[str, int]) -> str | None:
    """A panel a dynamic sampler (a group's first such run): every pair's probability over epochs, as it was set."""
    found = [(i, group, next((run for run in group.runs if run.sampling), None)) for i, group in enumerate(groups)]
    shown = [(i, group, run) for i, group, run in found if run is not None]
    if not shown:
        return None
    pairs = [pair for pair in sizes if any(pair in run.sampling for _, _, run in shown)]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.92, len(pairs)))
    figure, axes = grid(len(shown), 2, WIDTH / 2, 2.5, sharey=True)
    for ax, (index, group, run) in zip(axes, shown, strict=True):
        ends = [*run.sampling["epoch"][-1:], *run.train["epoch"][-1:]]
        epoch_S = np.append(run.sampling["epoch"], max(ends))
        for pair, shade in zip(pairs, shades, strict=True):
            if pair in run.sampling:
                share_S = 100 * np.append(run.sampling[pair], run.sampling[pair][-1])
                tag(ax.step(epoch_S, share_S, where="post", color=shade, lw=1.5, label=arrow(pair)), index)
        ax.set_title(group.label)
        ax.set_xlabel("epoch")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("sampling probability, %")
    axes[0].legend(loc="upper left", ncols=2, fontsize=7.5, handlelength=1.2, columnspacing=1.0)
    return svg(figure)


def _last(run: Run, pairs: Sequence[str], key: str) -> list[float]:
    unit = 100 if key == "share" else 1
    return [round(unit * float(run.by_pair.get(pair, {}).get(key, [np.nan])[-1]), 2) for pair in pairs]


@matplotlib.rc_context(STYLE)
def training(groups: Sequence[RunGroup]) -> str | None:
    """Training NLL and speed, every run."""
    if not any(len(run.train["epoch"]) for group in groups for run in group.runs):
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    for ax, key, name in zip(axes, ("nll", "tokens_per_sec"), ("training NLL a token", "target tokens/s"), strict=True):
        for index, group in enumerate(groups):
            for run in group.runs:
                y_R = _smooth(run.train[key])
                if len(y_R):
                    tag(ax.plot(run.train["epoch"], y_R, color=colour(index), lw=1.2, alpha=0.85), index)
        ax.set_title(name)
        ax.set_xlabel("epoch")
    axes[1].set_ylim(bottom=0)
    return svg(figure)


def _smooth(values_R: Any, window: int = 5) -> Any:
    """Centred mean; short series are left alone."""
    if len(values_R) <= 2 * window:
        return values_R
    padded = np.pad(values_R, window // 2, mode="edge")
    return np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, window), 1)


def _beside(ax: Axes, x: float, y: float, text: str, **options: Any) -> Any:
    """Text a little to the right of a point."""
    return ax.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", **options)


def _rows(ax: Axes, rows: Sequence[str], sizes: Mapping[str, int]) -> None:
    names = ["macro average" if row == MACRO else title(row, sizes) for row in rows]
    ax.set_yticks(range(len(rows)), names)
    ax.tick_params(axis="y", colors=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)

"""Charts of results and cost: scores by pair, deficit, data shares, sampling, training.

Shape letters: R training reports of a run, S changes of a sampler's distribution and the end, G groups, P pairs.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from mnmt_ds.reporting.comparison import ComparedRuns
from mnmt_ds.reporting.drawing import (
    FAINT_COLOUR,
    STYLE,
    TEXT_COLOUR,
    WIDTH,
    Steps,
    add_bits_axis,
    draw_steps,
    group_colour,
    label_beside,
    pair_colours,
    pair_name,
    pair_title,
    set_group,
    to_svg,
)
from mnmt_ds.reporting.formatting import excludes_zero
from mnmt_ds.reporting.many_pairs import deficit_of_others, drawn_points, points_a_curve
from mnmt_ds.reporting.metrics import NATS_A_BIT
from mnmt_ds.reporting.runs import Run, Series

MACRO = "macro"


@matplotlib.rc_context(STYLE)
def score_chart(compared_runs: ComparedRuns, metric: str) -> str | None:
    """Draws the score of every pair and, where there are any, the differences to the baseline.

    Left: the scores (bars: mean over seeds, dots: seeds). Right: differences over sentences with their 95 % interval,
    filled where it excludes zero.

    Args:
        compared_runs: compared runs.
        metric: bleu or chrf.

    Returns:
        SVG; None where no run is evaluated.
    """
    title = {"bleu": "BLEU", "chrf": "chrF"}[metric]
    scores = [[_scores(run, metric) for run in group.runs if run.report] for group in compared_runs.groups]
    pairs = [pair for pair in compared_runs.sizes if any(pair in by_pair for group in scores for by_pair in group)]
    if not pairs:
        return None
    rows, compared = [*pairs, MACRO], bool(compared_runs.bootstraps)
    height = 0.9 + (0.155 * len(compared_runs.groups) + 0.1) * len(rows)
    figure, axes = pyplot.subplots(
        1, 2 if compared else 1, figsize=(WIDTH if compared else 7, height), squeeze=False, layout="constrained",
        sharey=True, width_ratios=[3, 2] if compared else None,
    )  # fmt: skip
    ax = axes[0, 0]
    bar = 0.8 / len(compared_runs.groups)
    for index, group_scores in enumerate(scores):
        for row, pair in enumerate(rows):
            values = [by_pair[pair] for by_pair in group_scores if pair in by_pair]
            if values:
                y = _place(row, index, len(compared_runs.groups))
                set_group(ax.barh(y, np.mean(values), bar * 0.86, color=group_colour(index)), index)
                if len(values) > 1:
                    set_group(ax.plot(values, [y] * len(values), ".", color=TEXT_COLOUR, ms=3.5), index)
                unlike = compared_runs.unlike(compared_runs.groups[index], metric, None if pair == MACRO else [pair])
                text = f"{np.mean(values):.1f}" + (" †" if unlike else "")
                set_group(label_beside(ax, 0, y, text, fontsize=7.5, color="white"), index)
    ax.set_title(title)
    _label_rows(ax, rows, compared_runs.sizes)
    if compared:
        _draw_differences(axes[0, 1], compared_runs, rows, metric)
        axes[0, 1].set_title(f"Δ{title} to {compared_runs.baseline.label}, 95 % interval")
    return to_svg(figure)


def _scores(run: Run, metric: str) -> dict[str, float]:
    """A run's scores by pair and ``macro``; empty where it is not evaluated."""
    report = run.report
    if report is None:
        return {}
    return {pair: scores[metric] for pair, scores in report["pairs"].items()} | {MACRO: report["macro"][metric]}


def _place(row: int, bar: int, bars: int) -> float:
    """Where one of a row's bars lies on the axis of rows; a row is 1 high, its bars fill 0.8."""
    return row + (bar - (bars - 1) / 2) * (0.8 / bars)


def _draw_differences(ax: Axes, compared_runs: ComparedRuns, rows: Sequence[str], metric: str) -> None:
    """Every group's differences to the baseline, in the rows of the scores."""
    ax.axvline(0, color=TEXT_COLOUR, lw=0.9)
    for index, group in enumerate(compared_runs.groups):
        colour = group_colour(index)
        for row, pair in enumerate(rows):
            difference = compared_runs.bootstrap(group.label, metric, pair)
            if difference is not None:
                y, significant = _place(row, index, len(compared_runs.groups)), excludes_zero(difference)
                width = 2.2 if significant else 1.2
                set_group(ax.plot([difference.low, difference.high], [y, y], color=colour, lw=width), index)
                face = colour if significant else "white"
                set_group(ax.plot(difference.delta, y, "o", mec=colour, mfc=face, mew=1.4, ms=5.5), index)


@matplotlib.rc_context(STYLE)
def deficit_chart(compared_runs: ComparedRuns) -> str | None:
    """Draws the performance deficit.

    Left: each pair's part of it, stacked (mean over seeds). Right: the deficit as training went on.

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run was validated.
    """
    validated = [
        (index, group.label, runs)
        for index, group in enumerate(compared_runs.groups)
        if (runs := [run for run in group.runs if run.best_validation >= 0])
    ]
    if not validated:
        return None
    pairs = [
        pair for pair in compared_runs.sizes if any(pair in run.dev_losses for _, _, runs in validated for run in runs)
    ]
    figure, axes = pyplot.subplots(
        1, 2, figsize=(WIDTH, max(2.4, 1.5 + 0.32 * len(validated))), layout="constrained", width_ratios=[3, 2]
    )
    left_G = np.zeros(len(validated))
    deficits = [[run.deficits() for run in runs] for _, _, runs in validated]
    for pair, colour in zip(pairs, pair_colours(len(pairs)), strict=True):
        deficit_G = np.array([np.mean([values.get(pair, 0.0) for values in seeds]) for seeds in deficits])
        bars = range(len(validated))
        axes[0].barh(bars, deficit_G, left=left_G, color=colour, height=0.62, label=pair_name(pair), lw=0)
        left_G += deficit_G
    others_G = np.array([np.mean([deficit_of_others(values, pairs) for values in seeds]) for seeds in deficits])
    if others_G.any():
        axes[0].barh(
            range(len(validated)), others_G, left=left_G, color=FAINT_COLOUR, height=0.62, label="all others", lw=0
        )
        left_G += others_G
    for row, total in enumerate(left_G):
        unlike = compared_runs.unlike(compared_runs.groups[validated[row][0]], "deficit")
        text = f"{total:.3f} ({total / NATS_A_BIT:.3f} bits)" + (" †" if unlike else "")
        label_beside(axes[0], total, row, text, fontweight="bold")
    axes[0].set_yticks(range(len(validated)), [label for _, label, _ in validated])
    axes[0].tick_params(axis="y", colors=TEXT_COLOUR)
    axes[0].invert_yaxis()
    axes[0].grid(axis="y", visible=False)
    axes[0].margins(x=0.3)
    axes[0].set_title("deficit by pair, nats a token")
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=min(len(pairs), 8), fontsize=8,
                   handlelength=0.9, columnspacing=1.0)  # fmt: skip
    points = points_a_curve(len(compared_runs.runs))
    for index, _, runs in validated:
        for run in runs:
            drawn = drawn_points(run.deficit_V, points)
            lines = axes[1].plot(run.epoch_V[drawn], run.deficit_V[drawn], color=group_colour(index), lw=1.5, alpha=0.8)
            set_group(lines, index)
    axes[1].set_title("deficit so far, nats a token")
    add_bits_axis(axes[1])
    axes[1].set_xlabel("epoch")
    axes[1].set_ylim(bottom=0)
    return to_svg(figure)


@matplotlib.rc_context(STYLE)
def data_share_chart(compared_runs: ComparedRuns) -> str | None:
    """Draws each pair's share of all training sentences drawn, and passes over its own text.

    Args:
        compared_runs: compared runs; the first seed of each group is drawn, one bar a pair where all groups are alike.

    Returns:
        SVG; None where no run logged shares.
    """
    firsts = [
        (i, group.runs[0]) for i, group in enumerate(compared_runs.groups) if any(group.runs[0].pair_metrics.values())
    ]
    pairs = [
        pair for pair in compared_runs.sizes if any("share" in run.pair_metrics.get(pair, {}) for _, run in firsts)
    ]
    if not pairs:
        return None
    height = 0.9 + (0.12 * len(firsts) + 0.14) * len(pairs)
    figure, axes = pyplot.subplots(1, 2, figsize=(WIDTH, height), squeeze=False, layout="constrained")
    titles = {"share": "share of sentences seen, %", "passes": "passes over its text"}
    for ax, name in zip(axes[0], titles, strict=True):
        alike = len({tuple(_last_values(run, pairs, name)) for _, run in firsts}) == 1
        drawn = firsts[:1] if alike else firsts
        for bar, (index, run) in enumerate(drawn):
            y_P = np.array([_place(row, bar, len(drawn)) for row in range(len(pairs))])
            colour = FAINT_COLOUR if alike else group_colour(index)
            bars = ax.barh(y_P, _last_values(run, pairs, name), 0.8 / len(drawn) * 0.86, color=colour)
            set_group(bars, -1 if alike else index)
        ax.set_title(titles[name] + (", all experiments" if alike and len(firsts) > 1 else ""))
        _label_rows(ax, pairs, compared_runs.sizes)
    axes[0, 1].set_yticklabels([])
    return to_svg(figure)


def _last_values(run: Run, pairs: Sequence[str], name: str) -> list[float]:
    """The last logged value of each pair; shares in percent."""
    unit = 100 if name == "share" else 1
    return [round(unit * float(run.pair_metrics.get(pair, {}).get(name, [np.nan])[-1]), 2) for pair in pairs]


@matplotlib.rc_context(STYLE)
def sampling_chart(compared_runs: ComparedRuns) -> str | None:
    """Draws every pair's sampling probability over epochs, a panel a dynamic sampler (a group's first such run).

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run has a dynamic sampler.
    """
    dynamic = compared_runs.first_runs(lambda run: bool(run.sampling))
    if not dynamic:
        return None
    pairs = [pair for pair in compared_runs.sizes if any(pair in group_run.run.sampling for group_run in dynamic)]
    return draw_steps(
        [(group_run, _percentages(group_run.run)) for group_run in dynamic], pairs, "sampling probability, %", None
    )


def _percentages(run: Run) -> Steps:
    """A sampler's probabilities by pair, up to the end of training."""
    last_epoch = max([*run.sampling["epoch"][-1:], *run.train["epoch"][-1:]])
    epoch_S = np.append(run.sampling["epoch"], last_epoch)
    return {
        pair: (epoch_S, 100 * np.append(values, values[-1])) for pair, values in run.sampling.items() if pair != "epoch"
    }


@matplotlib.rc_context(STYLE)
def training_chart(compared_runs: ComparedRuns) -> str | None:
    """Draws training NLL and speed of every run.

    Args:
        compared_runs: compared runs.

    Returns:
        SVG; None where no run reported yet.
    """
    if not any(len(run.train["epoch"]) for run in compared_runs.runs):
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    titles = {"nll": "training NLL, nats a token", "tokens_per_sec": "target tokens/s"}
    points = points_a_curve(2 * len(compared_runs.runs))
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for index, group in enumerate(compared_runs.groups):
            for run in group.runs:
                y_R = _smooth(run.train[key])
                if len(y_R):
                    drawn = drawn_points(y_R, points)
                    lines = ax.plot(
                        run.train["epoch"][drawn], y_R[drawn], color=group_colour(index), lw=1.2, alpha=0.85
                    )
                    set_group(lines, index)
        ax.set_title(title)
        ax.set_xlabel("epoch")
    axes[1].set_ylim(bottom=0)
    return to_svg(figure)


def _smooth(values_R: Series, window: int = 5) -> Series:
    """Centred mean; short series are left alone."""
    if len(values_R) <= 2 * window:
        return values_R
    padded = np.pad(values_R, window // 2, mode="edge")
    return np.asarray(np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, window), 1))


def _label_rows(ax: Axes, rows: Sequence[str], sizes: Mapping[str, int]) -> None:
    """Names of pairs beside their bars, from above to below."""
    ax.set_yticks(range(len(rows)), ["macro average" if row == MACRO else pair_title(row, sizes) for row in rows])
    ax.tick_params(axis="y", colors=TEXT_COLOUR)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)

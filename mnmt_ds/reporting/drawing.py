"""What all charts share: style, colours, labels, panels, and figures as inline SVG.

What belongs to the i-th group of runs has an id that begins with ``g<i>-``, by which the page dims and shows it.
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
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mnmt_ds.reporting.comparison import GroupRun
from mnmt_ds.reporting.metrics import NATS_A_BIT

GROUP_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5500", "#777777")
"""Paul Tol's bright scheme: told apart by colour-blind readers too."""
TEXT_COLOUR, FAINT_COLOUR, AXIS_COLOUR = "#222833", "#686f7c", "#d8dce3"

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": TEXT_COLOUR,
    "axes.labelcolor": TEXT_COLOUR,
    "axes.edgecolor": AXIS_COLOUR,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff3",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT_COLOUR,
    "ytick.color": FAINT_COLOUR,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
"""For ``matplotlib.rc_context``."""
WIDTH = 11.8
"""Inches that fill the page."""

_serial = itertools.count()


def group_colour(index: int) -> str:
    """Returns the colour of a group.

    Args:
        index: of the group.

    Returns:
        Such as ``#4477aa``.
    """
    return GROUP_COLOURS[index % len(GROUP_COLOURS)]


def pair_colours(count: int) -> NDArray[np.float64]:
    """Chooses colours that tell pairs apart in one panel.

    Args:
        count: number of pairs.

    Returns:
        RGBA in [0, 1], (count, 4), from dark to light.
    """
    return matplotlib.colormaps["viridis"](np.linspace(0.05, 0.92, count))


def pair_name(pair: str) -> str:
    """Formats a pair's name for readers.

    Args:
        pair: such as ``bs-en``.

    Returns:
        Such as ``bs → en``.
    """
    return pair.replace("-", " → ", 1)


def pair_title(pair: str, sizes: Mapping[str, int]) -> str:
    """Formats a pair's name with the size of its training text.

    Args:
        pair: such as ``bs-en``.
        sizes: training sentences by pair.

    Returns:
        Such as ``bs → en  ·  5,664``; without the number where it is not known.
    """
    return pair_name(pair) + (f"  ·  {sizes[pair]:,}" if sizes.get(pair) else "")


def set_group(artists: Artist | Sequence[Artist], index: int) -> None:
    """Marks what was drawn as belonging to a group.

    Args:
        artists: what was drawn.
        index: of the group; -1: of none.
    """
    for artist in [artists] if isinstance(artists, Artist) else artists:
        artist.set_gid(f"g{index}-{next(_serial)}")


def to_svg(figure: Figure) -> str:
    """Writes a figure as inline SVG and closes it.

    Args:
        figure: the figure.

    Returns:
        The ``<svg>`` element, as wide as the page lets it be.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"figure{next(_serial)}"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    width = re.search(r'viewBox="0 0 ([\d.]+)', text)
    size = f'style="max-width:{float(width[1]) * 4 / 3:.0f}px"' if width else ""
    return re.sub(r'<svg ([^>]*?)width="[^"]*"([^>]*)height="[^"]*"', rf"<svg {size} \1\2", text, count=1)


def make_panels(count: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Makes a figure of several panels of one size.

    Args:
        count: number of panels.
        columns: panels a row.
        width: of a panel, inches.
        height: of a panel, inches.
        options: for ``pyplot.subplots``.

    Returns:
        The figure and its panels, row by row; places of the last row that are left over are hidden.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **options
    )
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def add_bits_axis(ax: Axes, named: bool = True) -> None:
    """Adds a second value axis at the right: bits, the unit of paper 1's figures and tables, beside nats.

    Args:
        ax: a panel whose values are nats.
        named: whether the unit stands beside it.
    """
    second = ax.secondary_yaxis("right", functions=(_bits_of_nats, _nats_of_bits))
    second.tick_params(labelsize=7)
    second.set_ylabel("bits a token" if named else "", fontsize=8, color=FAINT_COLOUR)
    second.spines[:].set_visible(False)


def _bits_of_nats(nats: Any) -> Any:
    return np.asarray(nats) / NATS_A_BIT


def _nats_of_bits(bits: Any) -> Any:
    return np.asarray(bits) * NATS_A_BIT


Steps = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Epochs and the values that hold from them on, by pair."""


def draw_steps(panels: Sequence[tuple[GroupRun, Steps]], pairs: Sequence[str], ylabel: str, top: float | None) -> str:
    """Draws a panel for each run with its pairs' values from epoch to epoch.

    Args:
        panels: a run and its values.
        pairs: all pairs, in the order of their colours.
        ylabel: what the values are.
        top: end of the value axis, which begins at 0; None: as the values need it.

    Returns:
        SVG.
    """
    figure, axes = make_panels(len(panels), 2, WIDTH / 2, 2.5, sharey=True)
    for ax, (group_run, steps) in zip(axes, panels, strict=True):
        for pair, colour in zip(pairs, pair_colours(len(pairs)), strict=True):
            if pair in steps:
                lines = ax.step(*steps[pair], where="post", color=colour, lw=1.5, label=pair_name(pair))
                set_group(lines, group_run.group_index)
        ax.set_title(group_run.group.label)
        ax.set_xlabel("epoch")
        ax.set_ylim(0, top)
    axes[0].set_ylabel(ylabel)
    axes[0].legend(loc="upper left", ncols=2, fontsize=7.5, handlelength=1.2, columnspacing=1.0)
    return to_svg(figure)


def label_beside(ax: Axes, x: float, y: float, text: str, **options: Any) -> Artist:
    """Writes a text a little to the right of a point.

    Args:
        ax: the panel.
        x: of the point.
        y: of the point.
        text: what to write.
        options: of the text, such as ``fontsize``.

    Returns:
        The text that was drawn.
    """
    return ax.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", **options)

"""Numbers and rows as tables show them."""

from collections.abc import Sequence

import numpy as np

from mnmt_ds.evaluation.significance import Difference


def format_number(value: object, digits: int) -> str:
    """Formats a number for a table.

    Args:
        value: a number, or anything else where there is none.
        digits: after the decimal point.

    Returns:
        Such as ``1,234.57``; – where there is no finite number.
    """
    if not isinstance(value, int | float) or not np.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def format_interval(difference: Difference, digits: int = 2) -> str:
    """Formats a difference with its 95 % interval.

    Args:
        difference: to the baseline.
        digits: after the decimal point.

    Returns:
        Such as ``+2.05 [1.18, 2.87]``.
    """
    return f"{difference.delta:+.{digits}f} [{difference.low:.{digits}f}, {difference.high:.{digits}f}]"


def format_difference(difference: Difference, digits: int = 2) -> str:
    """Formats a difference with its 95 % interval and p-value.

    Args:
        difference: to the baseline.
        digits: after the decimal point.

    Returns:
        Such as ``+2.05 [1.18, 2.87], p = 0.001``.
    """
    return f"{format_interval(difference, digits)}, p {format_p_value(difference.p)}"


def format_p_value(p: float) -> str:
    """Formats a p-value with its relation sign.

    Args:
        p: the value.

    Returns:
        Such as ``= 0.020``; ``< 0.001`` below that.
    """
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def excludes_zero(difference: Difference) -> bool:
    """Returns whether the 95 % interval of a difference excludes zero.

    Args:
        difference: to the baseline.

    Returns:
        Whether the interval lies on one side of zero.
    """
    return difference.low > 0 or difference.high < 0


def markdown_row(cells: Sequence[str]) -> str:
    """Formats a row of a Markdown table.

    Args:
        cells: texts; a ``|`` in a name is escaped.

    Returns:
        One line.
    """
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

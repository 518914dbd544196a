"""Which of the compared runs' figures are not comparable with the baseline's, and the footnotes that say why."""

import html
from collections.abc import Sequence

from mnmt_ds.evaluation.comparability import (
    Reasons,
    unlike_dev_losses,
    unlike_scores,
    unlike_tokens,
    unlike_training_text,
)
from mnmt_ds.evaluation.scores import RESOURCE_CLASSES
from mnmt_ds.reporting.runs import Run

TRAINING = "training"
"""The figure that stands for the training text: a mark at the row's name."""
SPEED, COST = "speed", "cost"
"""The figures of what training takes: target tokens a second; time and memory."""
CLASSES = {f"bleu_{name.replace(' ', '_')}": name for name in RESOURCE_CLASSES}
"""Resource classes by the metric that is their mean BLEU."""
FIGURES = {key: key for key in ("bleu", "chrf", "bleu_ceiling", *CLASSES, TRAINING)} | {
    **dict.fromkeys(("dev", "dev_bits", "deficit", "deficit_bits"), "dev"),
    **dict.fromkeys(("minutes", "memory_gb"), COST),
    "tokens_per_sec": SPEED,
}
"""What must be alike for a metric to be comparable, by the metric's key; other metrics always are."""
OF_PAIRS = ("bleu", "chrf", "bleu_ceiling", "dev", TRAINING)
"""The figures that single pairs have, too."""


def unlike_runs(runs: Sequence[Run], others: Sequence[Run], metric: str, pairs: Sequence[str] | None = None) -> Reasons:
    """Compares what some runs' metric was made from with the first of others that has it.

    Args:
        runs: runs of one group.
        others: all compared runs, the baseline's first.
        metric: a key of ``COMPARED_METRICS``, or ``TRAINING``.
        pairs: language pairs; None: the metric is over all pairs of each run.

    Returns:
        Reasons against comparing, each once; empty: comparable, or nothing to compare.
    """
    figure = FIGURES.get(metric)
    first = None if figure is None else next((run for run in others if _has(run, figure)), None)
    if figure is None or first is None:
        return ()
    reasons: dict[str, None] = {}
    for run in runs:
        if run.outdated and figure in ("bleu", "chrf", *CLASSES):
            reasons[f"{run.label} was {run.outdated}: evaluate it again"] = None
        if run is not first and _has(run, figure):
            reasons |= dict.fromkeys(_reasons(run, first, figure, pairs))
    return tuple(reasons)


def _has(run: Run, figure: str) -> bool:
    if figure in CLASSES:
        return CLASSES[figure] in (run.report or {}).get("classes", {})
    if figure in ("bleu", "chrf", "bleu_ceiling"):
        return run.report is not None
    return bool(run.ranks) if figure in (SPEED, COST) else bool(run.dev_losses)


def _reasons(run: Run, other: Run, figure: str, pairs: Sequence[str] | None) -> Reasons:
    if figure == "dev":
        return unlike_dev_losses(run.dev_loss_facts, other.dev_loss_facts, pairs)
    if figure == TRAINING:
        return unlike_training_text(run.dev_loss_facts, other.dev_loss_facts)
    if figure in (SPEED, COST):
        ranks = () if run.ranks == other.ranks else (f"on {_numbers(run.ranks)}, not {_numbers(other.ranks)} rank(s)",)
        return (*(unlike_tokens(run.dev_loss_facts, other.dev_loss_facts) if figure == SPEED else ()), *ranks)
    assert run.report is not None and other.report is not None
    metric = "bleu" if figure in CLASSES else figure
    return unlike_scores(run.report, other.report, metric, pairs, CLASSES.get(figure, ""))


def _numbers(ranks: Sequence[int]) -> str:
    return ", then ".join(map(str, ranks))


class Footnotes:
    """Numbers the footnotes of one table: cells get a mark, and the reason of each mark stands below the table.

    Args:
        baseline: label of the group that all others are compared with.
    """

    def __init__(self, baseline: str) -> None:
        self._baseline = baseline
        self._numbers: dict[Reasons, int] = {}

    def mark(self, reasons: Reasons) -> str:
        """Returns the mark of a cell.

        Args:
            reasons: against comparing it with the baseline's.

        Returns:
            Such as `` †1``; empty where there is no reason.
        """
        return f" †{self._numbers.setdefault(reasons, len(self._numbers) + 1)}" if reasons else ""

    def lines(self) -> tuple[str, ...]:
        """Formats the footnotes.

        Returns:
            A line a mark.
        """
        return tuple(
            f"†{number} not comparable with {self._baseline}: {'; '.join(reasons)}"
            for reasons, number in self._numbers.items()
        )


def as_html(lines: Sequence[str]) -> str:
    """Formats footnotes as HTML, below a chart.

    Args:
        lines: the footnotes.

    Returns:
        HTML; empty where there are none.
    """
    return "".join(f"<br><b>{html.escape(line)}.</b>" for line in lines)

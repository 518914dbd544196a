"""Students as points: mean BLEU over high-resource pairs against the others; Pareto frontier, hypervolume (paper 2)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnmt_ds.evaluation.comparability import Reasons
from mnmt_ds.reporting.formatting import markdown_row
from mnmt_ds.reporting.runs import Run
from mnmt_ds.reporting.unlike import TRAINING, Footnotes, unlike_runs

Point = tuple[float, float]
"""Mean BLEU over high-resource pairs, mean BLEU over all others."""


class StudentPoint(NamedTuple):
    """A model's mean BLEU over high-resource pairs and over all others: one point of a Pareto chart."""

    run: Run
    high: float
    """Mean BLEU over high-resource pairs."""
    low: float
    """Mean BLEU over all others."""

    @property
    def label(self) -> str:
        """What tables call the model; seeds share it."""
        return self.run.label

    @property
    def point(self) -> Point:
        """The two means."""
        return self.high, self.low


class Experiment(NamedTuple):
    """Pareto points of one run's students, and the hypervolume that they reach together."""

    name: str
    points: tuple[StudentPoint, ...]
    hypervolume: float
    """BLEU squared: the area below and left of the points, from (0, 0)."""
    search_share: float
    """Part of the run's time that trials of weights took; nan where it has none."""


def student_point(run: Run) -> StudentPoint | None:
    """Averages a run's BLEU over high-resource pairs and over all others.

    Args:
        run: of one model.

    Returns:
        The point; None where the run is not evaluated or its pairs are of one class.
    """
    pairs: Mapping[str, Any] = (run.report or {}).get("pairs", {})
    high = [scores["bleu"] for scores in pairs.values() if scores.get("class") == "high"]
    low = [scores["bleu"] for scores in pairs.values() if scores.get("class") != "high"]
    if not high or not low:
        return None
    return StudentPoint(run, float(np.mean(high)), float(np.mean(low)))


def experiment_name(run: Run) -> str:
    """Returns the name of the run that a student belongs to.

    Args:
        run: a student's, or that of a model trained alone.

    Returns:
        The label of the whole run; its own where the model was trained alone.
    """
    if run.directory.parent.name != "students":
        return run.label
    place = run.label.removeprefix(run.name) if run.label.startswith(f"{run.name} (") else ""
    return run.label.removesuffix(place).rpartition(".")[0] + place


def pareto_frontier(points: Sequence[Point]) -> list[Point]:
    """Finds the points that no other one beats on both aims.

    Args:
        points: the models.

    Returns:
        The frontier without repeated points, by rising first aim.
    """
    frontier: list[Point] = []
    for x, y in sorted(set(points), reverse=True):
        if not frontier or y > frontier[-1][1]:
            frontier.append((x, y))
    return frontier[::-1]


def hypervolume(points: Sequence[Point]) -> float:
    """Computes the area that the points dominate.

    Args:
        points: the models.

    Returns:
        The area, from (0, 0), in BLEU squared.
    """
    area, previous_x = 0.0, 0.0
    for x, y in pareto_frontier(points):
        area += (x - previous_x) * y
        previous_x = x
    return area


def find_experiments(runs: Sequence[Run]) -> list[Experiment]:
    """Groups evaluated models by the run that they were students of.

    Args:
        runs: a run a model; several seeds of an experiment give several points.

    Returns:
        The experiments with at least one point, in the order of the runs.
    """
    experiments = []
    for name in dict.fromkeys(experiment_name(run) for run in runs):
        students = [run for run in runs if experiment_name(run) == name]
        points = tuple(point for run in students if (point := student_point(run)) is not None)
        if points:
            area = hypervolume([point.point for point in points])
            experiments.append(Experiment(name, points, area, search_share(students)))
    return experiments


def search_share(students: Sequence[Run]) -> float:
    """Computes the part of the training time that trials of distillation weights took.

    Args:
        students: of one experiment.

    Returns:
        Between 0 and 1; nan where nothing was searched.
    """
    searched = [run for run in students if run.search_seconds > 0 and run.seconds > 0]
    if not searched:
        return float("nan")
    if all(np.isfinite(run.search_share) for run in searched):
        return float(np.mean([run.search_share for run in searched]))
    # runs from before they reckoned it themselves: all students on every rank, one searching after another
    processes = len({run.directory.parent for run in students if run.directory.parent.name == "students"}) or 1
    return sum(run.search_seconds / run.seconds for run in searched) / processes


def frontier_markdown(experiments: Sequence[Experiment]) -> str:
    """Writes experiments as a Markdown table.

    Args:
        experiments: from ``find_experiments``.

    Returns:
        A row a model, marked where its point is not comparable with that of the first model; the hypervolume is
        marked, too, where any of its points is. Empty where no experiment has more than one.
    """
    if not any(len(experiment.points) > 1 for experiment in experiments):
        return ""
    lines = [
        "| experiment | model | BLEU high | BLEU others | hypervolume | search, share of time |",
        "|---|---|---:|---:|---:|---:|",
    ]
    runs = [point.run for experiment in experiments for point in experiment.points]
    footnotes = Footnotes(runs[0].label)
    for name, points, area, share in experiments:
        unlike = [_unlike_point(point.run, runs) for point in points]
        of_area = tuple(dict.fromkeys(reason for reasons in unlike for reason in reasons))
        for i, (point, reasons) in enumerate(zip(points, unlike, strict=True)):
            first = i == 0
            cells = [name if first else "", point.label + footnotes.mark(reasons), f"{point.high:.2f}"]
            cells += [f"{point.low:.2f}", f"{area:.1f}{footnotes.mark(of_area)}" if first else ""]
            lines.append(markdown_row([*cells, f"{share:.1%}" if first and np.isfinite(share) else ""]))
    notes = footnotes.lines()
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _unlike_point(run: Run, runs: Sequence[Run]) -> Reasons:
    """Why a model's point is not comparable with that of the first model."""
    reasons = [reason for key in ("bleu", "bleu_high", TRAINING) for reason in unlike_runs([run], runs, key)]
    return tuple(dict.fromkeys(reasons))

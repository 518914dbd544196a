"""Students as points: mean BLEU over high-resource pairs against the others; Pareto frontier, hypervolume (paper 2)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnmt_ds.reporting.runs import Run


class Point(NamedTuple):
    """A model's two aims."""

    label: str
    experiment: str
    """The run that it is a student of, or its own label where it was trained alone."""
    high: float
    """Mean BLEU over high-resource pairs."""
    low: float
    """Mean BLEU over all others."""


class Experiment(NamedTuple):
    """What the students of one run reach together."""

    name: str
    points: tuple[Point, ...]
    hypervolume: float
    """BLEU squared: the area below and left of the points, from (0, 0)."""
    search_share: float
    """Part of the run's time that trials of weights took; nan where it has none."""


def point_of(run: Run) -> Point | None:
    """A run's point; None where it is not evaluated or its pairs are of one class."""
    pairs: Mapping[str, Any] = (run.report or {}).get("pairs", {})
    high = [facts["bleu"] for facts in pairs.values() if facts.get("class") == "high"]
    low = [facts["bleu"] for facts in pairs.values() if facts.get("class") != "high"]
    if not high or not low:
        return None
    return Point(run.label, experiment_of(run), float(np.mean(high)), float(np.mean(low)))


def experiment_of(run: Run) -> str:
    """The name of the run that a student belongs to."""
    return run.label.rpartition(".")[0] if run.directory.parent.name == "students" else run.label


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats on both aims, by rising first aim."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(set(points), reverse=True):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept[::-1]


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Area that the points dominate, from (0, 0)."""
    area, before = 0.0, 0.0
    for x, y in frontier(points):
        area += (x - before) * y
        before = x
    return area


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """All experiments with evaluated models, in the order of the runs; several seeds give several points."""
    names = list(dict.fromkeys(experiment_of(run) for run in runs))
    found = []
    for name in names:
        own = [run for run in runs if experiment_of(run) == name]
        points = tuple(point for run in own if (point := point_of(run)) is not None)
        if points:
            found.append(Experiment(name, points, hypervolume([(p.high, p.low) for p in points]), search_share(own)))
    return found


def search_share(students: Sequence[Run]) -> float:
    """The searches' part of the time of the runs that these are the students of; nan where nothing was searched."""
    searched = [run for run in students if run.search_seconds > 0 and run.seconds > 0]
    if not searched:
        return float("nan")
    if all(np.isfinite(run.search_share) for run in searched):
        return float(np.mean([run.search_share for run in searched]))
    # runs from before they reckoned it themselves: all students on every rank, one searching after another
    processes = len({run.directory.parent for run in students if run.directory.parent.name == "students"}) or 1
    return sum(run.search_seconds / run.seconds for run in searched) / processes


def markdown(found: Sequence[Experiment]) -> str:
    """A table of experiments; empty where none has more than one model."""
    if not any(len(experiment.points) > 1 for experiment in found):
        return ""
    lines = [
        "| experiment | model | BLEU high | BLEU others | hypervolume | search, share of time |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, points, area, share in found:
        for i, point in enumerate(points):
            first = i == 0
            cells = [name if first else "", point.label, f"{point.high:.2f}", f"{point.low:.2f}"]
            cells += [f"{area:.1f}" if first else "", f"{share:.1%}" if first and np.isfinite(share) else ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

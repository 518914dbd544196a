"""Paper 2's rules for the distillation weights alpha_i[l] of one student: UNI, BI, and the search of AUTO and DYNAMIC.

A rule is a few lines from dev losses to weights; ``methods/pareto.py`` decides when it is applied.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds import metric_keys
from mnmt_ds.errors import UserError
from mnmt_ds.json_files import read_json, reason
from mnmt_ds.run_files import METRICS
from mnmt_ds.tracking import read_records

Weights = dict[str, float]
"""alpha of each language pair, in [0, 1]."""
Losses = Mapping[str, float]
"""Dev loss of each language pair, nats a token."""


def better_peers(own: Losses, others: Mapping[str, Losses], tolerance: float = 0.0) -> dict[str, list[str]]:
    """Finds who teaches each pair in UNI-PMD (Equation 5): the peers whose dev loss on it is lower than the student's.

    Args:
        own: the student's dev losses.
        others: dev losses of its peers, by name.
        tolerance: nats; within it both learn, as in the released code.

    Returns:
        Names of the peers that teach each pair.
    """
    return {pair: [name for name, dev in others.items() if dev[pair] < own[pair] + tolerance] for pair in own}


def keep(alpha: float, mu: float) -> float:
    """Keeps a weight as it is (Equation 9).

    Args:
        alpha: in [0, 1].
        mu: step size, not used.

    Returns:
        alpha.
    """
    return alpha


def raise_(alpha: float, mu: float) -> float:
    """Raises a weight (Equation 10): sigmoid(logit(alpha) + mu).

    Args:
        alpha: in [0, 1].
        mu: step size.

    Returns:
        The new weight.
    """
    return _moved(alpha, mu)


def lower(alpha: float, mu: float) -> float:
    """Lowers a weight (Equation 11): sigmoid(logit(alpha) - mu).

    Args:
        alpha: in [0, 1].
        mu: step size.

    Returns:
        The new weight.
    """
    return _moved(alpha, -mu)


def _moved(alpha: float, step: float) -> float:
    """sigmoid(logit(alpha) + step)."""
    if alpha in (0.0, 1.0):  # logit at infinity
        return alpha
    return 1.0 / (1.0 + math.exp(-(math.log(alpha) - math.log1p(-alpha) + step)))


Action = Callable[[float, float], float]
ACTIONS: dict[str, Action] = {"keep": keep, "raise": raise_, "lower": lower}


class AlphaSearch(NamedTuple):
    """Record of a weight search in the log, from which its choices can be reproduced."""

    mu: float
    """Step size."""
    before: Weights
    """Weights from which the trials started."""
    trials: Mapping[str, Losses]
    """Dev losses after each action's trial."""
    actions: Mapping[str, str]
    """The action that each pair took."""


def search_space(alpha: Weights, mu: float, first: str, clip: float) -> dict[str, Weights]:
    """Lists the three trials' weights: each action on all pairs at once.

    Args:
        alpha: the present weights.
        mu: step size.
        first: the action that comes first, so that it wins ties.
        clip: greatest alpha that is fed to the logit (1: none; the released code: 0.98).

    Returns:
        Weights by action, in the order of the trials.
    """
    order = [first, *(name for name in ACTIONS if name != first)]
    return {name: {pair: ACTIONS[name](min(a, clip), mu) for pair, a in alpha.items()} for name in order}


def best_of_each(trials: Mapping[str, Losses]) -> dict[str, str]:
    """Finds for each pair the action whose trial gave it its lowest dev loss (AUTO-PMD, Algorithm 2, lines 10 to 13).

    Args:
        trials: dev losses by action; one that is not finite counts as infinite, the first of equal ones is taken.

    Returns:
        Actions by pair.
    """
    pairs = next(iter(trials.values()))
    return {pair: min(trials, key=lambda action: _finite(trials[action][pair])) for pair in pairs}


def best_of_all(trials: Mapping[str, Losses]) -> dict[str, str]:
    """Finds the one action for all pairs: that whose trial has the lowest mean dev loss (DYNAMIC-MD).

    Args:
        trials: dev losses by action; one that is not finite counts as infinite, the first of equal ones is taken.

    Returns:
        Actions by pair.
    """
    pairs = next(iter(trials.values()))
    return dict.fromkeys(pairs, min(trials, key=lambda action: _finite(sum(trials[action].values()))))


def _finite(loss: float) -> float:
    """A loss, infinite where it is not a number."""
    return loss if math.isfinite(loss) else math.inf


def step_size(schedule: int, update: int, last: int) -> float:
    """Computes mu by one of the paper's four schedules (Equation 12 and its appendix).

    Args:
        schedule: 1 to 4.
        update: updates done.
        last: updates of the whole run.

    Returns:
        mu; 0 once the search is over.
    """
    speed = {1: 0.0, 2: 0.8, 3: 1.2, 4: 1.0}[schedule]
    return math.sqrt(max(last - speed * update, 0.0) / last)


def step_size_by_epoch(coming: float, last: float, first: float) -> float:
    """Computes mu as the released code does: sqrt((E - e) / (E - e_0)).

    Args:
        coming: e, the epoch that is about to begin, counted from 1.
        last: E, epochs of the whole run.
        first: e_0, the epoch in which distillation starts.

    Returns:
        mu; 1 in the first epoch of the search, 0 once it is over.
    """
    return math.sqrt(max(last - coming, 0.0) / (last - first)) if last > first else 0.0


def read_weights(path: Path, pairs: Sequence[str], names: Sequence[str]) -> dict[str, Weights]:
    """Reads every student's weights (LSMD) from a file, or from the last record of an AUTO-PMD run.

    Args:
        path: JSON {student: {pair: alpha}}, or the directory of a run.
        pairs: the run's language pairs.
        names: the run's students.

    Returns:
        Weights by student.

    Raises:
        UserError: where the file or run has no weights, other students or pairs, or a weight outside [0, 1].
    """
    remedy = "give the directory of an AUTO-PMD run with these pairs, or JSON {student: {pair: alpha}}"
    students = _of_run(path, names) if path.is_dir() else _of_file(path, remedy)
    if set(students) != set(names):
        raise UserError(
            f"{path}: weights of {', '.join(students) or 'no student'}, the run's are {', '.join(names)}; {remedy}"
        )
    for name, weights in students.items():
        if set(weights) != set(pairs):
            odd = sorted(set(weights) ^ set(pairs))
            raise UserError(
                f"{path}: student {name}: weights for other pairs than the run's ({', '.join(odd)}); {remedy}"
            )
        for pair, alpha in weights.items():
            if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
                raise UserError(f"{path}: student {name}: alpha of {pair} is {alpha!r}, not in [0, 1]; mend it")
    return {name: {pair: float(students[name][pair]) for pair in pairs} for name in names}


def _of_file(path: Path, remedy: str) -> dict[str, Weights]:
    """Reads weights by student from JSON."""
    try:
        return dict(read_json(path, dict[str, dict[str, Any]]))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not of the form {{student: {{pair: alpha}}}} ({reason(error)}); {remedy}") from None


def _of_run(run: Path, names: Sequence[str]) -> dict[str, Weights]:
    """Reads each student's last weights from its records in a run."""
    students: dict[str, Weights] = {}
    for name in names:
        log = run / "students" / name / METRICS
        for record in read_records(log) if log.exists() else ():
            weights = {pair: value for key, value in record.items() if (pair := metric_keys.ALPHA.name_in(key))}
            if weights:
                students[name] = weights
    return students

"""Groups of runs and their differences to a baseline, with significance."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.evaluation.report import read_lines
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.evaluation.significance import Difference, paired_bootstrap, welch_t_test
from mnmt_ds.reporting.metrics import metrics_of_run
from mnmt_ds.reporting.runs import Run, train_sizes

BootstrapDifferences = Mapping[str, Mapping[str, Difference]]
"""{"bleu" or "chrf": {pair or "macro": difference}}."""


class RunGroup(NamedTuple):
    """An experiment: runs that differ in nothing but the seed."""

    label: str
    runs: tuple[Run, ...]


class GroupRun(NamedTuple):
    """A run that stands for its group, with the group's place among all groups."""

    group_index: int
    group: RunGroup
    run: Run


class ComparedRuns(NamedTuple):
    """Runs that were trained and tested on the same data, one part of a report; the first group is the baseline."""

    name: str
    """Of the study's condition; empty where there is one part."""
    groups: Sequence[RunGroup]
    sizes: Mapping[str, int]
    """Training sentences by pair, smallest first."""
    bootstraps: Mapping[str, BootstrapDifferences]
    """Differences to the baseline over sentences, by label."""
    t_tests: Mapping[str, Mapping[str, Difference]]
    """Differences to the baseline over seeds, by label and metric."""
    score: ScoreSettings

    @property
    def baseline(self) -> RunGroup:
        """The group that all others are compared with."""
        return self.groups[0]

    @property
    def runs(self) -> list[Run]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]

    def bootstrap(self, label: str, metric: str, pair: str) -> Difference | None:
        """Finds a group's difference to the baseline over sentences.

        Args:
            label: of the group.
            metric: bleu or chrf.
            pair: a pair or ``macro``.

        Returns:
            The difference; None where it was not computed.
        """
        return self.bootstraps.get(label, {}).get(metric, {}).get(pair)

    def first_runs(self, condition: Callable[[Run], bool]) -> list[GroupRun]:
        """Picks from each group the first run (by seed) that meets a condition.

        Args:
            condition: of a run.

        Returns:
            A run a group, without the groups in which no run meets it.
        """
        runs = [next((run for run in group.runs if condition(run)), None) for group in self.groups]
        return [
            GroupRun(i, group, run)
            for i, (group, run) in enumerate(zip(self.groups, runs, strict=True))
            if run is not None
        ]


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Groups runs by label.

    Args:
        runs: labelled by ``read_runs``.

    Returns:
        The groups in the order of their first runs, each sorted by seed.
    """
    labels = list(dict.fromkeys(run.label for run in runs))
    return [
        RunGroup(label, tuple(sorted((run for run in runs if run.label == label), key=lambda run: run.seed)))
        for label in labels
    ]


def compare_groups(groups: Sequence[RunGroup], score: ScoreSettings, name: str = "") -> ComparedRuns:
    """Compares groups with the first of them.

    Args:
        groups: the first is the baseline.
        score: resamples, seed and BLEU tokenizer of the bootstrap.
        name: of the study's condition; empty where there is one part.

    Returns:
        The groups with their differences over sentences and over seeds.
    """
    runs = [run for group in groups for run in group.runs]
    bootstraps = bootstrap_against_baseline(groups, score)
    return ComparedRuns(name, groups, train_sizes(runs), bootstraps, t_tests_against_baseline(groups), score)


def bootstrap_against_baseline(
    groups: Sequence[RunGroup], settings: ScoreSettings
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Compares the translations of each group with those of the first group by paired bootstrap.

    Over several seeds, the i-th run of one group is held against the i-th of the other.

    Args:
        groups: the first is the baseline.
        settings: resamples, seed and BLEU tokenizer.

    Returns:
        {label: {"bleu" or "chrf": {pair or "macro": difference}}}, over pairs whose references are the same in all
        runs; without the groups that share no translated pair with the baseline.
    """
    baseline = groups[0]
    differences = {}
    for group in groups[1:]:
        directories = [
            (run.translations, baseline_run.translations)
            for run, baseline_run in zip(group.runs, baseline.runs, strict=False)
            if run.translations is not None and baseline_run.translations is not None
        ]
        if not directories:
            continue
        references = [read_lines(directory, "ref") for run_pair in directories for directory in run_pair]
        shared = {
            pair: lines
            for pair, lines in references[0].items()
            if lines and all(other.get(pair) == lines for other in references)
        }
        if shared:
            ours, theirs = ([read_lines(run_pair[side], "hyp") for run_pair in directories] for side in (0, 1))
            differences[group.label] = paired_bootstrap(ours, theirs, shared, settings)
    return differences


def t_tests_against_baseline(groups: Sequence[RunGroup]) -> dict[str, dict[str, Difference]]:
    """Compares the seeds of each group with those of the first group by Welch's t-test.

    Args:
        groups: the first is the baseline.

    Returns:
        {label: {metric: difference}} for dev loss, deficit, BLEU and chrF, where both groups have two seeds or more.
    """
    differences: dict[str, dict[str, Difference]] = {}
    baseline_rows = [metrics_of_run(run) for run in groups[0].runs]
    for group in groups[1:]:
        rows = [metrics_of_run(run) for run in group.runs]
        for key in ("dev", "deficit", "bleu", "chrf"):
            ours, theirs = ([row[key] for row in side if np.isfinite(row[key])] for side in (rows, baseline_rows))
            test = welch_t_test(ours, theirs)
            if test is not None:
                differences.setdefault(group.label, {})[key] = Difference(**test)
    return differences

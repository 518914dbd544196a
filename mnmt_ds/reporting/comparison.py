"""Groups of runs and their differences to a baseline, with significance."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.evaluation.comparability import Reasons, unlike_translations
from mnmt_ds.evaluation.report import read_lines
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.evaluation.significance import Difference, paired_bootstrap, welch_t_test
from mnmt_ds.reporting.kept_bootstraps import KeptBootstraps, kept_or_new
from mnmt_ds.reporting.metrics import metrics_of_run
from mnmt_ds.reporting.runs import Run, train_sizes
from mnmt_ds.reporting.unlike import TRAINING, Footnotes, unlike_runs

BootstrapDifferences = Mapping[str, Mapping[str, Difference]]
"""{"bleu" or "chrf": {pair or "macro": difference}}."""


class RunGroup(NamedTuple):
    """Runs of one experiment, which differ in nothing but the seed."""

    label: str
    runs: tuple[Run, ...]


class GroupRun(NamedTuple):
    """One of a group's runs, with the group's place among all groups."""

    group_index: int
    group: RunGroup
    run: Run


class ComparedRuns(NamedTuple):
    """Runs that were trained and tested on the same data, one part of a report; the first group is the baseline."""

    name: str
    """Name of the study's condition; empty where there is one part."""
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

    def unlike(self, group: RunGroup, metric: str, pairs: Sequence[str] | None = None) -> Reasons:
        """Explains why a group's metric is not comparable with the baseline's.

        Args:
            group: one of the groups, the baseline itself included: its seeds may be unlike each other.
            metric: a key of ``COMPARED_METRICS``, or ``TRAINING``.
            pairs: of which pairs; None: the metric is over all pairs.

        Returns:
            Reasons; empty where it is comparable.
        """
        return unlike_runs(group.runs, self.runs, metric, pairs)

    def is_comparable(self, group: RunGroup, metric: str, pairs: Sequence[str] | None = None) -> bool:
        """Returns whether a group's metric may be compared with the baseline's: called best, better or significant.

        Args:
            group: one of the groups.
            metric: a key of ``COMPARED_METRICS``.
            pairs: of which pairs; None: the metric is over all pairs.

        Returns:
            Whether nothing that the metric depends on differs, in the group, the baseline and between them.
        """
        return not any(
            self.unlike(side, figure, pairs) for side in (group, self.baseline) for figure in (metric, TRAINING)
        )

    def footnotes(self) -> Footnotes:
        """Starts the footnotes of a table.

        Returns:
            Footnotes that name the baseline.
        """
        return Footnotes(self.baseline.label)

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


def compare_groups(
    groups: Sequence[RunGroup], score: ScoreSettings, name: str = "", bootstraps: KeptBootstraps | None = None
) -> ComparedRuns:
    """Compares groups with the first of them.

    Args:
        groups: the first is the baseline.
        score: resamples, seed and BLEU tokenizer of the bootstrap.
        name: of the study's condition; empty where there is one part.
        bootstraps: bootstraps that were made before; new ones are added.

    Returns:
        The groups with their differences over sentences and over seeds.
    """
    compared_runs = ComparedRuns(
        name, groups, train_sizes([run for group in groups for run in group.runs]), {}, {}, score
    )
    return compared_runs._replace(
        bootstraps=bootstrap_against_baseline(compared_runs, bootstraps),
        t_tests=t_tests_against_baseline(compared_runs),
    )


def bootstrap_against_baseline(
    compared_runs: ComparedRuns, bootstraps: KeptBootstraps | None = None
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Compares the translations of each group with those of the baseline by paired bootstrap.

    Over several seeds, the i-th run of one group is held against the i-th of the other. BLEU is by the tokenizer that
    the baseline's report names.

    Args:
        compared_runs: compared runs.
        bootstraps: bootstraps that were made before; new ones are added.

    Returns:
        {label: {"bleu" or "chrf": {pair or "macro": difference}}}, over the pairs whose scores are comparable in all
        runs; ``macro`` only where all pairs' are. Without the groups that share no such pair with the baseline.
    """
    differences = {}
    for group in compared_runs.groups[1:]:
        sides = [
            (run, baseline_run)
            for run, baseline_run in zip(group.runs, compared_runs.baseline.runs, strict=False)
            if run.translations is not None and baseline_run.translations is not None
        ]
        if not sides:
            continue
        shared = _shared_references(sides)
        if shared:
            candidate_lines, baseline_lines = (
                [read_lines(run.translations, "hyp") for run in runs if run.translations is not None]
                for runs in zip(*sides, strict=True)
            )
            evaluated = (compared_runs.baseline.runs[0].report or {}).get("pairs", {})
            tokenizers = {
                pair: facts["bleu_tokenizer"] for pair, facts in evaluated.items() if "bleu_tokenizer" in facts
            }
            all_differences = kept_or_new(
                bootstraps or KeptBootstraps({}, {}),
                [candidate_lines, baseline_lines, shared, tokenizers, compared_runs.score.model_dump(mode="json")],
                functools.partial(
                    paired_bootstrap, candidate_lines, baseline_lines, shared, compared_runs.score, tokenizers
                ),
            )  # fmt: skip
            comparable = {
                metric: {
                    pair: difference
                    for pair, difference in rows.items()
                    if compared_runs.is_comparable(group, metric, None if pair == "macro" else [pair])
                }
                for metric, rows in all_differences.items()
            }
            differences[group.label] = {metric: rows for metric, rows in comparable.items() if rows}
    return {label: rows for label, rows in differences.items() if rows}


def _shared_references(sides: Sequence[tuple[Run, Run]]) -> dict[str, list[str]]:
    """References by pair, of the pairs that all these runs translated from the same test set in the same way."""
    references = [
        read_lines(run.translations, "ref") for pair_of_runs in sides for run in pair_of_runs if run.translations
    ]
    return {
        pair: lines
        for pair, lines in references[0].items()
        if lines
        and all(other.get(pair) == lines for other in references)
        and not any(
            unlike_translations(candidate.report or {}, baseline.report or {}, pair) for candidate, baseline in sides
        )
    }


def t_tests_against_baseline(compared_runs: ComparedRuns) -> dict[str, dict[str, Difference]]:
    """Compares the seeds of each group with those of the baseline by Welch's t-test.

    Args:
        compared_runs: compared runs.

    Returns:
        {label: {metric: difference}} for dev loss, deficit, BLEU and chrF, where both groups have two seeds or more and
        the metric is comparable.
    """
    differences: dict[str, dict[str, Difference]] = {}
    baseline_rows = [metrics_of_run(run) for run in compared_runs.baseline.runs]
    for group in compared_runs.groups[1:]:
        rows = [metrics_of_run(run) for run in group.runs]
        for key in ("dev", "deficit", "bleu", "chrf"):
            if not compared_runs.is_comparable(group, key):
                continue
            candidate_values, baseline_values = (
                [row[key] for row in side if np.isfinite(row[key])] for side in (rows, baseline_rows)
            )
            test = welch_t_test(candidate_values, baseline_values)
            if test is not None:
                differences.setdefault(group.label, {})[key] = Difference(**test)
    return differences

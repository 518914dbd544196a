"""Is the difference between two runs more than chance? Paired bootstrap over sentences, t-test over seeds.

Shape letters: N sentences, K sufficient statistics of a metric, R resamples.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation import scores
from mnmt_ds.evaluation.resampling import SCORES_OF_SUMS, resampled_sums
from mnmt_ds.evaluation.scores import MetricScore, ScoreSettings

Texts = Mapping[str, Sequence[str]]
"""Lines by language pair."""


class Difference(NamedTuple):
    """Difference between the scores of two systems; positive where the first is better."""

    delta: float
    low: float
    """2.5th percentile of the resampled differences."""
    high: float
    """97.5th percentile."""
    p: float
    """Two-sided: how often a resample strays as far from the mean difference as that lies from zero."""


def resampled_differences(
    candidate: MetricScore, baseline: MetricScore, name: str, settings: ScoreSettings, key: str
) -> NDArray[np.float64]:
    """Computes differences of a corpus metric on resamples, the same for both systems (Koehn 2004).

    Args:
        candidate: the first system's score.
        baseline: the second system's score on the same test set.
        name: bleu or chrf.
        settings: number of resamples and seed.
        key: names the test set, so that its resamples do not depend on what else is tested.

    Returns:
        float64 (R,), a difference a resample.
    """
    width = candidate.stats_NK.shape[1]
    sums_RK = resampled_sums(
        np.concatenate([candidate.stats_NK, baseline.stats_NK], 1), settings.samples, settings.seed, key
    )
    score = SCORES_OF_SUMS[name]
    return score(sums_RK[:, :width]) - score(sums_RK[:, width:])


def significance_of(delta: float, samples_R: NDArray[np.float64]) -> Difference:
    """Computes interval and p-value of an observed difference from its resamples.

    Args:
        delta: the observed difference.
        samples_R: differences of the resamples.

    Returns:
        The difference with its 95 % interval and two-sided p.
    """
    low, high = np.percentile(samples_R, [2.5, 97.5])
    farther = int((np.abs(samples_R - samples_R.mean()) >= abs(delta)).sum())
    return Difference(delta, float(low), float(high), (farther + 1) / (len(samples_R) + 1))


def paired_bootstrap(
    candidate: Sequence[Texts],
    baseline: Sequence[Texts],
    references: Texts,
    settings: ScoreSettings,
    tokenizers: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, dict[str, Difference]]:
    """Compares two groups of systems on every pair that all of them translated.

    The i-th of ours is held against the i-th of theirs and the differences are averaged, each resample taking the same
    sentences for all. The macro average resamples every pair's test set on its own.

    Args:
        candidate: translations by pair, one mapping a seed.
        baseline: the same of the other group.
        references: references by pair.
        settings: resamples, seed and BLEU tokenizer.
        tokenizers: BLEU tokenizer by pair, as from ``bleu_tokenizer``; where a pair is missing, that of the settings.

    Returns:
        {"bleu": {pair: Difference, "macro": Difference}, "chrf": …}; empty where no pair is common.

    Raises:
        UserError: where there are not as many translations as references.
    """
    systems = list(zip(candidate, baseline, strict=True))
    pairs = [pair for pair in references if all(pair in first and pair in second for first, second in systems)]
    differences: dict[str, dict[str, Difference]] = {}
    for metric in ("bleu", "chrf") if pairs and systems else ():
        deltas: list[float] = []
        samples: list[NDArray[np.float64]] = []
        differences[metric] = {}
        for pair in pairs:
            size = len(references[pair])
            if odd := [len(side[pair]) for system in systems for side in system if len(side[pair]) != size]:
                raise UserError(
                    f"pair {pair}: {odd[0]} translations of {size} sentences; a file of an evaluation was changed:"
                    " evaluate again with --fresh"
                )
            tokenizer = tokenizers.get(pair) or scores.bleu_tokenizer(settings.tokenizers[0], split_pair(pair)[1])
            scored = [
                [_score(metric, side[pair], references[pair], tokenizer) for side in system] for system in systems
            ]
            deltas.append(float(np.mean([first.value - second.value for first, second in scored])))
            resampled = [resampled_differences(first, second, metric, settings, pair) for first, second in scored]
            samples.append(np.mean(resampled, 0))
            differences[metric][pair] = significance_of(deltas[-1], samples[-1])
        differences[metric]["macro"] = significance_of(float(np.mean(deltas)), np.mean(samples, 0))
    return differences


def _score(metric: str, hypotheses: Sequence[str], references: Sequence[str], tokenizer: str) -> MetricScore:
    return scores.bleu(hypotheses, references, tokenizer) if metric == "bleu" else scores.chrf(hypotheses, references)


def welch_t_test(candidate: Sequence[float], baseline: Sequence[float]) -> dict[str, Any] | None:
    """Runs Welch's t-test between the values of several seeds of two groups.

    Args:
        candidate: a value a seed.
        baseline: the same of the other group.

    Returns:
        delta, low, high (95 %) and p; None with fewer than two seeds or without spread.
    """
    if min(len(candidate), len(baseline)) < 2 or np.ptp(candidate) + np.ptp(baseline) < 1e-9:
        return None
    from scipy.stats import ttest_ind

    test = ttest_ind(candidate, baseline, equal_var=False)
    if not math.isfinite(test.pvalue):
        return None
    interval = test.confidence_interval(0.95)
    delta = float(np.mean(candidate) - np.mean(baseline))
    return {"delta": delta, "low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)}

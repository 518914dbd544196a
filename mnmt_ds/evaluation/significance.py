"""Is the difference between two runs more than chance? Paired bootstrap over sentences, t-test over seeds."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.evaluation import scores
from mnmt_ds.evaluation.scores import MetricScore, ScoreSettings

Texts = Mapping[str, Sequence[str]]
"""Lines by language pair."""


class Difference(NamedTuple):
    """Of one system to another; positive where the first is better."""

    delta: float
    low: float
    """2.5th percentile of the resampled differences."""
    high: float
    """97.5th percentile."""
    p: float
    """Two-sided: how often a resample strays as far from the mean difference as that lies from zero."""


def resample(
    ours: MetricScore, theirs: MetricScore, name: str, tokenizer: str, settings: ScoreSettings, key: str
) -> NDArray[np.float64]:
    """Differences of a corpus metric over resamples of sentences, the same sentences for both systems (Koehn 2004).

    name: "bleu" or "chrf". key: names the test set, so that its resamples do not depend on what else is tested.
    """
    generator = np.random.default_rng([settings.seed, zlib.crc32(key.encode())])
    size = len(ours.stats_NK)
    both_NK = np.concatenate([ours.stats_NK, theirs.stats_NK], 1)
    width = ours.stats_NK.shape[1]
    found = np.empty(settings.samples)
    for i in range(settings.samples):
        counts_N = np.bincount(generator.integers(size, size=size), minlength=size)
        sums_K = counts_N @ both_NK
        found[i] = scores.from_stats(name, sums_K[:width], tokenizer) - scores.from_stats(
            name, sums_K[width:], tokenizer
        )
    return found


def difference(delta: float, samples_R: NDArray[np.float64]) -> Difference:
    """What resamples say about an observed difference."""
    low, high = np.percentile(samples_R, [2.5, 97.5])
    farther = int((np.abs(samples_R - samples_R.mean()) >= abs(delta)).sum())
    return Difference(delta, float(low), float(high), (farther + 1) / (len(samples_R) + 1))


def paired_bootstrap(
    ours: Sequence[Texts], theirs: Sequence[Texts], references: Texts, settings: ScoreSettings
) -> dict[str, dict[str, Difference]]:
    """{"bleu": {pair: Difference, "macro": Difference}, "chrf": …} over the pairs that all translated.

    ours, theirs: translations by pair, one mapping a seed; the i-th of ours is held against the i-th of theirs and the
    differences are averaged, each resample taking the same sentences for all. The macro average resamples every
    pair's test set on its own.
    """
    systems = list(zip(ours, theirs, strict=True))
    pairs = [pair for pair in references if all(pair in own and pair in other for own, other in systems)]
    found: dict[str, dict[str, Difference]] = {}
    for metric in ("bleu", "chrf") if pairs and systems else ():
        deltas: list[float] = []
        samples: list[NDArray[np.float64]] = []
        found[metric] = {}
        for pair in pairs:
            tokenizer = scores.bleu_tokenizer(settings.tokenizers[0], pair.partition("-")[2])
            scored = [
                [_score(metric, side[pair], references[pair], tokenizer) for side in system] for system in systems
            ]
            deltas.append(float(np.mean([own.value - other.value for own, other in scored])))
            resampled = [resample(own, other, metric, tokenizer, settings, pair) for own, other in scored]
            samples.append(np.mean(resampled, 0))
            found[metric][pair] = difference(deltas[-1], samples[-1])
        found[metric]["macro"] = difference(float(np.mean(deltas)), np.mean(samples, 0))
    return found


def _score(metric: str, hypotheses: Sequence[str], references: Sequence[str], tokenizer: str) -> MetricScore:
    return scores.bleu(hypotheses, references, tokenizer) if metric == "bleu" else scores.chrf(hypotheses, references)


def seeds_test(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any] | None:
    """Welch's t-test between the values of several seeds of two groups; None with fewer than two or without spread."""
    if min(len(ours), len(theirs)) < 2 or np.ptp(ours) + np.ptp(theirs) < 1e-9:
        return None
    from scipy.stats import ttest_ind

    test = ttest_ind(ours, theirs, equal_var=False)
    if not math.isfinite(test.pvalue):
        return None
    interval = test.confidence_interval(0.95)
    delta = float(np.mean(ours) - np.mean(theirs))
    return {"delta": delta, "low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)}

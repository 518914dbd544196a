"""Sample translations of several experiments side by side.

Shape letters: M experiments, N sentences.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.evaluation.report import read_lines
from mnmt_ds.evaluation.scores import sentence_chrf
from mnmt_ds.reporting.comparison import RunGroup

SAMPLES_A_PAIR = 4


class SampleLine(NamedTuple):
    """A sentence of a sample, and the system that wrote it."""

    author: str
    """source, reference or an experiment's label."""
    text: str
    style: str
    """CSS class: ``ref`` for the reference, else empty."""


Sample = list[SampleLine]
"""A test sentence: source (where it is known), reference and every experiment's translation."""


def sample_translations(groups: Sequence[RunGroup], pairs: Sequence[str]) -> dict[str, list[Sample]]:
    """Picks the test sentences on which the experiments' translations differ most in sentence chrF.

    With one experiment, those whose chrF is nearest to the median.

    Args:
        groups: the experiments; the first seed of each counts.
        pairs: language pairs.

    Returns:
        Up to ``SAMPLES_A_PAIR`` samples by pair, without the pairs that no experiment translated whole; of the
        experiments that translated the test set of the first one.
    """
    directories = {g.label: g.runs[0].translations for g in groups if g.runs[0].translations is not None}
    if not directories:
        return {}
    texts = {label: [read_lines(path, kind) for kind in ("src", "ref", "hyp")] for label, path in directories.items()}
    samples = {}
    for pair in pairs:
        translated = {label: [lines.get(pair, []) for lines in sides] for label, sides in texts.items()}
        first = next((sides for sides in translated.values() if sides[1]), None)
        if first is not None:
            alike = {label: sides[2] for label, sides in translated.items() if sides[:2] == first[:2]}
            samples[pair] = _samples_of_pair(first[0], first[1], alike)
    return {pair: samples_of_pair for pair, samples_of_pair in samples.items() if samples_of_pair}


def _samples_of_pair(
    sources: Sequence[str], references: Sequence[str], translations: Mapping[str, Sequence[str]]
) -> list[Sample]:
    """The samples of one pair; an experiment that lacks translations is left out."""
    complete = {label: lines for label, lines in translations.items() if len(lines) == len(references)}
    if not references or not complete:
        return []
    chrf_MN = np.array([
        [sentence_chrf(hypothesis, reference) for hypothesis, reference in zip(lines, references, strict=True)]
        for lines in complete.values()
    ])  # fmt: skip
    interest_N = np.ptp(chrf_MN, 0) if len(complete) > 1 else -np.abs(chrf_MN[0] - np.median(chrf_MN[0]))
    samples = []
    for i in np.argsort(-interest_N, kind="stable")[:SAMPLES_A_PAIR]:
        lines = [SampleLine("source", sources[i], "")] if i < len(sources) else []
        lines.append(SampleLine("reference", references[i], "ref"))
        lines += [SampleLine(label, texts[i] or "(empty)", "") for label, texts in complete.items()]
        samples.append(lines)
    return samples

"""BLEU and chrF by sacreBLEU, never without a signature; macro averages and resource classes.

Shape letters: N sentences, K sufficient statistics of a metric.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mnmt_ds.config import Settings
from mnmt_ds.data.language_codes import canonical_language
from mnmt_ds.data.scripts import CHINESE, WITHOUT_SPACES
from mnmt_ds.errors import UserError

TOKENIZERS = (
    "auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none", "spm", "flores101", "flores200",
)  # fmt: skip
TOKENIZER_OF = {
    "ja": "ja-mecab",
    **dict.fromkeys(CHINESE, "zh"),
    **dict.fromkeys(WITHOUT_SPACES - CHINESE - {"ja"}, "char"),
}
"""Target languages that 13a cannot tokenise, by their canonical codes, and what ``auto`` takes for them."""
SPM_FILES = {
    "spm": "sacrebleu_tokenizer_spm.model",
    "flores101": "sacrebleu_tokenizer_spm.model",
    "flores200": "flores200sacrebleuspm",
}
"""BLEU tokenizers that need a SentencePiece model: its file in sacreBLEU's directory ``models``."""
NEEDS = {"ja-mecab": ("MeCab", "sacrebleu[ja]"), "ko-mecab": ("mecab_ko", "sacrebleu[ko]")}
"""BLEU tokenizers that need another package: the module to look for, and what to install with pip."""

MORE_METRICS = {"chrf++": "chrF++", "ter": "TER"}
"""Further metrics of sacreBLEU, and how people write them."""
AVERAGED = ("bleu", "chrf", "bleu_ceiling", "chrf_ceiling")
"""Figures of a pair whose mean over pairs a report has."""
ResourceClass = Literal["high", "low", "very low"]
RESOURCE_CLASSES: tuple[ResourceClass, ...] = ("high", "low", "very low")


class ScoreSettings(Settings):
    """Settings of how translations are scored."""

    tokenizers: tuple[str, ...] = ("auto",)
    """BLEU tokenizers; the first is the main one. auto: by target language (zh, ja-mecab or char, else 13a). none: text
    that is tokenised already ("tokenised BLEU"). spm is flores101."""
    metrics: tuple[Literal["chrf++", "ter"], ...] = ()
    """Further metrics beside BLEU and chrF."""
    high: int = Field(default=1_000_000, ge=0)
    """Training sentence pairs from which a language pair counts as high-resource (paper 3)."""
    very_low: int = Field(default=100_000, ge=0)
    """Training sentence pairs below which it counts as very low; those are not part of low."""
    samples: int = Field(default=1000, ge=1, le=10**6)
    """Resamples of the paired bootstrap."""
    seed: int = Field(12345, ge=0)
    """Seed of the resamples."""


class MetricScore(NamedTuple):
    """Score of one metric on one test set."""

    value: float
    signature: str
    stats_NK: NDArray[np.float64]
    """Each sentence's sufficient statistics, which sum to the corpus'."""


def resource_class(sentences: int, settings: ScoreSettings) -> ResourceClass:
    """Assigns a language pair its resource class by its number of training sentence pairs.

    Args:
        sentences: training sentence pairs.
        settings: the bounds.

    Returns:
        high, low or very low.
    """
    return "high" if sentences >= settings.high else "very low" if sentences < settings.very_low else "low"


def bleu_tokenizer(name: str, target: str) -> str:
    """Resolves a BLEU tokenizer for a target language.

    Args:
        name: one of ``TOKENIZERS``.
        target: code of the target language.

    Returns:
        sacreBLEU's name of the tokenizer.

    Raises:
        UserError: where it is not known, not installed, or its model file is not on this machine.
    """
    if name not in TOKENIZERS:
        raise UserError(f"BLEU tokenizer '{name}': not known; take one of {', '.join(TOKENIZERS)}")
    if name == "auto":
        name = TOKENIZER_OF.get(canonical_language(target), "13a")
        return "char" if name in NEEDS and find_spec(NEEDS[name][0]) is None else name
    if name in NEEDS and find_spec(NEEDS[name][0]) is None:
        raise UserError(f"BLEU tokenizer '{name}': not installed; pip install '{NEEDS[name][1]}', or take char")
    if name in SPM_FILES:
        home = Path(os.environ.get("SACREBLEU", Path.home() / ".sacrebleu"))
        if not (home / "models" / SPM_FILES[name]).exists():
            raise UserError(
                f"BLEU tokenizer '{name}': {home / 'models' / SPM_FILES[name]} is not there; run sacrebleu once with"
                f" --tokenize {name} on a machine with internet and copy it, or take another tokenizer"
            )
        return "flores101" if name == "spm" else name
    return name


def bleu(hypotheses: Sequence[str], references: Sequence[str], tokenizer: str) -> MetricScore:
    """Computes corpus BLEU with sacreBLEU.

    Args:
        hypotheses: translations, one a sentence.
        references: their references.
        tokenizer: as from ``bleu_tokenizer``.

    Returns:
        The score (0 to 100) with its signature.
    """
    return _score(_metric("bleu", tokenizer), hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> MetricScore:
    """Computes corpus chrF (chrF2, characters alone) with sacreBLEU.

    Args:
        hypotheses: translations, one a sentence.
        references: their references.

    Returns:
        The score (0 to 100) with its signature.
    """
    return _score(_metric("chrf", ""), hypotheses, references)


def ceilings(reachable: Sequence[str], references: Sequence[str], tokenizer: str) -> dict[str, float]:
    """Scores the references themselves after the tokenizer's round trip: more cannot be reached.

    Args:
        reachable: what a tokenizer's encoding and decoding makes of the references.
        references: as they are.
        tokenizer: BLEU's, as from ``bleu_tokenizer``.

    Returns:
        bleu_ceiling and chrf_ceiling, at most 100.
    """
    return {
        "bleu_ceiling": min(100.0, bleu(reachable, references, tokenizer).value),
        "chrf_ceiling": min(100.0, chrf(reachable, references).value),
    }


def score_pair(
    hypotheses: Sequence[str], references: Sequence[str], target: str, settings: ScoreSettings
) -> dict[str, Any]:
    """Scores one pair's translations.

    Args:
        hypotheses: translations, one a sentence.
        references: their references.
        target: code of the target language.
        settings: BLEU tokenizers.

    Returns:
        What the evaluation file holds of a pair: main BLEU, chrF, their signatures, other BLEUs, length ratio
        (system / reference, in BLEU tokens).
    """
    main, *others = (bleu_tokenizer(name, target) for name in settings.tokenizers)
    score, chrf_score = bleu(hypotheses, references, main), chrf(hypotheses, references)
    sums_K = score.stats_NK.sum(0)
    report = {
        "sentences": len(hypotheses),
        "bleu": score.value,
        "bleu_signature": score.signature,
        "bleu_tokenizer": main,
        "chrf": chrf_score.value,
        "chrf_signature": chrf_score.signature,
        "length_ratio": float(sums_K[0] / max(sums_K[1], 1)),
    }
    if others:
        scored = [bleu(hypotheses, references, name) for name in others]
        report["other_bleu"] = [{"value": other.value, "signature": other.signature} for other in scored]
    if settings.metrics:
        report["other_scores"] = [
            {"name": MORE_METRICS[name], "value": other.value, "signature": other.signature}
            for name in settings.metrics
            for other in [_score(_metric(name, ""), hypotheses, references)]
        ]
    return report


def macro_averages(pairs: Mapping[str, Mapping[str, Any]], keys: Sequence[str] = ("bleu", "chrf")) -> dict[str, float]:
    """Averages over pairs; every pair counts the same.

    Args:
        pairs: reports by pair.
        keys: figures to average.

    Returns:
        The mean of each figure that every pair has.
    """
    shared_keys = [key for key in keys if all(key in facts for facts in pairs.values())]
    return {key: float(np.mean([facts[key] for facts in pairs.values()])) for key in shared_keys}


def class_averages(pairs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Averages over the pairs of each resource class.

    Args:
        pairs: reports by pair.

    Returns:
        For each class that has pairs: its pairs and the means of BLEU and chrF.
    """
    by_class: dict[str, dict[str, Any]] = {}
    for name in RESOURCE_CLASSES:
        members = {pair: facts for pair, facts in pairs.items() if facts["class"] == name}
        if members:
            by_class[name] = {"pairs": list(members), **macro_averages(members)}
    return by_class


@cache
def _metric(name: str, tokenizer: str) -> Any:
    return make_metric(name, tokenizer)


def make_metric(name: str, tokenizer: str) -> Any:
    """Makes a metric of sacreBLEU.

    Args:
        name: bleu, chrf, chrf++ or ter.
        tokenizer: BLEU's.

    Returns:
        The metric; it keeps the number of references of the last texts for its signature.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    if name == "bleu":
        return BLEU(tokenize=tokenizer, force=True)
    return TER() if name == "ter" else CHRF(word_order=2 if name == "chrf++" else 0)


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> MetricScore:
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    stats = metric._extract_corpus_statistics(list(hypotheses), [list(references)])
    metric.num_refs = 1
    total = metric._aggregate_and_compute(stats)
    return MetricScore(float(total.score), str(metric.get_signature()), np.asarray(stats, np.float64))


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """Computes chrF of one sentence: for picking out sentences, not for reporting.

    Args:
        hypothesis: a translation.
        reference: its reference.

    Returns:
        chrF (0 to 100).
    """
    return float(_metric("chrf", "").sentence_score(hypothesis, [reference]).score)

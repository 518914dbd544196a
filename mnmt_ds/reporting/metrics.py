"""The metrics that runs are compared by.

Shape letters: V validations of a run (not the vocabulary, as in models and kernels).
"""

import math
from typing import NamedTuple

import numpy as np

from mnmt_ds.evaluation.scores import RESOURCE_CLASSES, ScoreSettings, class_averages, resource_class
from mnmt_ds.reporting.runs import Run

NATS_A_BIT = math.log(2)


class ComparedMetric(NamedTuple):
    """A metric of a whole run, and how tables show it."""

    key: str
    title: str
    digits: int
    """After the decimal point."""
    direction: int
    """1: more is better, -1: less, 0: neither."""
    main: bool = True
    """Whether the summary shows it, too."""


COMPARED_METRICS = (
    ComparedMetric("best_epoch", "best epoch", 1, 0),
    ComparedMetric("dev", "dev loss (nats)", 3, -1),
    ComparedMetric("dev_bits", "dev loss (bits)", 3, -1),
    ComparedMetric("deficit", "deficit (nats)", 3, -1),
    ComparedMetric("deficit_bits", "deficit (bits)", 3, -1),
    ComparedMetric("bleu", "BLEU", 2, 1),
    ComparedMetric("bleu_ceiling", "ceiling", 2, 0),
    ComparedMetric("chrf", "chrF", 2, 1),
    ComparedMetric("bleu_high", "BLEU high", 2, 1),
    ComparedMetric("bleu_low", "BLEU low", 2, 1),
    ComparedMetric("bleu_very_low", "BLEU very low", 2, 1),
    ComparedMetric("epochs", "epochs", 1, 0, False),
    ComparedMetric("minutes", "minutes", 1, 0),
    ComparedMetric("tokens_per_sec", "tokens/s", 0, 0),
    ComparedMetric("memory_gb", "peak GB", 2, 0, False),
)
"""The ceiling: the references' own BLEU after the tokenizer's round trip. Units: dev loss and deficit a token, in nats
as in the records and in bits as in paper 1's tables and figures; BLEU and chrF from 0 to 100, minutes of the whole run,
tokens/s in target tokens a second, peak GB of a device's memory in 1e9 bytes."""
METRIC_TITLES = {metric.key: metric.title for metric in COMPARED_METRICS}


def metrics_of_run(run: Run) -> dict[str, float]:
    """Collects a run's compared metrics.

    Args:
        run: the run; it may be unfinished or not evaluated.

    Returns:
        A value for every key in ``COMPARED_METRICS``; nan where there is none yet.
    """
    nan, validated = float("nan"), run.best_validation >= 0
    scores = (run.report or {}).get("macro", {})
    classes = (run.report or {}).get("classes", {})
    classes = classes if len(classes) > 1 else {}
    dev = float(run.mean_dev_loss_V[run.best_validation]) if validated else nan
    deficit = sum(run.deficits().values()) if validated else nan
    return {
        "best_epoch": float(run.epoch_V[run.best_validation]) if validated else nan,
        "dev": dev,
        "dev_bits": dev / NATS_A_BIT,
        "deficit": deficit,
        "deficit_bits": deficit / NATS_A_BIT,
        "bleu": scores.get("bleu", nan),
        "bleu_ceiling": scores.get("bleu_ceiling", nan),
        "chrf": scores.get("chrf", nan),
        **{f"bleu_{name.replace(' ', '_')}": classes.get(name, {}).get("bleu", nan) for name in RESOURCE_CLASSES},
        "epochs": float(np.nanmax(run.epoch_V)) if validated else nan,
        "minutes": run.seconds / 60,
        "tokens_per_sec": run.tokens_per_sec,
        "memory_gb": run.memory_gb or nan,
    }


def with_resource_classes(run: Run, settings: ScoreSettings) -> Run:
    """Sorts a run's pairs into resource classes by other bounds than it was evaluated with.

    Args:
        run: the run.
        settings: the bounds, in training sentences.

    Returns:
        The run with new classes and class averages in its report; unchanged where it is not evaluated.
    """
    if run.report is None:
        return run
    pairs = {
        pair: {**scores, "class": resource_class(scores["train_sentences"], settings)}
        for pair, scores in run.report["pairs"].items()
    }
    return run._replace(report={**run.report, "pairs": pairs, "classes": class_averages(pairs)})

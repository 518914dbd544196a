"""Metric keys: templates, what explains a key, the generated page, and that no other file spells a key by hand."""

import copy
import pickle
import re
from pathlib import Path

import pytest

from mnmt_ds import metric_keys
from mnmt_ds.cli.reference import generated
from mnmt_ds.metric_keys import METRICS, Metric

ROOT = Path(__file__).parents[2]


def metric_of(key: str) -> Metric | None:
    """What explains a key: an exact one, then the most special template."""
    exact = [metric for metric in METRICS if metric == key]
    fitting = exact or [metric for metric in METRICS if _fits(metric, key)]
    return min(fitting, key=lambda metric: metric.count("{") * 100 - len(metric)) if fitting else None


def _fits(metric: Metric, key: str) -> bool:
    pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(metric))
    return re.fullmatch(pattern, key) is not None or re.fullmatch("[^/]+/" + pattern, key) is not None


@pytest.mark.parametrize("metric", METRICS)
def test_a_template_gives_back_what_it_was_filled_with(metric: Metric) -> None:
    places = re.findall(r"\{\w+\}", metric)
    key = metric.of(*["bs-en", "reward"][: len(places)])
    assert "{" not in key
    if len(places) < 2:
        assert metric.name_in(key) == ("bs-en" if places else "")
        assert metric.name_in("other/" + key) is None
    assert metric.meaning.endswith(".")
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert (twin, twin.unit, twin.meaning) == (metric, metric.unit, metric.meaning)


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("train/loss", metric_keys.TRAIN_LOSS),
        ("train/kd_loss", metric_keys.TRAIN_TERM_LOSS),
        ("train/kd_gate", metric_keys.TRAIN_GATE),
        ("train/anything", metric_keys.TRAIN_TERM),
        ("valid/bs-en/loss", metric_keys.VALID_LOSS),
        ("valid/avg/macro", metric_keys.VALID_MACRO),
        ("model_1/valid/bs-en/nll", metric_keys.VALID_NLL),
        ("data/bs-en/reward", metric_keys.DATA_SCORE),
        ("teacher/all/age", metric_keys.TEACHER_ALL_AGE),
        ("teacher/bs-en/age", metric_keys.TEACHER_AGE),
        ("memory/cpu/stage_1", metric_keys.MEMORY_CPU_STAGE),
        ("valid/bs-en/deep/loss", None),
        ("nothing", None),
    ],
)
def test_what_explains_a_key(key: str, metric: Metric | None) -> None:
    assert metric_of(key) == metric


def test_the_page_is_current() -> None:
    page = ROOT / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == generated(ROOT)[page], "run python -m mnmt_ds.cli.reference"


def test_keys_are_spelled_in_one_file() -> None:
    """No other file of the package holds a literal that begins as a metric key does."""
    groups = {metric.split("/")[0] for metric in METRICS if "{" not in metric.split("/")[0]}
    literal = re.compile(rf"""["'](?:{"|".join(sorted(groups))})/[\w{{}}<>/]*["']""")
    found = {
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (ROOT / "mnmt_ds").rglob("*.py")
        if path.name != "metric_keys.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if literal.search(line)
    }
    assert not found

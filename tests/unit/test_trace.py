"""The comparison of two traces: equal ones pass, and a difference in the last bit of one number does not."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.trace.__main__ import main
from tests.trace.cases import CASES
from tests.trace.compare import compare

RECORD = {"kind": "train", "update": 1, "train/loss": 5.5, "teacher/bs-en/age": 2, "train/gnorm": math.nan}
RUN = {
    "records": {"metrics.jsonl": [RECORD]},
    "keys": sorted(RECORD),
    "models": {"best": {"embedding.weight": "torch.float32 [2, 3] 00ff"}},
    "texts": {"evaluation/best.test/bs-en.hyp": "00ff"},
    "files": ["metrics.jsonl"],
}


def changed(**changes: Any) -> dict[str, Any]:
    """A trace of one training, some values of its record replaced (None: left out)."""
    run = copy.deepcopy(RUN)
    record = {**RECORD, **{key.replace("__", "/"): value for key, value in changes.items()}}
    run["records"] = {"metrics.jsonl": [{key: value for key, value in record.items() if value is not None}]}
    run["keys"] = sorted(key for key, value in record.items() if value is not None)
    return run


def differing(tmp_path: Path, new: dict[str, Any], renamed: tuple[str, ...] = ()) -> int:
    """How many trainings differ between RUN and another trace of it."""
    paths = [tmp_path / name for name in ("old.json", "new.json")]
    for path, run in zip(paths, (RUN, new), strict=True):
        path.write_text(json.dumps({"runs": {"translation": run}}), encoding="utf-8")
    return compare(paths[0], paths[1], list(renamed), [])


def test_equal_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert differing(tmp_path, copy.deepcopy(RUN)) == 0
    assert capsys.readouterr().out == "0 trainings differ; 1 are the same bit for bit (5 logged values compared)\n"


def test_the_last_bit_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert differing(tmp_path, changed(train__loss=math.nextafter(5.5, 6))) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "translation: 1 differences, largest relative one 1.61e-16"
    assert lines[1].strip().startswith("metrics.jsonl update 1, train, train/loss: 5.5 -> 5.500000000000001")


def test_weights_and_translations_count(tmp_path: Path) -> None:
    weights, texts = copy.deepcopy(RUN), copy.deepcopy(RUN)
    weights["models"] = {"best": {"embedding.weight": "torch.float32 [2, 3] 00fe"}}
    texts["texts"] = {}
    assert differing(tmp_path, weights) == differing(tmp_path, texts) == 1


def test_renamed_keys(tmp_path: Path) -> None:
    new = changed(**{"teacher/bs-en/age": None, "teachers/bs-en/updates": 2})
    assert differing(tmp_path, new) == 1
    assert differing(tmp_path, new, ("teacher/*/age=teachers/*/updates",)) == 0


@pytest.mark.slow
def test_a_training_gives_the_same_trace_again(tmp_path: Path) -> None:
    """Without and with a stop in between the losses and the last weights are the same, too."""
    paths = [tmp_path / f"{number}.json" for number in range(2)]
    names = ["lssd_adaptive", "lssd_resumed"]
    assert set(names) <= set(CASES)
    for path in paths:
        assert main([str(path), "--only", *names]) == 0
    assert main(["--compare", *map(str, paths)]) == 0
    runs = json.loads(paths[0].read_text(encoding="utf-8"))["runs"]
    whole, resumed = (runs[name] for name in names)
    assert whole["models"]["last"] == resumed["models"]["last"]
    losses = [
        [record["train/loss"] for record in run["records"]["metrics.jsonl"] if "train/loss" in record]
        for run in (whole, resumed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12

"""Records of very many pairs: a tenth of the bytes, the same figures; records of few pairs stay as they are."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnmt_ds.dashboards import split_pairs
from mnmt_ds.errors import UserError
from mnmt_ds.packed_records import LEAST_PAIRS, PACKED, pack, unpack
from mnmt_ds.record_lines import check_lines, read_records, write_lines
from mnmt_ds.tracking import Tracker, TrackingSettings


def record(pairs: int) -> dict[str, Any]:
    maker = np.random.default_rng(0)
    values: dict[str, Any] = {"kind": "valid", "update": 300, "epoch": 1.5, "time": 1.0, "valid/avg/macro": 3.25}
    for number in range(pairs):
        pair, nll = f"l{number:04}-en", float(maker.uniform(1, 6))
        values |= {f"valid/{pair}/loss": nll + 0.5, f"valid/{pair}/nll": nll, f"valid/{pair}/ppl": math.exp(nll)}
        values |= {f"teacher/{pair}/switch": number % 2, f"teacher/{pair}/version": 300 - number % 7}
        values |= {f"data/{pair}/share": 1 / pairs, f"data/{pair}/passes": float(maker.uniform(0, 9))}
    return {**values, "valid/avg/bleu": 12.0, "valid/l0001-en/bleu": 12.0}


def test_figures_come_back() -> None:
    flat = record(1000)
    packed = pack(flat)
    assert len(packed) == 8 and packed["valid/l0001-en/bleu"] == 12.0, "what not every pair has stays"
    back = unpack(json.loads(json.dumps(packed)))
    assert back.keys() == flat.keys()
    for key, value in flat.items():
        assert back[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)
        assert type(back[key]) is type(value)
    assert len(json.dumps(packed)) < len(json.dumps(flat)) / 10


def test_few_pairs_stay_as_they_are() -> None:
    flat = record(LEAST_PAIRS - 1)
    assert pack(flat) == flat and unpack(flat) == flat and PACKED in pack(record(LEAST_PAIRS))


def test_what_is_no_number_of_32_bits_stays() -> None:
    flat = record(LEAST_PAIRS)
    flat |= {"valid/l0007-en/loss": math.inf, "teacher/l0009-en/version": 2**40, "data/l0003-en/share": None}
    back = unpack(pack(flat))
    assert back["valid/l0007-en/loss"] == math.inf and back["teacher/l0009-en/version"] == 2**40
    assert back["data/l0003-en/share"] is None and back["valid/l0008-en/loss"] == flat["valid/l0008-en/loss"]


def test_the_log_is_read_flat_and_rewound_packed(tmp_path: Path) -> None:
    figures = {key: value for key, value in record(300).items() if "/" in key}
    tracker = Tracker(tmp_path, TrackingSettings(), True, "run")
    for update in (100, 200, 300):
        tracker.log("valid", update, update / 100, figures)
    tracker.rewind(200)
    tracker.log("valid", 250, 2.5, figures)
    records = read_records(tracker.path)
    assert [one["update"] for one in records] == [100, 200, 250] and PACKED not in records[0]
    assert records[2]["valid/l0299-en/loss"] == pytest.approx(record(300)["valid/l0299-en/loss"], rel=1e-6)
    assert PACKED in check_lines(tracker.path)[0][0].record


def test_damage_is_named(tmp_path: Path) -> None:
    packed = pack(record(300))
    log = tmp_path / "metrics.jsonl"
    for text in (packed[PACKED][:-8], "", "AAAA", 7):
        log.write_text(write_lines([{**packed, PACKED: text}]))
        with pytest.raises(UserError, match=r"metrics\.jsonl: its packed figures cannot be read"):
            read_records(log)


def test_a_dashboard_gets_histograms_and_the_pairs_that_were_asked_for() -> None:
    values = record(300)
    shown, rows = split_pairs(values, ("l0005-en",))
    assert shown["valid/l0005-en/loss"] == values["valid/l0005-en/loss"] and "valid/l0006-en/loss" not in shown
    assert shown["valid/avg/macro"] == 3.25 and len(rows["valid/pairs/loss"]) == 300
    few = record(5)
    assert split_pairs(few, ()) == ({key: value for key, value in few.items() if key != "kind"}, {})


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_steps_of_a_resumed_offline_run_go_on(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []

    class Run:
        def define_metric(self, *names: str, step_metric: str) -> None:
            assert step_metric == "update"

        def log(self, values: dict[str, Any], step: int | None) -> None:
            steps.append(step)

    monkeypatch.setattr("wandb.init", lambda **options: Run())
    for records in (None, 1):
        tracker = Tracker(tmp_path, TrackingSettings.model_validate({"wandb": mode}), True, "run")
        tracker.start_dashboards({}, 0)
        tracker.rewind(-1 if records is None else 3, records)
        for kind in ("run", "train", "valid"):
            tracker.log(kind, 3, 1.0, {"train/loss": 2.0})
    assert steps == ([1, 1, 2, 2, 2, 3] if mode == "offline" else [None] * 6)

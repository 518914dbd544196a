"""Killed runs of version 0.1.0 (commit 661ba44): the present code resumes, scores, translates and compares them.

``fixtures/old_runs.tar.xz`` holds a prepared corpus, two run directories as SIGKILL left them (``lssd``: ZeRO-1, ccl_m,
last checkpoint at update 186 of 200; ``pareto``: ZeRO-0, two students, searched weights, 115 of 130), what the old code
made of them (``expected.json``: all records once they were resumed; scores and translations of the stopped runs), and
resolved recipes that hold every setting (``recipes/``: of launchers/recipes and of tests/trace). DeepSpeed's helper
scripts were taken out of the checkpoint and of its manifest.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main
from tests.tiny import ROOT
from tests.trace.runs import TIMES, read_metrics

ARCHIVE = ROOT / "tests" / "fixtures" / "old_runs.tar.xz"
RENAMED: dict[str, str] = {}
"""Metric keys that have another name today."""
ADDED = re.compile(r"^(model_\d/)?pareto/(mu$|.+/(before|keep|raise|lower|action)$)|train/gnorm$")
"""Metric keys that version 0.1.0 did not have: searches with their trials, the gradient's norm in fp32 at ZeRO 0."""
NAMES = {"several": "multi_teacher"}
"""Values of settings that are accepted still and have another name today."""
CHECKPOINTS = {"lssd": 186, "pareto": 115}
"""The update of each run's checkpoint."""
FILES = ("lssd/metrics.jsonl", "pareto/metrics.jsonl", *(f"pareto/students/model_{n}/metrics.jsonl" for n in (1, 2)))


def unpack(directory: Path) -> Path:
    """Unpacks the archive; everything in it then belongs to this user, and only this user may write."""
    shutil.unpack_archive(ARCHIVE, directory)
    return directory


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs as they were killed."""
    return unpack(tmp_path_factory.mktemp("stopped"))


@pytest.fixture(scope="module")
def expected(stopped: Path) -> dict[str, Any]:
    """What the old code made of them."""
    return dict(json.loads((stopped / "expected.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs, resumed to their end by the present code with the recipes that the old code wrote."""
    directory = unpack(tmp_path_factory.mktemp("resumed"))
    for run in CHECKPOINTS:
        done = subprocess.run(
            [sys.executable, "-m", "mnmt_ds.cli.main", "train", f"{run}/recipe.yaml", "--resume"],
            cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.parametrize("file", FILES)
def test_a_killed_run_goes_on_as_it_did(file: str, stopped: Path, resumed: Path, expected: dict[str, Any]) -> None:
    """What was logged up to the checkpoint stays; from there on every figure is the old code's."""
    before, after = ((place / file).read_bytes().splitlines() for place in (stopped, resumed))
    records, wanted = read_metrics(resumed / file), expected["metrics"][file]
    checkpoint = CHECKPOINTS[file.split("/")[0]]
    kept = sum(record["update"] <= checkpoint for record in wanted if record["kind"] != "run")
    assert kept > 100 and after[:kept] == before[:kept], "it began anew"
    records, added = records[: len(wanted)], records[len(wanted) :]
    assert [(r["kind"], r["update"]) for r in records] == [(r["kind"], r["update"]) for r in wanted]
    assert {r["update"] for r in added} == {wanted[-1]["update"]} and added[0]["kind"] == "valid", (
        "the end's validation"
    )
    compared, largest = 0, 0.0
    for record, old in zip(records, wanted, strict=True):
        old = {RENAMED.get(key, key): value for key, value in old.items()}
        assert {
            key for key in record if not (TIMES.search(key) or (ADDED.search(key) and key not in old))
        } == old.keys(), (
            record["kind"],
            record["update"],
        )
        for key, value in old.items():
            place = (file, record["kind"], record["update"], key)
            if not isinstance(value, float):
                assert record[key] == value, place
                continue
            assert record[key] == pytest.approx(value, rel=1e-4, abs=1e-5), place
            compared += record["update"] > checkpoint
            largest = max(largest, abs(record[key] - value) / max(abs(value), 1e-1))
    print(f"{file}: {compared} values after the checkpoint, largest relative difference {largest:.1e}")
    assert compared > 100


@pytest.mark.parametrize("student", ["model_1", "model_2"])
def test_algorithm_1_is_replayed_from_the_log(student: str, resumed: Path) -> None:
    """AUTO-PMD by the records alone: step size, each pair's best trial, its weight; the common log has the same."""
    valid = [r for r in read_metrics(resumed / f"pareto/students/{student}/metrics.jsonl") if r["kind"] == "valid"]
    after = [n for n, record in enumerate(valid) if "pareto/mu" in record]
    common = [r for r in read_metrics(resumed / "pareto/metrics.jsonl") if r["kind"] == "valid"]
    assert after and all(valid[n]["update"] > CHECKPOINTS["pareto"] for n in after)
    for n in after:
        record, mu = valid[n], math.sqrt((130 - valid[n]["update"]) / 130)
        assert record["pareto/mu"] == pytest.approx(mu)
        for pair in (key.split("/")[1] for key in record if key.endswith("/action")):
            before = valid[n - 1][f"alpha/{pair}"]
            assert record[f"pareto/{pair}/before"] == before
            losses = {
                sign: record[f"pareto/{pair}/{name}"] for sign, name in ((0, "keep"), (1, "raise"), (-1, "lower"))
            }
            sign = min(losses, key=losses.__getitem__)
            assert record[f"pareto/{pair}/action"] == sign
            odds = before / (1 - before) * math.exp(sign * mu)
            assert record[f"alpha/{pair}"] == pytest.approx(odds / (1 + odds), rel=1e-9)
        (same,) = [r for r in common if r["update"] == record["update"] and f"{student}/pareto/mu" in r]
        assert all(same[f"{student}/{key}"] == value for key, value in record.items() if key.startswith("pareto/"))


def test_both_taught_after_the_checkpoint(expected: dict[str, Any]) -> None:
    """The comparison means something: teachers and peers were at work, and searches changed the weights."""
    last = [record for record in expected["metrics"]["lssd/metrics.jsonl"] if record["update"] > CHECKPOINTS["lssd"]]
    assert sum("train/kd_loss" in record for record in last) > 3
    for student in (1, 2):
        records = expected["metrics"][f"pareto/students/model_{student}/metrics.jsonl"]
        last = [record for record in records if record["update"] > CHECKPOINTS["pareto"]]
        assert any(record.get("train/peer_loss", 0) > 0 for record in last)
        assert len({record["alpha/fr-en"] for record in last if "alpha/fr-en" in record}) > 1


@pytest.mark.parametrize("run", ["lssd", "pareto/students/model_1"])
def test_scores(run: str, stopped: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stopped)
    assert main(["evaluate", run, "--jobs", "1", "--beam", "2"]) == 0
    report = json.loads((stopped / run / "evaluation" / "best.test.json").read_text(encoding="utf-8"))
    for pair, scores in expected["scores"][run].items():
        lines = (stopped / run / "evaluation" / "best.test" / f"{pair}.hyp").read_text(encoding="utf-8")
        assert lines == expected["translations"][run][pair]
        for name, value in scores.items():
            assert report["pairs"][pair][name] == pytest.approx(value)
    assert max(scores["chrf"] for scores in expected["scores"][run].values()) > 5


def test_translations(stopped: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(stopped)
    sources, out = tmp_path / "sources", tmp_path / "translations"
    lines = (stopped / "data/text/fr-en.test.src").read_text(encoding="utf-8").splitlines()[:4]
    sources.write_text("\n".join(lines) + "\n", encoding="utf-8")
    models = (("lssd", "fr-en"), ("lssd/best_hi-en", "hi-en"))
    for (model, pair), wanted in zip(models, expected["translations"]["stdin"], strict=True):
        assert main(["translate", model, str(sources), "--pair", pair, "--beam", "1", "-o", str(out)]) == 0
        assert out.read_text(encoding="utf-8") == wanted and wanted.strip()


def test_compare(stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(stopped)
    assert main(["compare", "lssd", "pareto", "-o", "compared", "--samples", "20"]) == 0
    assert (stopped / "compared" / "compare.html").exists()
    table = capsys.readouterr().out
    assert all(name in table for name in ("lssd", "pareto.model_1", "pareto.model_2")), table


def test_recipes_hold_the_same_settings(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the old resolved recipes loads, and none of its settings changes; what was left open may have a value."""
    paths = sorted((stopped / "recipes").glob("*.yaml"))
    paths += [stopped / "lssd/recipe.yaml", *sorted(stopped.glob("pareto/**/recipe.yaml"))]
    assert len(paths) > 70
    for path in paths:
        assert main(["train", str(path), "--dump-config"]) == 0, (path.name, capsys.readouterr().err)
        text = capsys.readouterr().out
        old, new = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(text)
        if not Path(old["deepspeed"]).is_absolute():  # found upward from the recipe
            new["deepspeed"] = old["deepspeed"]
        assert not list(changes(old, new)), path.name


def changes(old: Any, new: Any, key: str = "") -> list[str]:
    """Settings of an old resolved recipe that have another value in a new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        lost = [f"{key}.{name} is gone" for name in old.keys() - new.keys()]
        return lost + [
            text for name in old.keys() & new.keys() for text in changes(old[name], new[name], f"{key}.{name}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [text for n, pair in enumerate(zip(old, new, strict=True)) for text in changes(*pair, f"{key}.{n}")]
    left_open = old is None or old == "" or (old == 0 and key.startswith(".model."))
    same = left_open or old == new or NAMES.get(str(old)) == new
    return [] if same else [f"{key}: {old!r} became {new!r}"]

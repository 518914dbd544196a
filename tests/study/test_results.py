"""From finished runs to tables: models of single pairs put together, gains by hand, what is missing is said."""

import csv
import json
from pathlib import Path

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.evaluation import report
from mnmt_ds.evaluation.report import read_lines, read_report, write_lines
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.reporting.comparison import compare_groups, group_runs
from mnmt_ds.reporting.runs import read_run
from mnmt_ds.reporting.tables import all_tables
from mnmt_ds.study import run_state
from mnmt_ds.study.plan import Study, TrainingJob, read_study
from mnmt_ds.study.report import resource_classes, write_report
from mnmt_ds.study.scheduler import is_complete, run_all
from tests.evaluation.runs import SIZES, curve_run, evaluated
from tests.small_disk import fill, read_only, small_disk
from tests.tiny import recipe

GOLD = ["the red cat sees a small dog", "an old bird likes the large green river", "the fish eats here now and again"]
GOOD = ["the red cat sees a small dog", "an old bird likes the large blue river", "the fish eats there now and again"]
POOR = ["a red cat saw the small dog", "an old bird likes the large blue rivers", "the fishes eat there now and again"]
TEXT = """
title: By hand
directory: DIR/runs
recipe: base.yaml
rows:
  lssd: {set: {method: {name: lssd}}, seeds: [1, 2]}
  plain: {seeds: [1, 2]}
  single: {per_pair: true}
  never: {}
baseline: plain
"""


def finish(job: TrainingJob, hypotheses: list[str]) -> None:
    """What training and evaluation leave."""
    pairs = {pair: SIZES[pair] for pair in job.recipe.data.pairs}
    curve_run(job.directory, job.recipe.name, {"name": job.recipe.method.name}, job.recipe.train.seed, 6, pairs)
    evaluated(job.directory, dict.fromkeys(pairs, hypotheses), dict.fromkeys(pairs, GOLD))
    path = job.directory / "evaluation" / "best.test.json"
    write_lines(path.with_suffix(""), "src", dict.fromkeys(pairs, GOLD))
    facts = ("data_hash", "search", "dtype", "tokenizer_hash", "score")
    report.write_report(path, read_report(path) | {fact: {} for fact in facts} | {"model": str(job.directory)})
    run_state.write_mark(job.directory, recipe=run_state.recipe_values(job.recipe), evaluate="")


def test_resource_classes_are_named_and_an_empty_frontier_is_explained() -> None:
    sizes = {"bs-en": 90, "fr-en": 2600}
    assert resource_classes(sizes, ScoreSettings(high=1000, very_low=100)) == (
        "Resource classes: high (from 1,000 training sentences): fr-en; low: none; very low (under 100): bs-en."
    )
    for high, which in ((5000, "no pair is"), (50, "every pair is")):
        text = resource_classes(sizes, ScoreSettings(high=high, very_low=0))
        assert f"**No Pareto frontier: {which} high-resource.** The pairs have 90 to 2,600" in text and "--high" in text
    assert resource_classes({}, ScoreSettings()) == ""


def test_the_deficit_in_both_units(tmp_path: Path) -> None:
    run = read_run(curve_run(tmp_path / "run", "plain", {"name": "translation"}, 1, 30, SIZES))
    tables = {table.name: table for table in all_tables([compare_groups(group_runs([run]), ScoreSettings())])}
    nats, bits = (float(tables[name].rows[0][1].split()[0]) for name in ("deficit", "deficit_bits"))
    assert nats == pytest.approx(run.deficit_V[-1], abs=1e-3) and nats > 0.1
    assert bits == pytest.approx(1.4427 * nats, abs=2e-3)
    dev = [float(tables[name].rows[0][1].split()[0]) for name in ("dev", "dev_bits")]
    assert dev[1] == pytest.approx(1.4427 * dev[0], abs=2e-3)
    assert all("nats a token" in t.title or "bits a token" in t.title for t in tables.values() if "Dev" in t.note)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    base = recipe(tmp_path / "data", tmp_path / "run", data={"directory": "nowhere", "pairs": list(SIZES)})
    (tmp_path / "base.yaml").write_text(dump(base))
    (tmp_path / "study.yaml").write_text(TEXT.replace("DIR", str(tmp_path)))
    return read_study(tmp_path / "study.yaml")


def test_tables_by_hand(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {(entry.row, entry.seed): entry for entry in study.entries}
    single = entries["single", 1]
    for entry in study.entries:
        for job in entry.jobs if entry.row != "never" else ():
            better = entry.row == "lssd" or job.recipe.data.pairs == ("el-en",)
            finish(job, GOOD if better else POOR)
    assert not is_complete(study, single)
    assert run_all(study, [single], 1, print) == {}  # nothing to train; it is put together
    assert is_complete(study, single)

    whole = read_run(single.directory)
    assert whole.status == "unfinished"  # made-up runs have no weights
    assert set(whole.report["pairs"]) == set(SIZES) and whole.deficits() == dict.fromkeys(SIZES, 0.0)  # type: ignore[index]
    assert read_lines(single.directory / "evaluation" / "best.test", "hyp")["el-en"] == GOOD
    assert (single.directory / "best_ko-en").readlink() == Path("pairs/ko-en/best")
    for job in single.jobs:
        own = read_run(job.directory)
        assert whole.dev_losses[job.directory.name][0] == own.dev_losses[job.directory.name][own.best_validation]

    directory = write_report(study, {entries["never", 1].directory: "no luck"})
    assert directory == tmp_path / "runs" / "report"
    good, poor = (entries[row, 1].directory / "evaluation" / "best.test.json" for row in ("lssd", "plain"))
    high, low = (read_report(path)["macro"]["bleu"] for path in (good, poor))
    with (directory / "bleu.csv").open() as file:
        rows = {row[0]: row[1] for row in csv.reader(file)}
    assert list(rows) == ["", "plain", "lssd", "single"]  # the baseline first
    assert rows["plain"] == f"{low:.2f} ±0.00"
    assert rows["lssd"].startswith(f"{high:.2f} ±0.00 ({high - low:+.2f}")
    assert rows["single"].startswith(f"{(3 * low + high) / 4:.2f} ({(high - low) / 4:+.2f}")
    with (directory / "pairs.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0][1:] == ["bs-en (150)", "hi-en (450)", "el-en (900)", "ko-en (2,600)"]
    assert table[3][1] == f"{low:.2f} (+0.00)" and table[3][3].startswith(f"{high:.2f} ({high - low:+.2f}")
    text = (directory / "study.md").read_text()
    assert "### Performance deficit, bits" in text and "Resource classes: high (from 1,000,000" in text
    assert "**No Pareto frontier: no pair is high-resource.**" in text
    assert "- never, seed 1: failed: no luck" in text and "Welch's t-test" in text
    page = (directory / "study.html").read_text()
    assert "BLEU by pair" in page and 'src="http' not in page and 'href="http' not in page

    (entries["plain", 2].directory / "evaluation" / "best.test.json").unlink()
    assert main(["study", str(study.path), "--report"]) == 0
    assert "- plain, seed 2: not done yet" in capsys.readouterr().out


def test_a_new_evaluation_is_put_together_anew(study: Study) -> None:
    single = next(entry for entry in study.entries if entry.row == "single")
    for job in single.jobs:
        finish(job, POOR)
    run_all(study, [single], 1, print)
    path = single.jobs[0].directory / "evaluation" / "best.test.json"
    before = read_report(path)
    for change in ({"model": "another"}, {"search": {"beam": 9}}, {"score": {"tokenizers": ["spm"]}}):
        assert is_complete(study, single)
        path.write_text(json.dumps(before | change))
        assert not is_complete(study, single)
        path.write_text(json.dumps(before))


def test_what_cannot_be_put_together_holds_up_nothing_else(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {(entry.row, entry.seed): entry for entry in study.entries}
    single, never, plain = entries["single", 1], entries["never", 1], entries["plain", 1]
    for job in [*single.jobs, *plain.jobs]:
        finish(job, POOR)
    path = single.jobs[1].directory / "evaluation" / "best.test.json"
    path.write_text(json.dumps({name: value for name, value in read_report(path).items() if name != "seconds"}))
    (plain.directory / "evaluation" / "best.test.json").unlink()
    study = study._replace(settings=study.settings.model_copy(update={"evaluate": '--beam "4'}))  # an open quote
    run_state.write_mark(never.directory, recipe=run_state.recipe_values(never.jobs[0].recipe))
    for job in single.jobs:
        run_state.write_mark(job.directory, evaluate=study.settings.evaluate)
    said: list[str] = []
    failed = run_all(study, [single, never, plain], 1, said.append)
    assert failed == {
        single.directory: f"{path}: not a readable report (seconds: Field required); evaluate again with --fresh",
        never.directory: "ValueError: No closing quotation",
        plain.directory: "ValueError: No closing quotation",
    }
    assert len(said) == 3


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_on_a_full_disk_the_report_stays(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line; no file of the report is new while another is old."""
    with small_disk(tmp_path / "disk", "3m") as disk:
        base = recipe(tmp_path / "data", tmp_path / "run", data={"directory": "nowhere", "pairs": list(SIZES)})
        (tmp_path / "base.yaml").write_text(dump(base))
        (tmp_path / "study.yaml").write_text(TEXT.replace("DIR", str(disk)))
        words, entries = ["study", str(tmp_path / "study.yaml")], read_study(tmp_path / "study.yaml").entries
        for job in (job for entry in entries if entry.row in ("plain", "lssd") for job in entry.jobs):
            finish(job, POOR)
        assert main([*words, "--report"]) == 0
        before = {path: path.read_bytes() for path in (disk / "runs" / "report").iterdir()}
        assert len(before) > 5
        (entries[0].jobs[0].directory / "evaluation" / "best.test.json").unlink()  # the report is to be another one
        for left in (0, 8_192, 20_480) if kind == "full" else (0,):
            fill(disk, left) if kind == "full" else read_only(disk)
            capfd.readouterr()
            assert main([*words, "--report"]) == 2
            (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mnmt-ds")]
            assert line.startswith(f"mnmt-ds study: {disk}/runs/") and kind.replace("full", "no space left") in line
            assert {path: path.read_bytes() for path in (disk / "runs" / "report").iterdir()} == before

"""``mnmt-ds compare``: what it reads from runs, how it groups them, and the page that it writes.

Shape letters: V validations of a run.
"""

import csv
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.files import lock
from mnmt_ds.reporting.comparison import group_runs
from mnmt_ds.reporting.metrics import COMPARED_METRICS, metrics_of_run, with_resource_classes
from mnmt_ds.reporting.run_settings import differing_settings
from mnmt_ds.reporting.runs import read_run, read_runs, train_sizes
from mnmt_ds.reporting.summary import format_with_spread, summarise_groups
from mnmt_ds.run_files import LOCK, METRICS, RECIPE
from tests.evaluation.runs import SIZES, curve_run, evaluated

PLAIN = {"name": "translation"}
LSSD = {"name": "lssd", "variant": "whole", "alpha": 2.0}
REFERENCES = {pair: [f"the {pair} file {i} could not be opened here" for i in range(12)] for pair in SIZES}
WORSE = {pair: [line.replace("could not", "may") for line in lines] for pair, lines in REFERENCES.items()}


def write(run: Path, records: list[dict[str, Any]], recipe: str = "name: r\n") -> Path:
    run.mkdir(parents=True)
    (run / RECIPE).write_text(recipe)
    (run / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def valid(update: int, time: float, **dev: float) -> dict[str, Any]:
    losses = {f"valid/{pair.replace('_', '-')}/loss": value for pair, value in dev.items()}
    mean = sum(dev.values()) / len(dev)
    return {"kind": "valid", "update": update, "epoch": update / 10, "time": time, "valid/avg/macro": mean, **losses}


def test_best_checkpoints_and_deficit_by_hand(tmp_path: Path) -> None:
    """Means 4.0, 3.0, 3.2: best is the second; a's own best is the first (0.5 lower), b's the third (0.7 lower)."""
    records = [valid(10, 5, a_en=2.5, b_en=5.5), valid(20, 6, a_en=3.0, b_en=3.0), valid(30, 7, a_en=4.1, b_en=2.3)]
    run = read_run(write(tmp_path / "r", records))
    assert run.best_validation == 1 and run.own_best == {"a-en": 0, "b-en": 2}
    assert run.deficits() == pytest.approx({"a-en": 0.5, "b-en": 0.7})
    row = metrics_of_run(run)
    assert (row["best_epoch"], row["dev"], row["epochs"]) == (2.0, 3.0, 3.0)
    assert row["deficit"] == pytest.approx(1.2) and np.isnan(row["bleu"])
    assert (row["dev_bits"], row["deficit_bits"]) == pytest.approx((4.3280851, 1.7312340))


def test_the_runs_own_choice_of_best_counts(tmp_path: Path) -> None:
    """A run that selects by tokens logs which update it took."""
    records = [valid(10, 5, a_en=2.0), {**valid(20, 6, a_en=3.0), "valid/best/update": 20}]
    assert read_run(write(tmp_path / "r", records)).best_validation == 1


def test_time_leaves_pauses_out(tmp_path: Path) -> None:
    """100 to 160, a pause, 1000 to 1030: 90 seconds."""
    start = {"kind": "run", "update": 0}
    records = [
        {**start, "time": 100.0},
        valid(10, 160.0, a_en=2.0),
        {**start, "time": 1000.0},
        valid(20, 1030.0, a_en=1.0),
    ]
    assert read_run(write(tmp_path / "r", records)).seconds == 90.0


def test_killed_running_and_finished_runs(tmp_path: Path) -> None:
    run = write(tmp_path / "r", [{"kind": "run", "update": 0, "time": 1.0}, valid(10, 5, a_en=2.5)])
    with (run / METRICS).open("a") as file:
        file.write('{"kind": "valid", "update": 20, "valid/a-en/lo')
    killed = read_run(run)
    assert killed.dev_losses["a-en"].tolist() == [2.5] and killed.status == "unfinished"
    with lock(run / LOCK):
        assert read_run(run).status == "running"
    (run / "last").mkdir()
    (run / "last" / "model.json").write_text("{}")
    assert read_run(run).status == "finished"


def test_generated_runs_log_the_deficit_that_is_read(tmp_path: Path) -> None:
    run = read_run(curve_run(tmp_path / "r", "plain", PLAIN))
    assert sum(run.deficits().values()) == pytest.approx(run.deficit_V[-1]) and run.deficit_V[-1] > 0.1


def test_labels_tell_experiments_apart(tmp_path: Path) -> None:
    """Seeds of one experiment share a label; the same name with other settings does not."""
    runs = read_runs(
        [
            curve_run(tmp_path / "p1", "plain-s1", PLAIN, seed=1),
            curve_run(tmp_path / "p2", "plain-s2", PLAIN, seed=2),
            curve_run(tmp_path / "l1", "lssd", LSSD, seed=1),
            curve_run(tmp_path / "l2", "lssd", {**LSSD, "alpha": 0.6}, seed=2),
        ]
    )
    assert [run.label for run in runs] == ["plain", "plain", "lssd (l1)", "lssd (l2)"]
    assert [group.label for group in group_runs(runs)] == ["plain", "lssd (l1)", "lssd (l2)"]
    assert differing_settings([run.recipe for run in runs[2:]]) == {"method.alpha": [2.0, 0.6]}
    assert runs[3].method == "lssd whole α 0.6"


def test_resource_classes_by_other_thresholds(tmp_path: Path) -> None:
    """BLEU by class: as evaluated, or by compare's own thresholds; no column where all are of one class."""
    run = read_run(curve_run(tmp_path / "r", "plain", PLAIN))
    sizes = {"a-en": 100, "b-en": 500, "c-en": 2000, "d-en": 3000}
    pairs = {pair: {"train_sentences": n, "class": "low", "bleu": n / 100, "chrf": 0.0} for pair, n in sizes.items()}
    run = run._replace(
        report={"pairs": pairs, "macro": {"bleu": 14.0, "chrf": 0.0}, "classes": {"low": {"bleu": 14.0}}}
    )
    assert np.isnan(metrics_of_run(run)["bleu_low"])
    metrics = metrics_of_run(with_resource_classes(run, ScoreSettings(high=1000, very_low=200)))
    assert (metrics["bleu_high"], metrics["bleu_low"], metrics["bleu_very_low"]) == (25.0, 5.0, 1.0)


def test_summaries_are_means_with_spread(tmp_path: Path) -> None:
    runs = read_runs([curve_run(tmp_path / f"p{seed}", "plain", PLAIN, seed) for seed in (1, 2, 3)])
    (summary,) = summarise_groups(group_runs(runs))
    values = [metrics_of_run(run)["dev"] for run in runs]
    assert summary.mean["dev"] == pytest.approx(np.mean(values))
    assert summary.spread["dev"] == pytest.approx(np.std(values, ddof=1))
    assert summary.seeds == [1, 2, 3]
    dev_loss = next(metric for metric in COMPARED_METRICS if metric.key == "dev")
    rounded = summary._replace(mean={"dev": 3.2}, spread={"dev": 0.051})
    assert format_with_spread(rounded, dev_loss) == "3.200 ±0.051"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of two experiments, one of a third that is still at work, compared."""
    folder = tmp_path_factory.mktemp("compare")
    runs = []
    for name, method, hypotheses in (("plain", PLAIN, WORSE), ("lssd", LSSD, REFERENCES)):
        for seed in (1, 2):
            runs.append(curve_run(folder / f"{name}{seed}", name, method, seed))
            evaluated(runs[-1], hypotheses, REFERENCES)
    runs.append(write(folder / "begun", [{"kind": "run", "update": 0, "time": 1.0}], "name: begun\n"))
    assert main(["compare", *map(str, runs), "-o", str(folder / "out"), "--samples", "50", "--title", "A < B"]) == 0
    return folder / "out"


class Reader(html.parser.HTMLParser):
    """Collects what a page would fetch, its headings and the ids of what can be dimmed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.sections: list[str] = []
        self.groups: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and tag != "a" and not (value or "").startswith("#"):
                self.fetched.append(f"{tag} {value}"[:80])
            if name == "id" and tag == "h2":
                self.sections.append(str(value))
            if name == "id" and re.match(r"g\d+-", str(value)):
                self.groups.add(str(value).split("-")[0])


def test_page_is_whole_and_offline(page: Path) -> None:
    text = (page / "compare.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert [fetched for fetched in reader.fetched if not fetched.startswith("image data:image/png")] == []
    assert "url(http" not in text and "@import" not in text
    assert reader.sections == [
        "summary", "curves", "convergence", "deficit", "bleu", "chrf", "teachers", "shares", "training", "pairs",
        "settings", "samples", "runs",
    ]  # fmt: skip
    assert reader.groups == {"g0", "g1"}, "both experiments that have curves can be dimmed"
    for unit in ("nats a token", "bits a token", "dev loss (nats)", "dev loss (bits)", "deficit (bits)"):
        assert unit in text
    assert "A &lt; B" in text and "begun" in text and "nrefs:1|case:mixed" in text
    assert all(pair.replace("-", " → ") in text for pair in SIZES)


def test_tables(page: Path) -> None:
    table = (page / "compare.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    assert [row[0] for row in rows] == ["run", "plain (unfinished)", "lssd (unfinished)", "begun (unfinished)"]
    assert rows[2][1:3] == ["lssd whole α 2", "1,2"] and rows[2][8] == "100.00 ±0.00" and rows[3][8] == "–"
    assert rows[0][4:8] == ["dev loss (nats)", "dev loss (bits)", "deficit (nats)", "deficit (bits)"]
    assert re.fullmatch(r"\+\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\], p = 0.020", rows[2][-1]), rows[2][-1]
    assert "lssd, dev loss (nats) over seeds (Welch's t-test): -" in table
    with (page / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert [(row["label"], row["seed"]) for row in runs[:4]] == [
        ("plain", "1"),
        ("plain", "2"),
        ("lssd", "1"),
        ("lssd", "2"),
    ]
    with (page / "pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 4 * len(SIZES)
    assert sum(float(row["deficit_nats"]) for row in pairs[:4]) == pytest.approx(float(runs[0]["deficit_nats"]))
    assert float(runs[0]["deficit_bits"]) == pytest.approx(1.442695 * float(runs[0]["deficit_nats"]))
    assert {row["pair"]: int(row["train_sentences"]) for row in pairs} == SIZES


def test_one_plain_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = curve_run(tmp_path / "p", "plain", PLAIN, epochs=1)
    assert main(["compare", str(run), "-o", str(tmp_path / "out")]) == 0
    out = capfd.readouterr().out
    assert f"no test scores of {run}" in out
    reader = Reader()
    reader.feed((tmp_path / "out" / "compare.html").read_text())
    assert reader.sections == ["summary", "curves", "convergence", "deficit", "shares", "training", "pairs", "runs"]


def test_a_moving_distribution_is_drawn(tmp_path: Path) -> None:
    run = curve_run(tmp_path / "uat", "uat", PLAIN, epochs=3)
    recipe = (run / RECIPE).read_text() + "sampler: {name: multiuat, reward: enteos}\n"
    (run / RECIPE).write_text(recipe)
    shares = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.2, 0.4]]
    with (run / METRICS).open("a") as file:
        for epoch, row in zip((0.0, 1.5), shares, strict=True):
            probabilities = {f"data/{pair}/prob": p for pair, p in zip(SIZES, row, strict=True)}
            record = {"kind": "sampler", "update": 300, "epoch": epoch, "time": 1.0, **probabilities}
            file.write(json.dumps(record) + "\n")
    dynamic = read_run(run)
    assert dynamic.sampling["epoch"].tolist() == [0.0, 1.5] and dynamic.method == "translation multiuat enteos"
    assert [dynamic.sampling[pair].tolist() for pair in SIZES] == np.transpose(shares).tolist()
    assert main(["compare", str(run), "-o", str(tmp_path / "out")]) == 0
    reader = Reader()
    reader.feed((tmp_path / "out" / "compare.html").read_text())
    assert "sampling" in reader.sections


def test_searches_of_weights_are_drawn(tmp_path: Path) -> None:
    """What compare reads of a run with searches, and the section that holds their picture."""
    run = curve_run(tmp_path / "auto", "auto", PLAIN, epochs=3)
    lines = (run / METRICS).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    searched = [record for record in records if record["kind"] == "valid"][1:]
    for n, record in enumerate(searched):
        record["pareto/mu"] = 0.9 - 0.1 * n
        for pair in SIZES:
            record |= {f"pareto/{pair}/{name}": 2.0 + 0.1 * i for i, name in enumerate(("raise", "keep", "lower"))}
            record |= {f"pareto/{pair}/action": 1.0, f"pareto/{pair}/before": 0.1}
    (run / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records))
    made = read_run(run)
    assert np.isnan(made.step_size_V[0]) and made.step_size_V[1:].tolist() == pytest.approx([0.9, 0.8])
    pair = next(iter(SIZES))
    assert made.pair_metrics[pair]["trial_lower"][1:].tolist() == pytest.approx([2.2, 2.2])
    assert main(["compare", str(run), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "compare.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert "search" in reader.sections
    part = text[text.index('id="search"') : text.index('id="shares"')]
    assert "step size μ" in part and all(pair.replace("-", " → ") in part for pair in SIZES)


def test_sizes_put_pairs_in_order(tmp_path: Path) -> None:
    run = curve_run(tmp_path / "p", "plain", PLAIN)
    shuffled = {pair: WORSE[pair] for pair in reversed(SIZES)}
    evaluated(run, shuffled, REFERENCES)
    assert list(train_sizes([read_run(run)]).items()) == list(SIZES.items())


def test_compare_mistakes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    message = f"mnmt-ds compare: {tmp_path}/none/metrics.jsonl: no such file; give directories of runs\n"
    assert capfd.readouterr().err == message
    assert not (tmp_path / "out").exists()


def test_pictures_of_an_analysis_are_in_the_page(tmp_path: Path) -> None:
    run = curve_run(tmp_path / "plain", "plain", PLAIN, epochs=1)
    drawn = run / "analysis" / "cd" / "prune.png"
    drawn.parent.mkdir(parents=True)
    drawn.write_bytes(b"\x89PNG\r\n")
    assert main(["compare", str(run), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "compare.html").read_text()
    assert "plain: analysis/cd/prune" in text and "data:image/png;base64,iVBORw0K" in text


def test_what_a_resumed_run_changed_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In page, table and terminal: which setting, after which update, both values; of damaged records nothing."""
    changed = {"train.lr": [0.002, 0.001], "validation.selection": ["<mean>", "tokens"], "train.seed": 3}
    records = [
        {"kind": "run", "update": 0, "time": 1}, valid(10, 5, a_en=2.5),
        {"kind": "run", "update": 1200, "time": 6, "changed": changed}, valid(1210, 7, a_en=2.4),
        {"kind": "run", "update": 1300, "time": 8, "changed": ["train.lr"]},
    ]  # fmt: skip
    runs = [write(tmp_path / "r", records), write(tmp_path / "s", [valid(10, 5, a_en=2.0)], "name: s\n")]
    assert main(["compare", *map(str, runs), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| r, seed 1 | 1,200 | train.lr | 0.002 | 0.001 |" in text and text.count("r, seed 1 |") == 2
    assert "| r, seed 1 | 1,200 | train.lr | 0.002 | 0.001 |" in capsys.readouterr().out
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<td>1,200</td><td>train.lr</td><td>0.002</td><td>0.001</td>" in page and "<td>&lt;mean&gt;</td>" in page
    assert main(["compare", str(runs[1]), "-o", str(tmp_path / "alone")]) == 0
    assert "changed on the way" not in (tmp_path / "alone" / "compare.html").read_text()

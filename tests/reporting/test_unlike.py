"""Tables of runs whose figures are not comparable: marked, with a footnote; nothing is best or significant there."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation.report import read_report, report_path
from mnmt_ds.evaluation.scores import ScoreSettings, class_averages, score_pair
from mnmt_ds.reporting.comparison import ComparedRuns, compare_groups, group_runs
from mnmt_ds.reporting.frontier import find_experiments, frontier_markdown
from mnmt_ds.reporting.metrics import COMPARED_METRICS
from mnmt_ds.reporting.page import summary_rows
from mnmt_ds.reporting.runs import distinct_place, distinct_runs, read_runs
from mnmt_ds.reporting.samples import sample_translations
from mnmt_ds.reporting.summary import run_rows, summary_markdown
from mnmt_ds.reporting.tables import all_tables, table_markdown
from mnmt_ds.reporting.unlike import FIGURES
from mnmt_ds.run_files import RECIPE
from tests.evaluation.runs import SIZES, curve_run, evaluated

REFERENCES = {pair: [f"the {pair} file {i} could not be opened here" for i in range(6)] for pair in SIZES}
WORSE = {pair: [line.replace("could not", "may") for line in lines] for pair, lines in REFERENCES.items()}
SEARCH = {"beam": 5, "length_penalty": 1.0}


def make(folder: Path, name: str, seed: int = 1, hypotheses: Any = WORSE, **changes: Any) -> Path:
    """A run with an evaluation and a model that says what it was trained on."""
    run = curve_run(folder / f"{name}{seed}", name, {"name": "translation"}, seed, epochs=3)
    evaluated(run, hypotheses, REFERENCES)
    edit(run, search=SEARCH, dtype="float32")
    (run / "best").mkdir()
    model = {"tokenizer_hash": "t", "data_hash": "d", "dev_sets": dict.fromkeys(SIZES, "1"), "sentencepiece": "0.2.3"}
    (run / "best" / "model.json").write_text(json.dumps(model | changes))
    return run


def edit(run: Path, pairs: tuple[str, ...] = tuple(SIZES), **values: Any) -> None:
    """Changes the report; with fewer pairs as ``evaluate --pairs`` would have written it."""
    path = report_path(run, "best", "test")
    report = read_report(path) | values
    report["pairs"] = {pair: report["pairs"][pair] for pair in pairs}
    path.write_text(json.dumps(report))


def char_scores(run: Path) -> None:
    path = report_path(run, "best", "test")
    report = read_report(path)
    settings = ScoreSettings(tokenizers=("char",))
    for pair, facts in report["pairs"].items():
        facts |= score_pair(WORSE[pair], REFERENCES[pair], "en", settings)
    path.write_text(json.dumps(report))


def other_references(run: Path) -> None:
    evaluated(run, WORSE, REFERENCES | {"bs-en": [line + " again" for line in REFERENCES["bs-en"]]})
    path = report_path(run, "best", "test")
    report = read_report(path) | {"search": SEARCH, "dtype": "float32"}
    path.write_text(json.dumps(report))


def smooth(run: Path, value: float) -> None:
    recipe = yaml.safe_load((run / RECIPE).read_text())
    recipe["train"]["label_smoothing"] = value
    (run / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False))


def compared(*runs: Path) -> ComparedRuns:
    return compare_groups(group_runs(read_runs(runs)), ScoreSettings(samples=20))


def test_every_metric_that_can_be_better_says_what_it_depends_on() -> None:
    assert {metric.key for metric in COMPARED_METRICS if metric.direction} <= FIGURES.keys()


CASES = {
    "tokenizer": (char_scores, "bleu", "tok:char, not tok:13a"),
    "beam": (lambda run: edit(run, search={**SEARCH, "beam": 1}), "bleu", "beam 1, not 5"),
    "penalty": (lambda run: edit(run, search={**SEARCH, "length_penalty": 2.0}), "chrf", "length penalty 2.0, not 1.0"),
    "pairs": (lambda run: edit(run, pairs=("bs-en",)), "bleu", "over bs-en, not bs-en, el-en, hi-en, ko-en"),
    "test set": (other_references, "chrf", "other references of bs-en"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_scores_of_unlike_evaluations_are_marked(case: str, tmp_path: Path) -> None:
    change, metric, reason = CASES[case]
    plain, other = make(tmp_path, "plain"), make(tmp_path, "other", hypotheses=REFERENCES)
    part = compared(plain, other)
    assert part.bootstrap("other", metric, "macro") is not None, "alike: significance is computed"
    assert not part.unlike(part.groups[1], metric)
    edit(other) if case != "pairs" else None
    change(other)
    part = compared(plain, other)
    assert reason in part.unlike(part.groups[1], metric) and not part.unlike(part.groups[0], metric)
    assert part.bootstrap("other", metric, "macro") is None
    assert not part.unlike(part.groups[1], "dev"), "the dev losses are what they were"
    rows, footnotes = summary_rows(part)
    cells = [{cell.key: cell for cell in row.cells} for row in rows]
    assert not any(row["bleu"].best for row in cells) if metric == "bleu" else True
    assert cells[1][metric].mark == " †1" and not cells[0][metric].mark and not cells[1]["dev"].mark
    assert any(line.startswith("†1 not comparable with plain: ") and reason in line for line in footnotes)
    text = summary_markdown(part)
    assert f"†1 not comparable with plain: {reason}" in text and " †1 |" in text
    first, second = run_rows(part.runs)
    assert reason in str(second["not_comparable"]) and not first["not_comparable"]
    bleu = next(table for table in all_tables([part]) if table.name == "pairs")
    text = table_markdown(bleu)
    if metric == "bleu" and case != "pairs":
        assert "†1" in text.splitlines()[7] and "(+" not in text.splitlines()[7] and reason in text
    elif case == "test set":
        first, *others = bleu.rows[1][1:]
        assert "†1" in first and "(+" not in first and all("(+" in cell for cell in others), "pair by pair"


@pytest.mark.slow
def test_the_command_marks_its_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain, other = make(tmp_path, "plain", tokenizer_hash="u"), make(tmp_path, "other")
    char_scores(other)
    assert main(["compare", str(plain), str(other), "-o", str(tmp_path / "out"), "--samples", "5"]) == 0
    out = capfd.readouterr().out
    page = (tmp_path / "out" / "compare.html").read_text()
    for reason in ("tok:char, not tok:13a", "a token is another unit: another tokenizer"):
        assert f"not comparable with plain: {reason}" in out and page.count(reason) >= 2
    assert "tok:char, not tok:13a" in (tmp_path / "out" / "pairs.csv").read_text()


DEV_CASES: dict[str, tuple[dict[str, Any], float, str]] = {
    "vocabulary": ({"tokenizer_hash": "u"}, 0.1, "another tokenizer"),
    "SentencePiece": ({"tokenizer_hash": "u", "sentencepiece": "0.2.1"}, 0.1, "(SentencePiece 0.2.1, not 0.2.3)"),
    "label smoothing": ({}, 0.2, "label smoothing 0.2, not 0.1"),
    "dev sets": ({"dev_sets": dict.fromkeys(SIZES, "2"), "data_hash": "e"}, 0.1, "other dev sets of"),
}


@pytest.mark.parametrize("case", DEV_CASES)
def test_dev_losses_in_unlike_units_are_marked(case: str, tmp_path: Path) -> None:
    changes, smoothing, reason = DEV_CASES[case]
    runs = [make(tmp_path, "plain", seed) for seed in (1, 2)] + [
        make(tmp_path, "other", seed, **changes) for seed in (1, 2)
    ]
    for run, value in zip(runs, (0.1, 0.1, smoothing, smoothing), strict=True):
        smooth(run, value)
    part = compared(*runs)
    other = part.groups[1]
    assert reason in "; ".join(part.unlike(other, "dev")) and part.unlike(other, "deficit") == part.unlike(other, "dev")
    assert not part.unlike(other, "bleu") and not {"dev", "deficit"} & part.t_tests.get(other.label, {}).keys()
    cells = {cell.key: cell for cell in summary_rows(part)[0][1].cells}
    assert cells["dev"].mark and not cells["dev"].best and cells["deficit"].mark and not cells["bleu"].mark
    deficit = next(table for table in all_tables([part]) if table.name == "deficit")
    assert "†1" in deficit.rows[1][1] and "(" not in deficit.rows[1][1] and reason in deficit.footnotes[0]


def test_a_corpus_that_grew_between_two_runs(tmp_path: Path) -> None:
    """The same recipe, other text: the row is marked, and nothing of it is better or significant."""
    plain, same = make(tmp_path, "plain"), make(tmp_path, "same")
    grown = make(tmp_path, "grown", hypotheses=REFERENCES, data_hash="e")
    part = compared(plain, same, grown)
    assert part.bootstrap("same", "bleu", "macro") is not None and part.bootstrap("grown", "bleu", "macro") is None
    rows = summary_rows(part)[0]
    assert [row.mark for row in rows] == ["", "", " †1"] and not any(cell.best for cell in rows[2].cells)
    text = table_markdown(all_tables([part])[0])
    assert "†1 not comparable with plain: trained on other prepared text (e, not d) by the same settings" in text
    recipe = yaml.safe_load((grown / RECIPE).read_text())
    recipe["data"]["max_train"] = {"*": 9}
    (grown / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert compared(plain, grown).bootstrap("grown", "bleu", "macro") is not None, "another corpus is what was wanted"


def test_a_seed_unlike_the_others_spoils_its_group(tmp_path: Path) -> None:
    """Also the baseline's own: then no gain over it means anything."""
    plain = [make(tmp_path, "plain", seed) for seed in (1, 2)]
    other = make(tmp_path, "other", hypotheses=REFERENCES)
    edit(plain[1], search={**SEARCH, "beam": 1})
    part = compared(*plain, other)
    assert part.unlike(part.groups[0], "bleu") == ("beam 1, not 5",) and not part.unlike(part.groups[1], "bleu")
    assert not part.bootstraps and not any(
        cell.best for row in summary_rows(part)[0] for cell in row.cells if cell.key == "bleu"
    )
    assert compared(plain[1], other).unlike(compared(plain[1], other).groups[1], "bleu") == ("beam 5, not 1",)


def test_significance_is_by_the_tokenizer_of_the_reports(tmp_path: Path) -> None:
    """Both runs were scored by characters, and so is their difference."""
    runs = [make(tmp_path, "plain"), make(tmp_path, "other", hypotheses=REFERENCES)]
    for run in runs:
        char_scores(run)
    reports = [read_report(report_path(run, "best", "test")) for run in runs]
    found = compared(*runs).bootstrap("other", "bleu", "bs-en")
    perfect = score_pair(REFERENCES["bs-en"], REFERENCES["bs-en"], "en", ScoreSettings(tokenizers=("char",)))["bleu"]
    assert found is not None
    assert found.delta == pytest.approx(perfect - reports[0]["pairs"]["bs-en"]["bleu"])


def in_classes(run: Path, high: tuple[str, ...]) -> None:
    """Sorts the pairs of a report into two resource classes, as bounds of ``evaluate`` do."""
    path = report_path(run, "best", "test")
    report = read_report(path)
    for pair, facts in report["pairs"].items():
        facts["class"] = "high" if pair in high else "very low"
        facts.setdefault("bleu_ceiling", 99.0)
    report["classes"] = class_averages(report["pairs"])
    path.write_text(json.dumps(report))


def test_means_over_other_pairs_of_a_class_are_marked(tmp_path: Path) -> None:
    """Evaluated by other bounds of the classes: the same pairs and scores, other means."""
    plain, same, other = make(tmp_path, "plain"), make(tmp_path, "same"), make(tmp_path, "other")
    in_classes(plain, ("ko-en", "el-en")), in_classes(same, ("ko-en", "el-en")), in_classes(other, ("ko-en",))
    part = compared(plain, same, other)
    for key in ("bleu_high", "bleu_very_low"):
        assert not part.unlike(part.groups[1], key) and not part.unlike(part.groups[2], "bleu")
    assert part.unlike(part.groups[2], "bleu_high") == ("over ko-en, not el-en, ko-en",)
    cells = {cell.key: cell for cell in summary_rows(part)[0][2].cells}
    assert cells["bleu_high"].mark and not cells["bleu_high"].best and not cells["bleu"].mark
    classes = next(table for table in all_tables([part]) if table.name == "classes")
    assert "(+" in classes.rows[1][1] and "†1" in classes.rows[2][1] and "(" not in classes.rows[2][1]
    frontier = frontier_markdown(find_experiments([run._replace(label=f"{run.label}.a") for run in part.runs]))
    assert not frontier, "three experiments of one model each"


def test_ceilings_of_other_test_sets_are_marked_and_those_of_another_beam_are_not(tmp_path: Path) -> None:
    plain, beam, other = make(tmp_path, "plain"), make(tmp_path, "beam"), make(tmp_path, "other")
    other_references(other)
    for run in (plain, beam, other):
        in_classes(run, ())
    edit(beam, search={**SEARCH, "beam": 1})
    part = compared(plain, beam, other)
    assert part.unlike(part.groups[1], "bleu") and not part.unlike(part.groups[1], "bleu_ceiling")
    assert part.unlike(part.groups[2], "bleu_ceiling") == ("other references of bs-en",)
    ceilings = next(table for table in all_tables([part]) if table.name == "ceilings")
    assert "†1" in ceilings.rows[2][1] and not any("†" in cell for cell in (*ceilings.rows[1], *ceilings.rows[2][2:]))


def test_points_of_the_frontier_are_marked_seed_by_seed(tmp_path: Path) -> None:
    """Of two seeds, which tables call alike, the first one was translated with another beam."""
    runs = [make(tmp_path, "plain", seed) for seed in (1, 2)] + [make(tmp_path, "other", seed) for seed in (1, 2)]
    for run in runs:
        in_classes(run, ("ko-en",))
    edit(runs[2], search={**SEARCH, "beam": 1})
    lines = frontier_markdown(find_experiments(read_runs(runs))).splitlines()
    assert ["†" in line for line in lines[2:6]] == [False, False, True, False]
    assert lines[4].count("†1") == 2, "its hypervolume, too"
    assert lines[-1] == "†1 not comparable with plain: beam 1, not 5"


def test_costs_in_another_unit_or_on_other_ranks_are_marked(tmp_path: Path) -> None:
    plain, other, twice = make(tmp_path, "plain"), make(tmp_path, "other", tokenizer_hash="u"), make(tmp_path, "twice")
    metrics = twice / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"world_size": 1', '"world_size": 2'))
    part = compared(plain, other, twice)
    assert part.unlike(part.groups[2], "minutes") == ("on 2, not 1 rank(s)",)
    assert not part.unlike(part.groups[1], "minutes")
    cost = next(table for table in all_tables([part]) if table.name == "cost")
    assert [["†" in cell for cell in row[1:]] for row in cost.rows] == [
        [False] * 6, [False, True, False, False, False, False], [False, True] * 3,
    ]  # fmt: skip
    assert "a token is another unit" in cost.footnotes[0] and "on 2, not 1 rank(s)" in cost.footnotes[1]


def test_samples_are_of_one_test_set(tmp_path: Path) -> None:
    """As many sentences of another test set are no translations of this one's."""
    plain, other = make(tmp_path, "plain"), make(tmp_path, "other")
    other_references(other)
    samples = sample_translations(compared(plain, other).groups, ["bs-en", "hi-en"])
    authors = {pair: {line.author for line in rows[0]} for pair, rows in samples.items()}
    assert authors == {"bs-en": {"reference", "plain"}, "hi-en": {"reference", "plain", "other"}}


def test_runs_whose_directories_share_a_name_are_no_seeds_of_one(tmp_path: Path) -> None:
    """Other settings, or the same seed again, under the same name below another directory."""
    runs = [make(tmp_path / name, "lssd") for name in ("a", "b")]
    smooth(runs[1], 0.3)
    assert [run.label for run in read_runs(runs)] == ["lssd (a/lssd1)", "lssd (b/lssd1)"]
    assert [group.label for group in compared(*runs).groups] == ["lssd (a/lssd1)", "lssd (b/lssd1)"]
    students = [Path(place) / "students" / "model_1" for place in ("/x/a", "/y/a", "/y/b")]
    assert [distinct_place(one, [other for other in students if other != one]) for one in students] == [
        "x/a", "y/a", "b",
    ]  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
def test_scores_of_an_earlier_best_are_marked(which: int, tmp_path: Path) -> None:
    """The run went on after it was evaluated; also the baseline, whose own row is marked and beats nobody."""
    runs = [make(tmp_path, name, sha256="now", update=300) for name in ("plain", "other")]
    for run in runs:
        edit(run, model="now", update=300)
    assert not compared(*runs).unlike(compared(*runs).groups[1], "bleu")
    edit(runs[which], model="before", update=200)
    part = compared(*runs)
    name = ("plain", "other")[which]
    assert part.unlike(part.groups[which], "chrf") == (
        f"{name} was scored at update 200, and the model is now of update 300: evaluate it again",
    )  # fmt: skip
    assert not part.unlike(part.groups[1 - which], "bleu") and not part.unlike(part.groups[which], "dev")
    assert part.bootstrap("other", "bleu", "macro") is None and "†1" in summary_markdown(part)


def test_a_run_under_two_names_is_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    given = [tmp_path / "link", tmp_path / "b", tmp_path / "a", tmp_path / "b" / ".." / "a"]
    assert distinct_runs(given) == given[:2]


def test_names_break_no_table(tmp_path: Path) -> None:
    run = make(tmp_path, "plain")
    recipe = yaml.safe_load((run / RECIPE).read_text())
    (run / RECIPE).write_text(yaml.safe_dump(recipe | {"name": "a|b\n| c |"}, sort_keys=False))
    for text in (summary_markdown(compared(run)), table_markdown(all_tables([compared(run)])[0])):
        assert "a\\|b \\| c \\|" in text

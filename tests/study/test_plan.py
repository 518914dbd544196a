"""What a study is made of: its grid, dependencies, budgets, refusals; and that every shipped study is well formed."""

from pathlib import Path

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.cli.study import device_names, runnable_post_commands, select_entries
from mnmt_ds.config import dump
from mnmt_ds.engine.recipe import students_of
from mnmt_ds.engine.unused_settings import settings_without_effect
from mnmt_ds.errors import UserError
from mnmt_ds.methods import registry
from mnmt_ds.methods.entry import RunFacts
from mnmt_ds.study import run_state
from mnmt_ds.study.plan import Study, read_study
from mnmt_ds.study.scheduler import device_variables, train_command
from tests.tiny import ROOT, recipe

ROWS = """
rows:
  student: {set: {method: {name: multi_distill, rule: fix, experts: "{run.pairs}"}}}
  plain:
  pairs: {per_pair: true, times: 2.5, seeds: [1]}
  lssd: {set: {method: {name: lssd}}, conditions: [large]}
"""
HEAD = """
directory: DIR/runs
recipe: base.yaml
prepare: false
baseline: plain
seeds: [1, 2]
cap: {max_epochs: 3}
set: {model.dropout: 0.3, train.lr: 0.01}
conditions:
  small: {}
  large: {set: {sampler.temperature: 5, train.lr: 0.02}, baseline: lssd}
"""


def write(tmp_path: Path, text: str = HEAD + ROWS) -> Path:
    (tmp_path / "base.yaml").write_text(dump(recipe(tmp_path / "data", tmp_path / "run")))
    path = tmp_path / "study.yaml"
    path.write_text(text.replace("DIR", str(tmp_path)))
    return path


def find(study: Study, row: str, condition: str, seed: int) -> int:
    names = [(entry.row, entry.condition, entry.seed) for entry in study.entries]
    return names.index((row, condition, seed))


def test_conditions_under_their_old_name(tmp_path: Path) -> None:
    new, old = (
        read_study(write(tmp_path)),
        read_study(write(tmp_path, (HEAD + ROWS).replace("conditions:", "settings:"))),
    )
    assert new.settings == old.settings and "conditions" in new.settings.model_dump()
    assert [entry.name for entry in new.entries] == [entry.name for entry in old.entries]


def test_the_grid(tmp_path: Path) -> None:
    study = read_study(write(tmp_path), ["cap.max_epochs=4"], ["train.patience=7"])
    assert len(study.entries) == 2 * (2 + 2 + 1) + 2
    entry = study.entries[find(study, "lssd", "large", 2)]
    made = entry.jobs[0].recipe
    assert entry.directory == made.directory == tmp_path / "runs" / "large" / "lssd-seed2"
    assert (made.name, made.train.seed, made.train.max_epochs, made.train.patience) == ("lssd", 2, 4, 7)
    assert (made.model.dropout, made.sampler.temperature, made.train.lr) == (0.3, 5, 0.02)
    assert made.method.name == "lssd" and study.baseline("large") == "lssd" and study.baseline("small") == "plain"


def test_a_model_a_pair_and_who_needs_it(tmp_path: Path) -> None:
    study = read_study(write(tmp_path))
    pairs, student = find(study, "pairs", "small", 1), find(study, "student", "small", 2)
    assert pairs < student  # although the rows have it later
    entry = study.entries[pairs]
    assert [job.recipe.data.pairs for job in entry.jobs] == [("bs-en",), ("hi-en",), ("fr-en",)]
    assert entry.jobs[1].directory == entry.directory / "pairs" / "hi-en" and entry.per_pair
    assert entry.jobs[0].recipe.train.max_epochs == 8  # 2.5 times 3, rounded up
    assert study.entries[student].needs == (entry.directory,)  # of seed 1: it has no other
    assert study.entries[student].jobs[0].recipe.method.experts == entry.directory  # type: ignore[union-attr]
    picked = select_entries(study, ["student"], ["small"])
    assert [(e.row, e.seed) for e in picked] == [("pairs", 1), ("student", 1), ("student", 2)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("{run.pairs}", "{run.pair}", ":14: '{run.pair}': no such row; did you mean 'pairs'?"),
        ("plain:", "plain: {set: {method: {name: lssd}, modell.dropout: 1}}", ":15: override 'modell.dropout=1'"),
        ("plain:", "plain: {set: {train.max_epochs: 9}}", ":15: train.max_epochs: a row's budget is 'times'"),
        ("plain:", 'plain: {set: {name: "{run.student}"}}', None),
        ("per_pair: true", 'set: {name: "{run.student}"}', "student, pairs need one another; break the circle"),
        ("conditions: [large]", "conditions: [huge]", "huge not among the study's (small, large)"),
        ("recipe: base.yaml", "recipe: basis.yaml", "basis.yaml: cannot be read"),
        ("baseline: plain", "baseline: plane", "'plane' is not a row; rows are student, plain, pairs, lssd"),
        ("times: 2.5", "times: 0", "rows.pairs.times: must be more than 0 and at most 1,000,000, not 0"),
        ("prepare: false", "after: ['report {run.plane}']", ":4: '{run.plane}': no such row; did you mean 'plain'?"),
        ("prepare: false", "after: ['report {run.lssd}']", ":4: '{run.lssd}' is not run in condition small"),
        ("prepare: false", "after: ['report \"']", ":4: 'report \"': No closing quotation"),
        ("prepare: false", "after: ['']", ":4: '': name a command of mnmt-ds"),
        ("sampler.temperature: 5", "data.tokenizer.size: 99", "is prepared otherwise for"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, expected: str | None
) -> None:
    assert before in HEAD + ROWS
    path = write(tmp_path, (HEAD + ROWS).replace(before, after))
    assert main(["study", str(path), "--dry-run"]) == (0 if expected is None else 2)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == (0 if expected is None else 1)
    if expected is not None:
        assert errors[0].startswith("mnmt-ds study: ") and expected in errors[0]


def test_a_condition_changes_single_rows(tmp_path: Path) -> None:
    """After the row's own keys, and in that condition alone."""
    rows = ROWS.replace("plain:", "plain: {set: {train.patience: 2, method: {name: lssd, cap: 1.5}}}")
    part = "small: {rows: {plain: {train.patience: 4, method.alpha: 0.3}}}"
    study = read_study(write(tmp_path, HEAD.replace("small: {}", part) + rows))
    small, large = (study.entries[find(study, "plain", name, 1)].jobs[0].recipe for name in ("small", "large"))
    assert (small.train.patience, small.method.alpha, small.method.cap) == (4, 0.3, 1.5)
    assert (large.train.patience, large.method.alpha, large.method.cap) == (2, 2.0, 1.5)
    assert study.entries[find(study, "student", "small", 1)].jobs[0].recipe.train.patience == 0
    with pytest.raises(UserError, match=r"conditions\.small\.rows: 'plane' is not a row; rows are student, plain"):
        read_study(write(tmp_path, HEAD.replace("small: {}", part.replace("plain", "plane")) + rows))
    with pytest.raises(UserError, match="a row's budget is 'times'"):
        read_study(write(tmp_path, HEAD.replace("small: {}", part.replace("patience", "max_steps")) + rows))


def test_seeds_of_the_command_line_are_every_rows(tmp_path: Path) -> None:
    path = write(tmp_path, (HEAD + ROWS).replace("small: {}", "small: {seeds: [4]}"))
    assert {(e.row, e.seed) for e in read_study(path).entries if e.condition == "small"} == {
        ("student", 4), ("plain", 4), ("pairs", 1)
    }  # fmt: skip
    found = read_study(path, ["seeds=[7,8]"]).entries
    assert len(found) == 2 * (3 + 4) and {entry.seed for entry in found} == {7, 8}


def test_every_corpus_of_the_rows_is_prepared(tmp_path: Path) -> None:
    text = (HEAD + ROWS).replace("plain:", "plain: {set: {data.directory: mine, train.patience: 9}}")
    (tmp_path / "other.yaml").write_text(dump(recipe(tmp_path / "others", tmp_path / "run")))
    study = read_study(write(tmp_path, text.replace("conditions: [large]", "recipe: other.yaml, conditions: [large]")))
    base, mine = tmp_path / "base.yaml", study.corpora["mine"]
    assert list(study.corpora) == [str(tmp_path / "data"), "mine", str(tmp_path / "others")]
    assert mine[0] == base and 'data.directory="mine"' in mine[1] and "train.patience=9" not in mine[1]
    assert study.corpora[str(tmp_path / "others")][0] == tmp_path / "other.yaml"
    assert {entry.jobs[0].recipe.data.directory for entry in study.entries} == set(study.corpora)


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        ("p: {set: {data.max_train: {fr-en: 9}}}", "max_train"),
        ("p: {set: {data.pairs: [bs-en, de-en]}}", "pairs"),
        ("p: {set: {data.directory: mine, data.split.dev: 3}}\n  q: {set: {data.directory: mine}}", "split"),
    ],
)
def test_rows_that_want_different_data_in_one_directory(tmp_path: Path, rows: str, key: str) -> None:
    path = write(tmp_path, HEAD + ROWS.rstrip() + f"\n  {rows}\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(UserError, match=rf"study.yaml:{line}: .* is prepared with another data.{key} for"):
        read_study(path)


def test_fewer_pairs_of_a_prepared_corpus_are_no_other_data(tmp_path: Path) -> None:
    read_study(write(tmp_path, HEAD + ROWS.rstrip() + "\n  p: {set: {data.pairs: [bs-en]}}\n"))


def test_closing_commands_wait_for_the_runs_that_they_name(tmp_path: Path) -> None:
    commands = "after: ['one {run.plain} {run.pairs}', 'two {run.student} {report}/x', three]"
    study = read_study(write(tmp_path, (HEAD + ROWS).replace("prepare: false", commands)))
    plain, pairs, student = (
        study.entries[find(study, row, "small", 1)] for row in ("plain", "pairs", "student")
    )  # fmt: skip
    one = ["one", str(plain.directory), str(pairs.directory)]
    assert runnable_post_commands(study, [plain], [plain, pairs], tmp_path) == [one]
    assert runnable_post_commands(study, [plain], [plain, student], tmp_path) == []
    assert runnable_post_commands(study, [student], [plain, pairs], tmp_path) == []  # not now
    two = ["two", str(student.directory), f"{tmp_path}/x"]
    assert runnable_post_commands(study, study.entries, study.entries, tmp_path) == [one, two, ["three"]]


def test_a_run_goes_on_with_a_larger_budget_but_not_as_another(tmp_path: Path) -> None:
    path = write(tmp_path)
    job = read_study(path).entries[0].jobs[0]
    run_state.check_same_run(job)  # nothing there
    job.directory.mkdir(parents=True)
    (job.directory / "recipe.yaml").write_text(dump(job.recipe))
    run_state.write_mark(job.directory, recipe=run_state.recipe_values(job.recipe))
    assert run_state.is_trained(job)
    older = run_state.recipe_values(job.recipe)
    del older["validation"]["bleu_every"]
    run_state.write_mark(job.directory, recipe=older)
    assert run_state.is_trained(job), "a setting that came later had its default"
    longer = read_study(path, ["cap.max_epochs=5"], ["tracking.log_every=7"]).entries[0].jobs[0]
    run_state.check_same_run(longer)
    assert not run_state.is_trained(longer)
    quieter = read_study(path, (), ["tracking.log_every=7", "train.save_every=3"]).entries[0].jobs[0]
    run_state.check_same_run(quieter)
    assert run_state.is_trained(quieter), "no result depends on these"
    with pytest.raises(UserError) as caught:
        run_state.check_same_run(read_study(path, (), ["train.lr=0.5", "train.clip_norm=3"]).entries[0].jobs[0])
    assert [fault.split()[3] for fault in caught.value.faults] == ["train.lr", "train.clip_norm"]
    with pytest.raises(UserError, match="can be continued, not shortened"):
        run_state.check_same_run(read_study(path, ["cap.max_epochs=2"]).entries[0].jobs[0])
    with pytest.raises(UserError, match=r"begun with train.lr 0.01, the study says 0.5; move that run away"):
        run_state.check_same_run(read_study(path, (), ["train.lr=0.5"]).entries[0].jobs[0])


def test_several_ranks_start_through_the_launcher(tmp_path: Path) -> None:
    rows = ROWS.replace("plain:", "plain: {launch: {ranks: 2, hostfile: hosts}}")
    study = read_study(write(tmp_path, HEAD + rows))
    command = train_command(study.entries[find(study, "plain", "small", 1)].jobs[0])
    assert command[1:6] == [str(ROOT / "launchers" / "launch.py"), "--num_gpus", "2", "--hostfile", "hosts"]
    lone = study.entries[find(study, "lssd", "large", 1)].jobs[0]
    assert train_command(lone)[1:4] == ["-m", "mnmt_ds.cli.main", "train"]
    two = lone._replace(launch=lone.launch.model_copy(update={"ranks": 2}))
    listed = [device_variables(lone, place, device_names(2, "4, 5"))["CUDA_VISIBLE_DEVICES"] for place in range(3)]
    assert listed == ["4", "5", "4"]
    shares = [device_variables(two, place, device_names(4, ""))["CUDA_VISIBLE_DEVICES"] for place in range(2)]
    assert shares == ["0,1", "2,3"] and "CUDA_VISIBLE_DEVICES" not in device_variables(two, 0, device_names(0, "-1"))
    assert train_command(two, {"CUDA_VISIBLE_DEVICES": "2,3"})[2:4] == ["--include", "localhost:2,3"]


STUDIES = ROOT / "launchers" / "studies"


@pytest.mark.parametrize("name", sorted(path.stem for path in STUDIES.glob("*.yaml")))
def test_shipped_studies_are_well_formed(name: str) -> None:
    """Every recipe is whole, has no setting without effect, and its method takes the students that it would get."""
    study = read_study(STUDIES / f"{name}.yaml")
    assert study.entries and study.settings.title != "Study"
    for command in study.settings.after:
        assert command.split()[0] == "analyse"
    for entry in study.entries:
        for job in entry.jobs:
            made, students = job.recipe, students_of(job.recipe)
            assert settings_without_effect(made) == []
            names, samplers = [student for student, _ in students], [own.sampler for _, own in students]
            facts = RunFacts(
                made.data.pairs, dict.fromkeys(made.data.pairs, 5000), names, samplers, made.validation.bleu_every
            )
            if entry.row == "lsmd":  # the only one that reads another run's results
                with pytest.raises(UserError, match="auto-seed1"):
                    registry.check(made.method, facts)
            else:
                registry.check(made.method, facts)


@pytest.mark.parametrize("name", ["paper1", "paper2", "paper3"])
def test_the_released_studies_differ_by_profile(name: str) -> None:
    paper, released = (read_study(STUDIES / f"{name}{end}.yaml") for end in ("", "_released"))
    ours_of, theirs_of = ({(e.row, e.condition): e for e in study.entries} for study in (paper, released))
    searched = {
        row for row, _ in ours_of.keys() ^ theirs_of.keys()
    }  # alpha: searched by the paper, given by its scripts
    sweep = {f"{rule}-0.{digit}" for rule in ("uni", "bi") for digit in (2, 4, 6, 8)}
    assert searched == (sweep | {"uni", "bi"} if name == "paper2" else set())
    for key in ours_of.keys() & theirs_of.keys():
        ours, theirs = ours_of[key], theirs_of[key]
        assert (ours.jobs[0].recipe.profile, theirs.jobs[0].recipe.profile) == ("paper", "released")
        assert theirs.jobs[0].recipe.validation.selection == "tokens"
        for method, profile in ((ours.jobs[0].recipe.method, "paper"), (theirs.jobs[0].recipe.method, "released")):
            assert getattr(method, "profile", profile) == profile


def test_rows_and_settings_of_the_papers() -> None:
    """As the tables have them; sizes of updates and models from the papers' settings."""
    one, two, three = (read_study(STUDIES / f"paper{n}.yaml") for n in (1, 2, 3))
    lssd = {(e.row, e.condition): e.jobs[0].recipe for e in one.entries}
    assert {setting for _, setting in lssd} == {
        f"{c}-{d}" for c in ("diverse", "related", "wmt") for d in ("m2o", "o2m")
    }
    for (_, setting), made in lssd.items():
        assert made.train.max_tokens * (made.train.batches_per_update or 0) == 65536
        assert made.sampler.temperature == (5 if setting.startswith("wmt") else 1)
        assert (made.model.d_model, made.model.ffn) == (512, 2048)
    assert {tuple(s.sampler.temperature for s in e.jobs[0].recipe.students) for e in two.entries} == {
        (1, 5), (1, 3), (1, 1), (5, 5)
    }  # fmt: skip
    gettext = {e.row: e.jobs[0].recipe for e in read_study(STUDIES / "cd_id.yaml").entries}
    for entry in three.entries:
        made = entry.jobs[0].recipe
        assert made.method == gettext[entry.row].method and made.denoising == gettext[entry.row].denoising
        assert made.model.encoder_layers == (12 if entry.condition.startswith("m15") else 6)
        assert len(made.data.pairs) == (15 if entry.condition.startswith("m15") else 8)
        english = {pair.split("-")[1 if entry.condition.endswith("xxx-eng") else 0] for pair in made.data.pairs}
        assert english == {"eng"}


def test_a_row_that_starts_from_another_rows_model(tmp_path: Path) -> None:
    """The model is not there yet when the grid is made."""
    rows = """
  tuned: {set: {model.init: "{run.parent}", data.pairs: [bs-en]}}
  parent: {set: {data.pairs: [fr-en]}, seeds: [1]}
"""
    study = read_study(write(tmp_path, HEAD + ROWS + rows))
    entry = study.entries[find(study, "tuned", "small", 2)]
    parent = tmp_path / "runs" / "small" / "parent-seed1"
    assert entry.needs == (parent,)
    assert entry.jobs[0].recipe.model.init == str(parent)
    assert f'model.init="{parent}"' in entry.jobs[0].overrides
    missing = write(tmp_path, HEAD + ROWS + '  other: {set: {model.init: "DIR/nowhere"}}\n')
    with pytest.raises(UserError, match="nowhere: no directory"):
        read_study(missing)

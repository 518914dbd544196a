"""Settings: file, line and remedy of every fault; what wins over what."""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import make_parser
from mnmt_ds.config import dump, load, parse_yaml
from mnmt_ds.config.paths import path_option, stream_option
from mnmt_ds.config.sections import sections
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.errors import UserError
from mnmt_ds.methods.registry import all_sections
from mnmt_ds.study.settings import StudySettings
from mnmt_ds.tracking import TrackingSettings

DATA = "data:\n  pairs: [bs-en]\n"


def fault(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(Recipe, path, overrides)
    message = str(caught.value)
    assert message.count("\n") == len(caught.value.faults) - 1
    return message.replace(str(path), "recipe.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DATA + "train:\n  max_token: 3\n", "recipe.yaml:4: unknown key 'train.max_token'; did you mean 'max_tokens'?"),
        (DATA + "trian: {}\n", "recipe.yaml:3: unknown key 'trian'; did you mean 'train'?"),
        (DATA + "method: {name: lssd, alhpa: 1}\n", "recipe.yaml:3: unknown key 'method.alhpa'; did you mean 'alpha'?"),
        (DATA + "train:\n  lr: 1\n  lr: 2\n", "recipe.yaml:5: key 'lr' is given twice; keep one"),
        (DATA + "train: {lr: fast}\n", "recipe.yaml:3: train.lr: Input should be a valid number"),
        (DATA + "model: {dropout: 1.5}\n", "recipe.yaml:3: model.dropout: must be at least 0 and less than 1, not 1.5"),
        (
            DATA + "method:\n  name: lsd\n",
            "recipe.yaml:4: no such method 'lsd'; did you mean 'lssd'? (known: by_task, denoising, intra_distillation,"
            " lssd, multi_distill, multi_teacher, pareto, translation)",
        ),
        (
            DATA + "students:\n- {}\n- sampler: {name: cl_m}\n",
            "recipe.yaml:5: no such sampler 'cl_m'; did you mean 'ccl_m'? (known: temperature,",
        ),
        (
            DATA + "placement: splt\n",
            "recipe.yaml:3: placement: no such value 'splt'; did you mean 'split'? (known: to",
        ),
        (DATA + "method: lssd\n", "recipe.yaml:3: method: takes keys and values, not 'lssd'"),
        (
            DATA + "method:\n  name: lssd\n  alpha: -1\n",
            "recipe.yaml:5: method.alpha: must be at least 0 and at most 10,000, not -1",
        ),
        (DATA + "extends: none.yaml\n", "recipe.yaml:3: extends: none.yaml: no such file; give its path as seen from"),
        ("data: [\n", "recipe.yaml:2: not valid YAML"),
        ("- a\n", "recipe.yaml:1: a recipe is a mapping"),
        ("extends: recipe.yaml\n", "'extends' leads back to this file"),
    ],
)
def test_faults_name_the_line_and_the_remedy(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in fault(tmp_path, text)


def test_overrides_are_named_in_their_faults(tmp_path: Path) -> None:
    assert "override 'train.max_tokns=4': unknown key" in fault(tmp_path, DATA, "train.max_tokns=4")
    sampler = DATA + "sampler: {name: temperature, temperature: 5}\n"  # a member and its key of one name
    for key, meant in (("temperatur", "temperature"), ("nam", "name")):
        expected = f"override 'sampler.{key}=3': unknown key 'sampler.{key}'; did you mean '{meant}'?"
        assert fault(tmp_path, sampler, f"sampler.{key}=3") == expected
    assert "recipe.yaml:3: sampler.temperature: must be" in fault(tmp_path, sampler.replace("5", "-5"))
    tasks = (
        DATA + "method:\n  name: by_task\n  tasks:\n    translation: {name: lssd, alhpa: 1}\n"
    )  # a key called as a tag
    assert "recipe.yaml:6: unknown key 'method.tasks.translation.alhpa'; did you mean 'alpha'?" in fault(
        tmp_path, tasks
    )
    assert "not of the form" in fault(tmp_path, DATA, "train.max_tokens")
    text = DATA + "method:\n  name: pareto\n"
    expected = "override 'method.name=lsd': no such method 'lsd'; did you mean 'lssd'? (known: by_task,"
    assert fault(tmp_path, text, "method.name=lsd").startswith(expected)
    assert fault(tmp_path, text, "method={name: lsd}").startswith(
        "override 'method={name: lsd}': no such method 'lsd';"
    )
    expected = "override 'sampler.name=invers_size': no such sampler 'invers_size'; known: temperature,"
    assert fault(tmp_path, text, "sampler.name=invers_size").startswith(expected)
    text = DATA + "method:\n  name: lssd\n  alpha: 1\n"
    expected = "override 'method.alpha=-1': method.alpha: must be at least 0 and at most 10,000, not -1"
    assert fault(tmp_path, text, "method.alpha=-1") == expected


def test_every_fault_is_listed_in_the_order_of_lines(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(DATA + "tracking: {log_every: 0}\n")
    text = """extends: base.yaml
train:
  lr: .nan
  lr: 1
  update_freq: -1
  patience: -1
  max_token: 3
  label_smoothing: true
model: {d_model: 30, heads: 4, dropout: 2}
students: [{name: a/b}, {seed: -1}]
placement: together
method: {name: pareto, rule: lsmd, alpha: 2}
denoising: {tasks: [{name: mlm, ratio: 1.0}, {name: cd, ratio: 0}]}
"""
    assert fault(tmp_path, text, "validation.every=-1", "trian=1").replace(f"{tmp_path}/", "").split("\n") == [
        "recipe.yaml:3: train.lr: must be more than 0 and at most 100, not nan",
        "recipe.yaml:4: key 'lr' is given twice; keep one",
        "recipe.yaml:5: train.update_freq: must be at least 1 and at most 1,000,000, not -1",
        "recipe.yaml:6: train.patience: must be at least 0, not -1 (0: never)",
        "recipe.yaml:7: unknown key 'train.max_token'; did you mean 'max_tokens'?",
        "recipe.yaml:8: train: label_smoothing takes a number, not true or false",
        "recipe.yaml:9: model.dropout: must be at least 0 and less than 1, not 2",
        "recipe.yaml:9: model: d_model 30 must be even and a multiple of heads 4",
        "recipe.yaml:10: students.1.seed: must be at least 0, not -1",
        "recipe.yaml:10: students: 'a/b' is no name for a directory; use letters, digits, - and _",
        "recipe.yaml:12: method.alpha: must be at least 0 and at most 1, not 2",
        "recipe.yaml:12: method: weights and rule: lsmd belong together; give both or neither",
        "recipe.yaml:13: denoising.tasks.0.ratio: must be more than 0 and less than 1, not 1.0",
        "recipe.yaml:13: denoising.tasks.1.ratio: must be more than 0 and less than 1, not 0",
        "recipe.yaml:13: denoising.tasks (cd, mlm) and the tasks of method by_task (none) differ; name the same ones in"
        " both",
        "base.yaml:3: tracking.log_every: must be at least 1, not 0 (a large number: none)",
        "override 'validation.every=-1': validation.every: must be at least 0, not -1 (0: at each epoch's end"
        " (paper 1))",
        "override 'trian=1': unknown key 'trian'; did you mean 'train'?",
    ]


def test_a_value_at_fault_hides_only_the_checks_that_need_it(tmp_path: Path) -> None:
    """d_model 36 does not go with the preset's 8 heads, which stand in where the recipe's are at fault."""
    assert fault(tmp_path, DATA + "model: {d_model: 36, heads: -9}\nplacement: split\n").split("\n") == [
        "recipe.yaml:3: model.heads: must be at least 0 and at most 4,096, not -9 (0: the preset's)",
        "recipe.yaml:4: placement: split is for several students; list them under 'students', or leave it out",
    ]


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"data: \xff\n")
    with pytest.raises(UserError, match="byte 6 is not UTF-8"):
        load(Recipe, path)
    with pytest.raises(UserError, match="cannot be read"):
        load(Recipe, tmp_path / "none.yaml")


def test_defaults_lose_to_base_to_file_to_override(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(DATA + "train: {lr: 0.5, max_tokens: 7, seed: 3}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\ntrain: {max_tokens: 8}\n")
    made = load(Recipe, tmp_path / "top.yaml", ["train.seed=4"])
    assert (made.train.lr, made.train.max_tokens, made.train.seed, made.train.patience) == (0.5, 8, 4, 0)


def test_a_key_that_is_called_as_the_kind_that_it_belongs_to(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(DATA + "sampler:\n  temperature: 0\n")
    line = len((tmp_path / "r.yaml").read_text().splitlines())
    remedy = "sampler.temperature: must be at least 0.05, not 0"
    with pytest.raises(UserError, match=re.escape(f"r.yaml:{line}: {remedy}")):
        load(Recipe, tmp_path / "r.yaml")
    with pytest.raises(UserError, match=re.escape(f"override 'sampler.temperature=0': {remedy}")):
        load(Recipe, tmp_path / "r.yaml", ["sampler.temperature=0"])


def test_aliases_of_other_toolkits(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(DATA + "train: {update_freq: 4, max_update: 9}\n")
    made = load(Recipe, tmp_path / "r.yaml")
    assert (made.train.gradient_accumulation_steps, made.train.max_steps) == (4, 9)


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    made = Recipe.model_validate({"data": {"pairs": ["bs-en"]}, "method": {"name": "lssd", "profile": "released"}})
    (tmp_path / "r.yaml").write_text(dump(made))
    assert load(Recipe, tmp_path / "r.yaml") == made


def test_released_profile_fills_only_what_is_not_given() -> None:
    made = Recipe.model_validate(
        {"data": {"pairs": ["bs-en"]}, "profile": "released", "method": {"name": "lssd", "cap": 1.5}}
    )
    method = made.method.model_dump()
    assert (method["profile"], method["halve_total"], method["gate_level"], method["cap"]) == (
        "released",
        True,
        "token",
        1.5,
    )
    assert (method["selective_below"], method["selective_strict"], made.validation.selection) == (0.2, True, "tokens")
    paper = Recipe.model_validate({"data": {"pairs": ["bs-en"]}, "method": {"name": "lssd"}}).method.model_dump()
    assert (paper["halve_total"], paper["gate_level"], paper["cap"], paper["selective_below"]) == (
        False,
        "sentence",
        2.0,
        0.0,
    )


def test_plain_words_stay_words_and_numbers_become_numbers(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("language: no\nwandb: off\nratio: 1:30\nrate: 1e-5\ncount: 10\nshuffle: true\n")
    assert parse_yaml(recipe.read_text()) == {
        "language": "no",
        "wandb": "off",
        "ratio": "1:30",
        "rate": 1e-5,
        "count": 10,
        "shuffle": True,
    }
    assert load(TrackingSettings, None, ["wandb=off"]).wandb == "off"


CD_ID: dict[str, Any] = {
    "data": {"pairs": ["bs-en"]},
    "denoising": {},
    "method": {
        "name": "by_task",
        "tasks": {
            "translation": {"name": "intra_distillation", "base": {"name": "lssd"}},
            "cd": {"name": "denoising"},
        },
    },
}


def methods_of(recipe: Recipe) -> tuple[Any, ...]:
    """by_task, its intra-distillation, the LSSD inside that, and denoising."""
    method: Any = recipe.method
    return method, method.tasks["translation"], method.tasks["translation"].base, method.tasks["cd"]


@pytest.mark.parametrize(
    ("profile", "expected"), [("paper", ("shared", "own", 2.0, 1.0)), ("released", ("shared", "first", 2.5, 0.5))]
)
def test_a_recipe_holds_what_is_used(profile: str, expected: tuple[Any, ...]) -> None:
    made = Recipe.model_validate({**CD_ID, "profile": profile})
    by_task, passes, lssd, denoising = methods_of(made)
    assert (by_task.divisor, passes.memory, lssd.alpha, denoising.divergence_share) == expected
    assert made.denoising is not None and made.denoising.cut_to_shortest == (profile == "released")
    both = Recipe.model_validate({**CD_ID, "profile": profile, "data": {"pairs": "bs-en,en-bs"}})
    assert methods_of(both)[2].alpha == 0.6


def test_a_value_that_is_given_wins_over_the_profile() -> None:
    method = {**CD_ID["method"], "divisor": "task"}
    assert methods_of(Recipe.model_validate({**CD_ID, "profile": "released", "method": method}))[0].divisor == "task"


@pytest.mark.parametrize(("profile", "divisor"), [("paper", "task"), ("released", "shared")])
def test_older_recipes_and_checkpoints_with_nulls_mean_the_same(profile: str, divisor: str) -> None:
    """Where nothing is given, ``divisor`` is now "shared"; an older recipe's null stays what it was."""
    made = Recipe.model_validate({**CD_ID, "profile": profile, "method": {**CD_ID["method"], "divisor": divisor}})
    old = json.loads(made.model_dump_json())
    passes = old["method"]["tasks"]["translation"]
    old["method"]["divisor"] = passes["memory"] = passes["base"]["alpha"] = None
    old["method"]["tasks"]["cd"]["divergence_share"] = old["train"]["gradient_accumulation_steps"] = None
    assert Recipe.model_validate(old) == made


IN_A_LIST: dict[str, Any] = {
    "name": "multi_teacher",
    "methods": [{"name": "lssd", "cap": 1.5}, {"name": "pareto", "base": {"name": "lssd", "variant": "adaptive"}}],
}
DEEP: list[dict[str, Any]] = [
    IN_A_LIST,
    {"name": "intra_distillation", "base": IN_A_LIST},
    {
        "name": "by_task",
        "tasks": {"translation": {"name": "intra_distillation", "base": IN_A_LIST}, "cd": {"name": "denoising"}},
    },
]


@pytest.mark.parametrize("method", DEEP, ids=["list", "in a wrapper", "in a task"])
def test_the_profile_reaches_every_method_at_any_depth(method: dict[str, Any]) -> None:
    denoising = {"denoising": {}} if method["name"] == "by_task" else {}
    made = Recipe.model_validate({"data": {"pairs": ["bs-en"]}, "profile": "released", "method": method, **denoising})
    sections = list(all_sections(made.method))
    assert {section.profile for section in sections if "profile" in type(section).model_fields} == {"released"}  # type: ignore[attr-defined]
    lssd, pareto, base = [section for section in sections if section.name in ("lssd", "pareto")]  # type: ignore[attr-defined]
    assert (lssd.halve_total, lssd.cap, base.halve_total, base.cap) == (True, 1.5, True, 1.0)  # type: ignore[attr-defined]
    assert pareto.peer_dropout and base.gate_level == "sentence"  # type: ignore[attr-defined]
    one = {**IN_A_LIST, "methods": [{"name": "lssd", "profile": "paper"}, {"name": "pareto"}]}
    kept = Recipe.model_validate({"data": {"pairs": ["bs-en"]}, "profile": "released", "method": one}).method.methods
    assert (kept[0].profile, kept[0].cap, kept[1].profile) == ("paper", 2.0, "released")


def test_the_profile_reaches_the_tasks_of_denoising() -> None:
    tasks = [{"name": "cd"}, {"name": "dae"}, {"name": "mlm"}, {"name": "mass", "ratio": 0.4}]
    method = {
        "name": "by_task",
        "tasks": {"translation": {"name": "translation"}, **{task["name"]: {"name": "denoising"} for task in tasks}},
    }
    values = {"data": {"pairs": ["bs-en"]}, "method": method, "denoising": {"tasks": tasks}}
    paper, released = (Recipe.model_validate({**values, "profile": name}).denoising for name in ("paper", "released"))
    assert paper is not None and released is not None
    cd, dae, mlm, mass = (task.model_dump() for task in released.tasks)
    assert released.end_is_word and released.cut_counts_tag
    assert (cd["ratio"], cd["keep"], cd["random"]) == (0.3, 0.1, 0.1)
    assert (dae["infill"], dae["mask"], dae["random"], mlm["ratio"]) == (0.0, 0.3, 0.1, 0.3)
    assert (mass["hides"], mass["ratio"], mass["keep"], mass["random"]) == ("words", 0.4, 0.0, 0.0)
    assert not paper.end_is_word and paper.tasks[3].hides == "fragment"  # type: ignore[union-attr]


def test_what_an_older_run_wrote_out_stays_what_it_was() -> None:
    """Settings that came to the profile later have their defaults in a section with a value for every other key."""
    values = {
        "data": {"pairs": ["bs-en"]},
        "profile": "released",
        "method": {"name": "by_task", "tasks": {"translation": {"name": "translation"}, "dae": {"name": "denoising"}}},
        "denoising": {"tasks": [{"name": "dae"}]},
    }
    old = json.loads(Recipe.model_validate(values).model_dump_json())
    del old["denoising"]["end_is_word"], old["denoising"]["cut_counts_tag"], old["denoising"]["tasks"][0]["random"]
    made = Recipe.model_validate(old).denoising
    assert made is not None and made.unit == "block" and not made.end_is_word and not made.cut_counts_tag
    assert made.tasks[0].random == 0.0  # type: ignore[union-attr]
    students = {"data": {"pairs": ["bs-en"]}, "profile": "released", "students": [{}, {}]}
    pareto = json.loads(Recipe.model_validate({**students, "method": {"name": "pareto"}}).model_dump_json())
    del pareto["method"]["schedule_unit"], pareto["method"]["interval_counts"]
    method = Recipe.model_validate(pareto).method
    assert (method.schedule_unit, method.interval_counts, method.peer_dropout) == ("update", "past", True)


def test_students_have_names_and_seeds() -> None:
    students = [{"name": "first"}, {"seed": 9}, {}]
    made = Recipe.model_validate({"data": {"pairs": ["bs-en"]}, "train": {"seed": 3}, "students": students})
    expected = [("first", 3), ("model_2", 9), ("model_3", 2003)]
    assert [(student.name, student.seed) for student in made.students] == expected
    assert [(name, own.train.seed) for name, own in students_of(made)] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, None)),
        ({"gradient_accumulation_steps": 3}, (3, None)),
        ({"batches_per_update": 4}, (None, 4)),
        ({"gradient_accumulation_steps": 1, "batches_per_update": 4}, (None, 4)),
    ],
)
def test_micro_batches_of_an_update(given: dict[str, int], expected: tuple[int | None, int | None]) -> None:
    made = TrainSettings.model_validate(given)
    assert (made.gradient_accumulation_steps, made.batches_per_update) == expected
    with pytest.raises(ValueError, match="not both"):
        TrainSettings(gradient_accumulation_steps=2, batches_per_update=4)


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPORA", "/corpora")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SCRATCH", raising=False)
    monkeypatch.setenv("BASE", str(tmp_path))
    (tmp_path / "base.yaml").write_text("data: {directory: ~/data, catalogs: [$CORPORA/mo]}\n")
    corpora = "corpora: {'*': {train: [{format: tsv, path: '${CORPORA}/{pair}.tsv'}]}}"
    (tmp_path / "r.yaml").write_text(f"extends: $BASE/base.yaml\ndata: {{pairs: [bs-en], {corpora}}}\n")
    made = load(Recipe, tmp_path / "r.yaml", ["directory=~/runs/a", "deepspeed=$CORPORA/z.json"])
    assert (made.directory, made.deepspeed) == (Path("/home/me/runs/a"), Path("/corpora/z.json"))
    assert (made.data.directory, made.data.catalogs) == ("/home/me/data", ("/corpora/mo",))
    assert made.data.files_of("bs-en").train[0].path == "/corpora/{pair}.tsv"
    assert load(Recipe, None, ["data={pairs: [bs-en]}", "directory=a~b"]).directory == Path("a~b")
    assert fault(
        tmp_path, DATA + "directory: $SCRATCH/run\nmethod: {name: pareto, rule: lsmd, weights: ~nobody-x/w}\n"
    ) == (
        "recipe.yaml:3: directory: $SCRATCH is not set in the environment; export it, or write the path out"
        " (got '$SCRATCH/run')\nrecipe.yaml:4: method.weights: there is no home directory for '~nobody-x'; write the"
        " path out (got '~nobody-x/w')"
    )
    assert "recipe.yaml:3: extends: $SCRATCH is not set" in fault(tmp_path, DATA + "extends: $SCRATCH/b.yaml\n")
    (tmp_path / "$SCRATCH").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load(Recipe, None, ["data={pairs: [bs-en]}", "directory=$SCRATCH"]).directory == Path("$SCRATCH")


def test_every_path_is_one_that_is_expanded() -> None:
    names = re.compile(r"(^|_)(path|directory|disk|hostfile|recipe|catalogs)$")
    for kind in {section.kind for root in (Recipe, StudySettings) for section in sections(root)}:
        for name, field in kind.model_fields.items():
            if "Path" in str(field.annotation) or names.search(name):
                assert "expanded" in f"{field.annotation}{field.metadata}", f"{kind.__name__}.{name}: take FilePath"


def test_paths_of_command_lines_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a quoted word or ``--output=~/x`` comes; a variable that is not set leaves an empty one."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = make_parser()
    for words in (["export", "~/m", "~/o"], ["compare", "-o=~/o", "~/m"], ["translate", "~/m", "--pair=a-b", "-o=~/o"]):
        given = vars(parser.parse_args(words))
        assert given.get("output", given.get("out")) == Path("/home/me/o")
        assert given.get("model", (given.get("runs") or [None])[0]) == Path("/home/me/m")
    monkeypatch.setenv("BROKEN", "a\n")
    for bad in ("", "  ", "$NOT_SET_AT_ALL/x", "~nobody-x/y", "-", "a\nb", "\x1b[2J", "$BROKEN/x", "\udcff"):
        with pytest.raises(argparse.ArgumentTypeError):
            path_option(bad)
    assert stream_option("-") is None and path_option("./-").name == "-"


def test_every_path_of_a_command_line_is_one_that_is_expanded() -> None:
    choices = next(action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    benchmarks = next(action.choices for action in choices["bench"]._actions if isinstance(action.choices, dict))
    for name, command in [*choices.items(), *benchmarks.items()]:
        for action in command._actions:
            assert action.type is not Path, f"{name} {action.dest}: take path_option"
            if action.metavar in ("FILE", "DIR", "RUN") or action.dest in ("out", "output", "files", "recipe", "study"):
                assert action.type in (path_option, stream_option), f"{name} {action.dest}: take path_option"


def test_no_directory_is_empty(tmp_path: Path) -> None:
    for line in ("directory: ''", "deepspeed: ''", "data: {pairs: [bs-en], directory: ' '}"):
        section = "" if line.startswith("data") else DATA
        assert "is empty; name a path" in fault(tmp_path, f"{section}{line}\n"), line


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DATA + BOMB, "aliases make more than 500,000 values of it"),
        ("data: &a [*a]\n", "recipe.yaml:1: an alias stands inside its own anchor"),
        ("data: " + "[" * 3000 + "]" * 3000, "recipe.yaml:1: not valid YAML (more than 50 levels of nesting)"),
        ("a:\n  b: " + "{c: " * 3000, "recipe.yaml:2: not valid YAML (more than 50 levels of nesting)"),
        (DATA + f"train: {{max_steps: {'9' * 5000}}}\n", "recipe.yaml:3: a whole number of 5000 digits is too large"),
        (DATA + f"train: {{max_steps: {2**63}}}\n", "recipe.yaml:3: a whole number of 19 digits is too large"),
        (DATA + "train: {lr: 1e999}\n", "recipe.yaml:3: train.lr: must be more than 0 and at most 100, not inf"),
        (DATA + "train: {max_steps: !!int abc}\n", "recipe.yaml:3: 'abc' is no int; write the value without a tag"),
        (DATA + "name: !!bool abc\n", "recipe.yaml:3: 'abc' is no bool"),
        (DATA + "name: !!timestamp abc\n", "recipe.yaml:3: tag 'tag:yaml.org,2002:timestamp' is not read"),
        (DATA + "? [a, b]\n: c\n", "recipe.yaml:3: a key must be one plain word"),
        (DATA + '"a\\nb": 1\n', "recipe.yaml:3: a key must be one plain word"),
        (DATA + "train:\n\tlr: 1\n", "recipe.yaml:4: not valid YAML (found character '\\t'"),
        (DATA + "---\na: 1\n", "recipe.yaml:3: not valid YAML (but found another document)"),
        (DATA + "name: a\x00b\n", "recipe.yaml:3: character 0x0 is not allowed in YAML"),
        (DATA + 'name: "a\\0b"\n', "recipe.yaml:3: a NUL or half a surrogate pair cannot be part of a text"),
        (DATA + "train: [1]\nmodel: 5\n", "recipe.yaml:3: train: takes keys and values, not [1]"),
        (DATA + "train: {seed: true}\n", "recipe.yaml:3: train: seed takes a number, not true or false"),
        ("x" * 20_000_001, "recipe.yaml:1: 20,000,001 characters; at most 20,000,000 are read"),
    ],
)
def test_what_yaml_can_make_of_itself_is_bounded(tmp_path: Path, text: str, expected: str) -> None:
    begin = time.process_time()
    assert expected in fault(tmp_path, text)
    assert time.process_time() - begin < 3


def test_dates_leading_zeros_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (DATA + "name: 2024-13-45\ntrain: {seed: 09}\n").encode())
    made = load(Recipe, path)
    assert (made.name, made.train.seed) == ("2024-13-45", 9)

"""What ``--help-config`` prints: YAML that loads to the defaults, section by section; the JSON schema of recipes."""

import json
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import load, merged, parse_yaml
from mnmt_ds.config.help_text import help_yaml
from mnmt_ds.config.json_schema import json_schema
from mnmt_ds.config.sections import example_of, sections
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError
from mnmt_ds.methods.registry import METHODS
from mnmt_ds.samplers.registry import SAMPLERS
from mnmt_ds.study.settings import StudySettings
from tests.tiny import ROOT

SECTIONS = [section.path for section in sections(Recipe) if section.path]
FILES = {"format": "tsv", "path": "corpora/{pair}.tsv"}
TASKS = {"translation": {"name": "translation"}, "cd": {"name": "denoising"}}
GIVEN: dict[str, dict[str, Any]] = {
    "data": {},
    "data.corpora": {"data": {"corpora": {"*": {"train": [FILES]}}}},
    **{
        path: {"data": {"corpora": {"*": {"train": [{**FILES, **values}]}}}}
        for path, values in (
            ("data.corpora.train", {}),
            ("data.corpora.train.clean", {"clean": {}}),
            ("data.corpora.train.synthetic", {"synthetic": {}}),
        )
    },
    "method.by_task": {"method": {"name": "by_task", "tasks": TASKS}},
    "method.multi_teacher": {
        "method": {"name": "multi_teacher", "methods": [{"name": "lssd"}, {"name": "multi_distill"}]}
    },
    "method.denoising": {"method": {"name": "by_task", "tasks": TASKS}},
    "model.lora": {"model": {"lora": {}}},
    "sampler.chi_ibr": {"sampler": {"name": "chi_ibr", "baseline": "runs/plain"}},
    "students": {"students": [{}, {}]},
}
"""What a section needs to be given to be valid, beside ``data.pairs``: all else are defaults."""


def given(section: str) -> dict[str, Any]:
    """The least recipe that has a section, before its defaults are filled in."""
    if section in GIVEN:
        return GIVEN[section]
    first, _, rest = section.partition(".")
    if first == "denoising":
        name = rest.removeprefix("tasks.") or "cd"
        return {"denoising": {"tasks": [{"name": name}]}}
    if first in ("method", "sampler"):
        return {first: {"name": rest.partition(".")[0]}}
    return {first: {}}


def recipe_of(values: dict[str, Any]) -> Recipe:
    """A recipe of these values, with pairs and, for denoising tasks, the method that trains them."""
    values = merged({"data": {"pairs": ["bs-en", "mr-en"]}}, values)
    method = values.get("method", {"name": "translation"})
    if method["name"] == "denoising":  # not alone: inside by_task
        values["method"] = method = {"name": "by_task", "tasks": {**TASKS, "cd": method}}
    if method["name"] == "by_task":
        values["denoising"] = {}
    elif "denoising" in values:
        tasks = {task["name"]: {"name": "denoising"} for task in values["denoising"].get("tasks", [{"name": "cd"}])}
        values["method"] = {"name": "by_task", "tasks": {"translation": {"name": "translation"}, **tasks}}
    return Recipe.model_validate(values)


def printed_by(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output of a command that prints and ends."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("section", SECTIONS)
def test_a_printed_section_loads_to_the_defaults(section: str) -> None:
    printed = parse_yaml(help_yaml(Recipe, section))
    assert recipe_of(printed) == recipe_of(given(section))
    assert printed != given(section) or section == "method.translation", "the defaults must be printed"


def test_the_whole_is_a_recipe_of_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_by(["train", "--help-config"], capsys)
    (tmp_path / "r.yaml").write_text(text)
    assert load(Recipe, tmp_path / "r.yaml") == recipe_of({})
    assert "PosixPath" not in text and "None" not in text and "()" not in text
    for name in METHODS:
        assert f"# ---- method.{name} ----" in text or name == "translation"
    for name in SAMPLERS:
        assert f"# ---- sampler.{name} ----" in text or name == "temperature"


def test_a_commented_section_can_be_uncommented(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = printed_by(["train", "--help-config"], capsys).split("\n# ---- ")[1:]
    assert len(blocks) > 10
    for block in blocks:
        title, *lines = block.partition("\n\n")[0].splitlines()
        text = "\n".join(line.removeprefix("# ") for line in lines)
        assert text == help_yaml(Recipe, title.removesuffix(" ----")).rstrip("\n"), title


def test_one_key_and_what_is_no_section(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_by(["train", "--help-config", "train.max_tokens"], capsys)
    assert parse_yaml(text) == {"train": {"max_tokens": 4096}} and "# Padded tokens" in text
    with pytest.raises(UserError, match=r"--help-config lssd: no such section; did you mean 'method.lssd'\?"):
        help_yaml(Recipe, "lssd")
    for path in ("method.lsd", "method.lsd.teachers"):
        with pytest.raises(UserError, match=rf"--help-config {path}: no such section; did you mean 'method.lssd'\?"):
            help_yaml(Recipe, path)
    with pytest.raises(UserError, match=r"--help-config trian: no such section; did you mean 'train'\?"):
        help_yaml(Recipe, "trian")
    with pytest.raises(UserError, match=r"method\.xyz: no such section; known here: method\.by_task, "):
        help_yaml(Recipe, "method.xyz")
    with pytest.raises(UserError, match="name has no section inside"):
        help_yaml(Recipe, "name.x")


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_by(["train", "--json-schema"], capsys) == json_schema(Recipe)


def test_a_study_of_defaults_loads() -> None:
    printed = parse_yaml(help_yaml(StudySettings, noun="study"))
    assert StudySettings.model_validate(printed) == StudySettings.model_validate(example_of(StudySettings))


def test_every_setting_is_described() -> None:
    bare = [
        f"{section.path}.{name}"
        for kind in (Recipe, StudySettings)
        for section in sections(kind)
        for name, field in section.kind.model_fields.items()
        if not (field.description or "").strip() and not _is_section(field.annotation)
    ]
    assert not bare


def _is_section(annotation: Any) -> bool:
    from mnmt_ds.config.settings import settings_classes

    return bool(settings_classes(annotation))


SCHEMAS = {"recipes": Recipe, "studies": StudySettings}


@pytest.mark.parametrize("folder", SCHEMAS)
def test_the_schema_files_are_current(folder: str) -> None:
    text = (ROOT / "launchers" / folder / "schema.json").read_text(encoding="utf-8")
    assert text == json_schema(SCHEMAS[folder]), "run python -m mnmt_ds.cli.reference"


def recipe_files() -> list[Path]:
    return sorted(path for folder in SCHEMAS for path in (ROOT / "launchers" / folder).rglob("*.yaml"))


@pytest.mark.parametrize("path", recipe_files(), ids=lambda path: str(path.relative_to(ROOT / "launchers")))
def test_every_recipe_fits_its_schema_and_names_it(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# yaml-language-server: $schema=")
    schema = (path.parent / first.partition("=")[2]).resolve()
    assert schema == ROOT / "launchers" / path.relative_to(ROOT / "launchers").parts[0] / "schema.json"
    rules = json.loads(schema.read_text(encoding="utf-8"))
    assert mistakes(parse_yaml(path.read_text(encoding="utf-8")), rules, rules) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train": {"max_tokns": 1}}, "train: unknown key max_tokns"),
        ({"train": {"lr": "fast"}}, "train.lr: not a number"),
        ({"train": {"update_freq": 4}, "data": {"pairs": "bs-en"}, "extends": "x.yaml"}, ""),
        ({"method": {"name": "lssd", "alhpa": 1}}, "method: fits none"),
        ({"method": {"name": "lssd", "alpha": 1.5}}, ""),
        ({"sampler": {"temperature": 5}}, ""),
        ({"sampler": {"name": "ccl_m", "ready": 1.5}}, "sampler: fits none"),
        ({"sampler": {"name": "nobody"}}, "sampler: fits none"),
        ({"placement": "apart"}, "placement: not one of together, split"),
    ],
)
def test_what_the_schema_finds(values: dict[str, Any], expected: str) -> None:
    rules = json.loads(json_schema(Recipe))
    assert mistakes(values, rules, rules) == ([expected] if expected else [])


TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
    "null": type(None),
}  # fmt: skip


def mistakes(value: Any, rule: dict[str, Any], root: dict[str, Any], where: str = "") -> list[str]:
    """Where a value departs from a schema: the part of JSON Schema that pydantic writes."""
    if "$ref" in rule:
        return mistakes(value, root["$defs"][rule["$ref"].rpartition("/")[2]], root, where)
    place = where or "recipe"
    if isinstance(rule.get("type"), str):
        right = isinstance(value, TYPES[rule["type"]]) and not (isinstance(value, bool) and rule["type"] != "boolean")
        if not right:
            return [f"{place}: not a {rule['type']}"]
    if "const" in rule and value != rule["const"]:
        return [f"{place}: not {rule['const']}"]
    if "enum" in rule and value not in rule["enum"]:
        return [f"{place}: not one of {', '.join(rule['enum'])}"]
    for name, wrong in (
        ("minimum", lambda limit: value < limit), ("exclusiveMinimum", lambda limit: value <= limit),
        ("maximum", lambda limit: value > limit), ("exclusiveMaximum", lambda limit: value >= limit),
    ):  # fmt: skip
        if name in rule and wrong(rule[name]):
            return [f"{place}: breaks {name} {rule[name]}"]
    if "anyOf" in rule and all(mistakes(value, option, root, where) for option in rule["anyOf"]):
        return [f"{place}: fits none"]
    assert not rule.keys() & {"oneOf", "allOf", "not", "required", "pattern"}, "a rule that is not looked at"
    found = []
    if isinstance(value, dict):
        for key, item in value.items():
            inner = rule.get("properties", {}).get(key, rule.get("additionalProperties", True))
            path = f"{where}.{key}" if where else key
            found += [f"{place}: unknown key {key}"] if inner is False else []
            found += mistakes(item, inner, root, path) if isinstance(inner, dict) else []
    if isinstance(value, list):
        for number, item in enumerate(value):
            prefix = rule.get("prefixItems", [])
            inner = prefix[number] if number < len(prefix) else rule.get("items")
            found += mistakes(item, inner, root, f"{where}.{number}") if isinstance(inner, dict) else []
    return found

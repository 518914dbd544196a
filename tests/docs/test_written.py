"""What README and docs name exists: links, files, recipes, commands, their flags, and settings."""

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from mnmt_ds.cli.main import COMMANDS, command_module
from mnmt_ds.config import Settings
from mnmt_ds.engine.recipe import Recipe
from tests.docs.pages import PAGES, ROOT, WRITTEN, anchors, blocks, commands, spans, text_of
from tests.unit.test_architecture import LAYERS

PLACEHOLDERS = {"recipe.yaml", "RECIPE.yaml", "STUDY.yaml"}
TREES = ("mnmt_ds", "tests", "launchers", "docs", "ds_configs")
FLAGS_OF_OTHERS = {
    "--num_gpus", "--hostfile", "--launcher", "--include", "--launcher_args",  # deepspeed
    "--nproc_per_node",  # torchrun
    "--nodes", "--ntasks-per-node", "--gpus-per-node", "--signal", "--requeue",  # sbatch
    "--no-build-isolation", "--no-deps", "--check",  # pip, ruff
    "--pairs", "--directory",  # tests.data.scale
    "--share", "--opus",  # docs/examples/toy_corpus.py
    "--local_rank", "--no_checks",  # launchers
}  # fmt: skip


def test_readme_is_a_page() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        target, _, part = link.partition("#")
        if "://" in link or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (part and path.suffix == ".md" and part not in anchors(path)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    """Paths below the repository's folders, and recipes by their bare names."""
    folders = (ROOT / "launchers", ROOT / "docs" / "examples")
    recipes = {path.name for folder in folders for path in folder.rglob("*.yaml")} | PLACEHOLDERS
    missing = []
    for word in {word.strip(".,:;()'\"") for command in commands(page) for word in command.split()}:
        if re.search(r"[*<>{}…=$]|YYYY|NNN", word):
            continue
        path = word.partition("#")[0].partition("::")[0]
        below = path.partition("/")[0] in TREES and "/" in path
        named = re.fullmatch(r"[\w-]+\.yaml", path) is not None
        if (below and not (ROOT / path).exists()) or (named and path not in recipes):
            missing.append(word)
    assert not missing


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """Every command's flags, those of its subcommands included."""
    found = {}
    for name in COMMANDS:
        parser = argparse.ArgumentParser()
        command_module(name).add_arguments(parser)
        found[name] = flags_of(parser)
    return found


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    names = {name for action in parser._actions for name in action.option_strings}
    below = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return names.union(*(flags_of(sub) for parsers in below for sub in parsers))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_flags_exist(page: Path, flags: dict[str, set[str]]) -> None:
    """Of ``mnmt-ds COMMAND …`` each flag is that command's; a flag that stands alone is some command's."""
    anyones = FLAGS_OF_OTHERS.union(*flags.values())
    wrong = []
    for line in commands(page):
        for command in re.split(r"\s(?:\||&&|;)\s", line):
            words = command.split()
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            if words[:1] == ["mnmt-ds"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
                known = flags.get(words[1], set())
                wrong += [command] if words[1] not in flags or given - known - {"--help"} else []
            elif given - anyones and words[0] not in ("git", "apt-get"):
                wrong.append(command)
    assert not wrong


def test_readme_shows_every_command() -> None:
    shown = {line.split()[1] for line in commands(ROOT / "README.md") if line.startswith("mnmt-ds ")}
    assert shown >= set(COMMANDS)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_exist(page: Path) -> None:
    """``train.max_tokens`` and the like lead to a field of the recipe, or to a method's or sampler's."""
    words = {word.strip("`,.;:") for span in spans(page) for word in re.split(r"[\s={]", span)}
    dotted = [word.split(".") for word in words if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", word)]
    sections = {name for name, field in Recipe.model_fields.items() if settings_in(field.annotation)}
    keys = [name for name in dotted if name[0] in sections and name[-1] not in ("py", "md", "json")]
    assert not [".".join(name) for name in keys if not leads_to_a_field([Recipe], name)]


def leads_to_a_field(kinds: list[type[Settings]], keys: list[str]) -> bool:
    """Whether some settings class in a chain of annotations has the keys; a mapping takes any key."""
    if not keys:
        return True
    chosen = [kind for kind in kinds if "name" in kind.model_fields and kind.model_fields["name"].default == keys[0]]
    if chosen:  # the name of a method, sampler or task
        return leads_to_a_field(chosen, keys[1:])
    for kind in kinds:
        if keys[0] in kind.model_fields:
            annotation = kind.model_fields[keys[0]].annotation
            if len(keys) == 1 or "dict" in str(annotation) or leads_to_a_field(settings_in(annotation), keys[1:]):
                return True
    return False


def settings_in(annotation: Any) -> list[type[Settings]]:
    """The settings classes inside an annotation such as ``A | B`` or ``tuple[A, ...]``."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, Settings) else []
    return [kind for argument in get_args(annotation) for kind in settings_in(argument)]


def test_ci_runs_the_readmes_test_command() -> None:
    command = "bash launchers/test.sh"
    assert command in text_of(ROOT / "README.md")
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "set ", "cd "))] == [command]


def test_shell_scripts_parse() -> None:
    for script in [*(ROOT / "launchers").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_tutorial_shows_its_recipes_as_they_are() -> None:
    shown = blocks(ROOT / "docs" / "tutorial.md", "yaml")
    assert shown == [text_of(ROOT / "docs" / "examples" / f"toy_{name}.yaml") for name in ("plain", "lssd")]
    assert blocks(ROOT / "docs" / "opus.md", "yaml") == [text_of(ROOT / "docs" / "examples" / "toy_opus.yaml")]


def test_architecture_page_has_the_layers_that_imports_are_held_to() -> None:
    """Packages and their order; modules at the top of the package come and go."""
    shown = [set(line.split()) for line in blocks(ROOT / "docs" / "architecture.md", "text")[0].splitlines()]
    packages = [{name for name in names if (ROOT / "mnmt_ds" / name).is_dir()} for names in reversed(LAYERS)]
    assert shown == [names for names in packages if names]

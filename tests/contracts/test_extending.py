"""docs/extending.md is true: its code, put where it says, passes the contract by the name of each entry alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contracts.docs import DOCS

ROOT = DOCS.parent
PAGE = DOCS / "extending.md"
NAMES = ("dev_weighted", "annealed", "psv")
"""The page's method, sampler and reader."""
TESTS = ("tests/contracts", "tests/unit/test_resume_changes.py")
ONE_WORD = "test_every_setting_of_every_component_has_one_word"


class Block(NamedTuple):
    """A block of code with the comment before it."""

    what: str
    """file, registry, or words: those for a resumed run."""
    path: str
    """Where it goes."""
    table: str
    """The name of the registry or table."""
    code: str


def blocks() -> list[Block]:
    """Reads the page's marked blocks.

    Returns:
        In the page's order.
    """
    pattern = r"<!-- (file|registry|words): (\S+?)(?: (\w+))? -->\n```python\n(.*?)```"
    return [Block(*match) for match in re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.DOTALL)]


def apply(block: Block, root: Path) -> None:
    """Writes a block's file, or its lines into a table, with an import of a registry into the one that is there.

    Args:
        block: of the page.
        root: the checkout.
    """
    path = root / block.path
    if block.what == "file":
        assert not path.exists(), path
        path.write_text(block.code, encoding="utf-8")
        return
    text, entries = path.read_text(encoding="utf-8"), block.code
    if block.what == "registry":
        line, entries = block.code.split("\n\n")
        text = _with_import(text, line)
    text, count = re.subn(
        rf"^({block.table}: .* = {{\n)", lambda match: match[1] + entries, text, count=1, flags=re.MULTILINE
    )
    assert count == 1, (block.path, block.table)
    path.write_text(text, encoding="utf-8")


def _with_import(text: str, line: str) -> str:
    """A module's text with a name more in an import that it has."""
    start, name = line.split(" import ")
    found = re.search(rf"^{start} import (?:\(([^)]*)\)|(.*))$", text, flags=re.MULTILINE)
    assert found, line
    names = sorted([name, *re.findall(r"\w+", found[1] or found[2])])
    together = f"{start} import {', '.join(names)}"
    if found[1] or len(together) > 120:
        together = "\n".join([f"{start} import (", *(f"    {name}," for name in names), ")"])
    return text[: found.start()] + together + text[found.end() :]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with everything that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("mnmt_ds", "tests", "ds_configs", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for block in blocks():
        apply(block, root)
    return root


def test_the_page_adds_a_file_and_a_line_each() -> None:
    assert [block.what for block in blocks()] == ["file", "registry", "words"] * 2 + ["file", "registry"]
    for block in blocks():
        if block.what == "registry":
            assert len(block.code.strip().split("\n")) == 3  # an import, an empty line, an entry


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]])
def test_what_was_added_has_the_style_of_the_rest(extended: Path, words: list[str]) -> None:
    paths = sorted({block.path for block in blocks()})
    command = [sys.executable, "-m", "ruff", *words, "--no-cache", *paths]
    done = subprocess.run(command, cwd=extended, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_toy_passes_the_contract(extended: Path) -> None:
    """The tests are those of the checkout, none was changed: the entries are found by themselves."""
    environment = {**os.environ, "PYTHONPATH": str(extended), "CXX": "/no/compiler"}  # a copy's kernels are not built
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *TESTS, "-k", " or ".join([*NAMES, ONE_WORD]), "-rA"],
        cwd=extended,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for name in NAMES:
        passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED") and name in line]
        assert len(passed) >= 4, (name, done.stdout[-3000:])
    assert re.search(rf"^PASSED .*{ONE_WORD}", done.stdout, re.MULTILINE), done.stdout[-3000:]

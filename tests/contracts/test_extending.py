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
NAMES = ("dev_weighted", "annealed", "csv")
"""The page's method, sampler and reader."""


class Block(NamedTuple):
    """A block of code with the comment before it."""

    what: str
    """file or registry."""
    path: str
    """Where it goes."""
    table: str
    """The registry's name."""
    code: str


def blocks() -> list[Block]:
    """Reads the page's marked blocks.

    Returns:
        In the page's order.
    """
    pattern = r"<!-- (file|registry): (\S+?)(?: (\w+))? -->\n```python\n(.*?)```"
    return [Block(*match) for match in re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.DOTALL)]


def apply(block: Block, root: Path) -> None:
    """Writes a block's file, or its lines into a registry: imports to the imports, entries to the table.

    Args:
        block: of the page.
        root: the checkout.
    """
    path = root / block.path
    if block.what == "file":
        assert not path.exists(), path
        path.write_text(block.code, encoding="utf-8")
        return
    imports, entries = block.code.split("\n\n")
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^from mnmt_ds", f"{imports}\nfrom mnmt_ds", text, count=1, flags=re.MULTILINE)
    text, count = re.subn(
        rf"^({block.table}: .* = {{\n)", lambda match: match[1] + entries, text, count=1, flags=re.MULTILINE
    )
    assert count == 1, (block.path, block.table)
    path.write_text(text, encoding="utf-8")


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
    assert [block.what for block in blocks()] == ["file", "registry"] * 3
    for block in blocks():
        if block.what == "registry":
            assert len(block.code.strip().split("\n")) == 3  # an import, an empty line, an entry


def test_every_toy_passes_the_contract(extended: Path) -> None:
    """The tests are those of the checkout, none was changed: the entries are found by themselves."""
    environment = {**os.environ, "PYTHONPATH": str(extended), "CXX": "/no/compiler"}  # a copy's kernels are not built
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/contracts", "-k", " or ".join(NAMES), "-rA"],
        cwd=extended,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for name in NAMES:
        passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED") and name in line]
        assert len(passed) >= 4, (name, done.stdout[-3000:])

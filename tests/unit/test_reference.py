"""The generated reference pages and schemas are current, complete and well formed."""

import re
from pathlib import Path

import pytest

from mnmt_ds.cli.main import COMMANDS
from mnmt_ds.cli.reference import cli_page, configuration_page, generated
from mnmt_ds.config.sections import sections
from mnmt_ds.engine.recipe import Recipe
from tests.tiny import ROOT

FILES = generated(ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_is_current(path: Path) -> None:
    assert path.exists() and path.read_text(encoding="utf-8") == FILES[path], "run python -m mnmt_ds.cli.reference"


def test_every_key_has_an_anchor_and_every_link_leads_to_one() -> None:
    page = configuration_page()
    anchors = re.findall(r'<a id="([^"]+)">', page)
    assert len(anchors) == len(set(anchors)) > 200
    keys = [f"{section.path}.{name}".lstrip(".") for section in sections(Recipe) for name in section.kind.model_fields]
    assert set(keys) <= set(anchors)
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) > 30 and set(links) <= set(anchors)
    assert "| `0.0`; released `0.2` |" in page


def test_tables_have_as_many_cells_as_their_heads() -> None:
    for page in (configuration_page(), cli_page()):
        for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
            counts = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(counts) == 1, table


def test_every_command_has_its_section() -> None:
    page = cli_page()
    assert re.findall(r"^## mnmt-ds (\w+)$", page, re.MULTILINE) == list(COMMANDS)
    assert "### mnmt-ds bench throughput" in page and "`--log-level`" in page and "%(" not in page

"""The table of differences to papers and released code: nothing that a profile or a study sets is missing from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.config import Settings
from mnmt_ds.config.paper_differences import docstring_rows, page, setting_rows
from mnmt_ds.config.sections import sections
from mnmt_ds.config.settings import settings_classes
from mnmt_ds.engine.recipe import Recipe
from tests.tiny import ROOT
from tests.unit.test_paper_values import recipes

SECTIONS = [section.kind for section in sections(Recipe)]
NOT_OF_A_PAPER = {"profile", "name", "directory", "baseline", "experts", "weights"}
"""What every run has of its own, or takes from another run of its study."""


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_what_a_profile_sets_is_a_row(kind: type[Settings]) -> None:
    assert kind.differences.keys() <= kind.model_fields.keys()
    for given in ({}, {"rule": "uni"}, {"schedule": 2}, {"variant": "adaptive"}):
        for name, value in kind.released(given).items():
            (inside,) = settings_classes(kind.model_fields[name].annotation) if isinstance(value, dict) else (None,)
            declared = kind.differences if inside is None else inside.differences
            assert (value.keys() if inside is not None else {name}) <= declared.keys()
    assert set(kind.later) <= kind.released({}).keys() - {"name"} or not kind.later
    for row in kind.differences.values():
        assert row.why and "\n" not in "".join(row)


def differing(ours: Any, theirs: Any) -> Iterator[tuple[type[Settings], str]]:
    """Settings of one recipe that have another value in a second one: section class and field."""
    if isinstance(ours, Settings):
        assert type(ours) is type(theirs)
        for name in type(ours).model_fields:
            a, b = getattr(ours, name), getattr(theirs, name)
            if a != b and not (inner := list(differing(a, b))):
                yield type(ours), name
            elif a != b:
                yield from inner
    elif isinstance(ours, tuple) and len(ours) == len(theirs):
        for a, b in zip(ours, theirs, strict=True):
            yield from differing(a, b)
    elif isinstance(ours, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from differing(ours[key], theirs[key])


@pytest.mark.parametrize("family", ["paper1", "paper2", "paper3"])
def test_what_a_study_of_released_code_changes_is_a_row(family: str) -> None:
    ours, theirs = recipes(family), recipes(f"{family}_released")
    rows = {(kind, name) for kind in SECTIONS for name in kind.differences}
    found = {place for key in ours.keys() & theirs.keys() for place in differing(ours[key][0], theirs[key][0])}
    found = {(kind, name) for kind, name in found if name not in NOT_OF_A_PAPER}
    assert len(found) > 3
    presets = {"ffn", "heads", "d_model", "encoder_layers", "decoder_layers"}  # filled by model.preset
    updates = {"batches_per_update"}  # with max_tokens, the tokens of an update
    assert {(kind.__name__, name) for kind, name in found - rows if name not in presets | updates} == set()


def test_rows_by_hand() -> None:
    rows = {cells[0].split("`")[1]: cells for cells in setting_rows(Recipe)}
    link, paper, released, ours, why = rows["method.lssd.selective_below"]
    assert link == "[`method.lssd.selective_below`](configuration.md#method.lssd.selective_below)"
    assert (paper, released, ours, why) == ("0 (1, 3.3)", "`0.2`", "`0.0`", "the paper's")
    code = list(docstring_rows(ROOT / "mnmt_ds"))
    assert page(Recipe, ROOT / "mnmt_ds").count("\n|") == len(rows) + len(code) + 4
    assert {"label smoothing", "the K passes", "CCL-M"} <= {cells[0] for cells in code}


def test_a_paragraph_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        '"""A module.\n\nDiffers: masks; paper: one; released: two;\nours: three; why: so.\n"""\n'
    )
    assert list(docstring_rows(tmp_path)) == [("masks", f"`{tmp_path.name}/m.py`", "one", "two", "three", "so")]
    (tmp_path / "m.py").write_text('def f():\n    """Does.\n\n    Differs: from the paper.\n    """\n')
    with pytest.raises(ValueError, match="give what, paper, released, ours and why"):
        list(docstring_rows(tmp_path))

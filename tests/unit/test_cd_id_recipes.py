"""Every row of paper 3's Tables 2, 4 and 6 is a recipe, and says what the row says."""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.engine.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "launchers" / "recipes" / "cd_id"
ROWS = {  # recipe: terms whose K passes are drawn together, terms without, own encoder projection
    "row1_mmt": ("", "translation", False),
    "row2_mmt_id": ("translation", "", False),
    "row3_dae": ("", "translation dae", False),
    "row4_dae_id_d": ("dae", "translation", False),
    "row5_dae_id": ("translation dae", "", False),
    "row6_cd": ("", "translation cd", False),
    "row7_cd_id_ssl": ("cd", "translation", False),
    "row8_cd_id": ("translation cd", "", False),
    "dae_mlm": ("", "translation dae mlm", True),
    "mass": ("", "translation mass", False),
    "cd_id_separate": ("translation cd", "", True),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str) -> None:
    made = load_recipe(FOLDER / f"{name}.yaml")
    tasks: dict[str, Any] = getattr(made.method, "tasks", {"translation": made.method})
    distilled = {task for task, method in tasks.items() if method.name == "intra_distillation"}
    wanted, others, own = ROWS[name]
    assert distilled == set(wanted.split()) and set(tasks) - distilled == set(others.split())
    assert all(tasks[task].alpha == 5 and tasks[task].passes == 2 for task in distilled)
    assert (made.model.encoder_projection == "own") == own
    assert made.framing.encoder_langtok_position == "end"
    if made.denoising is not None:
        assert made.denoising.temperature == pytest.approx(10 / 7) and made.denoising.ratio == 1


def test_all_are_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ROWS)

"""Recipes and studies hold the papers' values: each value with the place that it is from.

Sources: "1, 2.2" is paper 1 (LSSD), section 2.2; "scripts" are the authors' released training scripts, where the paper
gives no value.
"""

from functools import cache
from typing import Any

import pytest

from mnmt_ds.engine.recipe import Recipe, load_recipe
from mnmt_ds.study.plan import read_study
from tests.tiny import ROOT

LAUNCHERS = ROOT / "launchers"
Values = dict[str, tuple[Any, str]]
"""{dotted key: (value, where it is from)}."""

NO_CLIPPING: Values = {"train.clip_norm": (0, "no paper names one; fairseq's default; scripts of 3: --clip-norm 0.0")}
TAG_AT_BOTH_ENDS: Values = {
    "framing.encoder_langtok": ("tgt", "3, 4.1: one token on both sides; scripts: the target's"),
    "framing.encoder_langtok_position": ("end", "3, 4.1: appended on the source side"),
    "framing.decoder_langtok": ("tgt", "3, 4.1: prepended on the decoder side"),
}
INTO_ENGLISH: Values = {"framing.encoder_langtok": ("src", "scripts; 1, 2.2 asks for the target's, which is constant")}
OUT_OF_ENGLISH: Values = {"framing.encoder_langtok": ("tgt", "1, 2.2; 2, 2.2; scripts")}

RECIPES: dict[str, Values] = {
    "papers/m8": TAG_AT_BOTH_ENDS | NO_CLIPPING,
    "papers/m15": TAG_AT_BOTH_ENDS | NO_CLIPPING,
    "papers/ted8_diverse": INTO_ENGLISH | NO_CLIPPING,
    "papers/ted8_related": INTO_ENGLISH | NO_CLIPPING,
    "papers/wmt6": INTO_ENGLISH | NO_CLIPPING,
    "cd_id/row1_mmt": TAG_AT_BOTH_ENDS,
    "cd_id/row8_cd_id": TAG_AT_BOTH_ENDS,
}
"""What each recipe holds."""
SETTINGS: dict[str, dict[str, Values]] = {
    "paper1": {
        "diverse-m2o": INTO_ENGLISH,
        "diverse-o2m": OUT_OF_ENGLISH,
        "related-m2o": INTO_ENGLISH,
        "related-o2m": OUT_OF_ENGLISH,
        "wmt-m2o": INTO_ENGLISH,
        "wmt-o2m": OUT_OF_ENGLISH,
    },
    "paper2": {
        "wmt6-m2o": INTO_ENGLISH,
        "wmt6-o2m": OUT_OF_ENGLISH,
        "diverse-m2o": INTO_ENGLISH,
        "diverse-o2m": OUT_OF_ENGLISH,
    },
    "paper3": {name: TAG_AT_BOTH_ENDS for name in ("m8-xxx-eng", "m8-eng-xxx", "m15-xxx-eng", "m15-eng-xxx")},
    "baselines": {"m2o": INTO_ENGLISH, "o2m": OUT_OF_ENGLISH},
    "cd_id": {"": TAG_AT_BOTH_ENDS},
}
"""What every row of a study holds in each setting; the study of the released code as well."""


@cache
def recipes(study: str) -> dict[tuple[str, str], list[Recipe]]:
    """Recipes of a study's first seeds, by row and setting; a row of bilingual models has one a pair."""
    entries = read_study(LAUNCHERS / "studies" / f"{study}.yaml").entries
    return {(entry.row, entry.setting): [job.recipe for job in entry.jobs] for entry in entries}


def differences(recipe: Recipe, expected: Values) -> list[str]:
    """Values of a recipe that are not the expected ones, with the source of these."""
    texts = []
    for key, (value, source) in expected.items():
        found: Any = recipe
        for name in key.split("."):
            found = found[int(name)] if name.isdigit() else getattr(found, name, "no such setting")
        if found != value:
            texts.append(f"{key} is {found!r}, not {value!r} ({source})")
    return texts


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    assert not differences(load_recipe(LAUNCHERS / "recipes" / f"{name}.yaml"), RECIPES[name])


def test_every_recipe_of_the_papers_is_in_the_table() -> None:
    paths = (LAUNCHERS / "recipes" / "papers").glob("*.yaml")
    assert {f"papers/{path.stem}" for path in paths} == {name for name in RECIPES if name.startswith("papers/")}


@pytest.mark.parametrize("study", [*SETTINGS, "paper1_released", "paper2_released", "paper3_released"])
def test_studies(study: str) -> None:
    expected = SETTINGS[study.removesuffix("_released")]
    assert {setting for _, setting in recipes(study)} == expected.keys()
    wrong = [
        f"{study} {setting} {row}: {text}"
        for (row, setting), jobs in recipes(study).items()
        for recipe in jobs
        for text in differences(recipe, expected[setting])
    ]
    assert not wrong, "\n".join(wrong[:20])

"""Settings: what they accept, what they refuse in one line, and the shipped recipes."""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.config import Settings, load
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.errors import UserError

RECIPES = Path(__file__).parents[2] / "launchers" / "recipes" / "data"


class Section(Settings):
    data: DataSettings


def test_the_default_recipe_is_set_x() -> None:
    data = load(Section, RECIPES / "gettext.yaml").data
    assert data.pairs == ("bs-en", "mr-en", "hi-en", "mk-en", "el-en", "bg-en", "fr-en", "ko-en")
    assert [data.limit_of(pair) for pair in data.pairs] == [150, 300, 450, 600, 900, 1300, 1900, 2600]
    assert (data.clean.max_key_words, data.split.dev, data.split.test) == (12, 200, 200)
    assert (data.tokenizer.kind, data.tokenizer.size, data.source) == ("joint", 3000, "auto")
    fallback = load(Section, RECIPES / "cldr.yaml").data
    assert (fallback.source, fallback.pairs, fallback.clean.domain_cap) == ("cldr", data.pairs, None)


def test_the_other_recipes() -> None:
    ted = load(Section, RECIPES / "ted8.yaml").data
    assert (ted.tokenizer.kind, ted.tokenizer.size, ted.tokenizer.hard_limit) == ("per_language", 8000, False)
    assert [place.format for place in ted.files_of("ko-en").dev] == ["ted"]
    files = load(Section, RECIPES / "files.yaml").data
    named = {place.format for pair in files.pairs for role in ("train", "dev", "test")
             for place in getattr(files.files_of(pair), role)}  # fmt: skip
    assert named | {"text", "gettext", "cldr"} == set(READERS)
    assert [place.path for place in files.files_of("en-ko").test] == ["corpora/NTREX"]


def test_pairs_languages_and_limits() -> None:
    data = DataSettings.model_validate({"pairs": "bs-en, en-fr,fr-de", "max_train": {"en-bs": 5, "*": 9}})
    assert data.pairs == ("bs-en", "en-fr", "fr-de")
    assert data.languages == ("bs", "en", "fr", "de")
    assert [data.limit_of(pair) for pair in data.pairs] == [5, 9, 9]
    assert DataSettings.model_validate({"pairs": ["a-b"]}).limit_of("a-b") is None


def test_what_concerns_no_pair_is_named() -> None:
    values = {"pairs": "fr-en", "max_train": {"en-fr": 1, "ko-en": 2, "*": 3}, "corpora": {"en-fr": {}, "*": {}}}
    assert DataSettings.model_validate(values).unused == ["corpora.en-fr", "max_train.ko-en"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pairs": []}, "'pairs' is empty"),
        ({"pairs": ["fren"]}, "pairs: 'fren': write source-target"),
        ({"pairs": ["en-en"]}, "pairs: 'en-en'"),
        ({"pairs": ["../x-en"]}, "pairs: '../x-en'"),
        ({"pairs": ["fr-en", "fr-en"]}, "named twice"),
        ({"pairs": ["fr-en"], "monolingual": {"../fr": []}}, "monolingual '../fr'"),
        ({"pairs": ["fr-en"], "max_train": {"koen": 3}}, "max_train: 'koen': write source-target"),
        ({"pairs": ["fr-en"], "corpora": {"fr": {}}}, "corpora: 'fr': write source-target"),
        ({"pairs": ["fr-en"], "source": "files"}, "no train files for 'fr-en'"),
        (
            {"pairs": ["fr-en"], "corpora": {"*": {"train": [{"format": "moses", "target_path": "a"}]}}},
            "moses needs 'path'",
        ),
        ({"pairs": ["fr-en"], "corpora": {"*": {"train": [{"format": "tmx"}]}}}, "tmx needs 'path'"),
        (
            {"pairs": ["fr-en"], "corpora": {"*": {"train": [{"format": "tmx", "path": "a", "target_path": "b"}]}}},
            "tmx has no 'target_path'",
        ),
        ({"pairs": ["fr-en"], "tokenizer": {"kind": "per_language", "byte_fallback": True}}, "byte_fallback needs"),
    ],
)
def test_refusals(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    import yaml

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": values}))
    with pytest.raises(UserError) as error:
        load(Section, path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}:")

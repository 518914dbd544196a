"""Every corpus reader of the registry: rows with rising numbers, the same on every reading, faults of one line.

The entries come from the registry by themselves; each writes its own example.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.config import dump, load
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.data.readers.sources import corpus_parts, files_of_part
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.errors import UserError
from tests.contracts.docs import sections_with

PAIR = "fr-en"
every_reader = pytest.mark.parametrize("name", READERS)


def settings_of(name: str, folder: Path) -> DataSettings:
    """Settings whose training text is a reader's example, written into a folder."""
    folder.mkdir()
    entry = {"format": name, **READERS[name].example(folder)}
    values: dict[str, Any] = {"pairs": [PAIR], "corpora": {PAIR: {"train": [entry]}}, "catalogs": [str(folder)]}
    return DataSettings.model_validate(values)


@every_reader
def test_rows_are_numbered_and_the_same_on_every_reading(name: str, tmp_path: Path) -> None:
    parts = corpus_parts(settings_of(name, tmp_path / "text"), PAIR, "train", "files")
    rows = [row for part in parts for row in part.read()]
    assert len(rows) >= 2, rows
    for part in parts:
        numbers = [number for number, *_ in part.read()]
        assert numbers[0] >= 1 and numbers == sorted(numbers)
    for _, source, target, key in rows:
        assert isinstance(source, str | bytes) and isinstance(target, str | bytes) and source and target
        assert key is None or isinstance(key, str)
    assert [row for part in parts for row in part.read()] == rows


@every_reader
def test_a_lost_file_is_a_message_of_one_line_with_its_path(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path / "text")
    parts = corpus_parts(settings, PAIR, "train", "files")
    files = [path for part in parts for path in files_of_part(part)]
    shutil.rmtree(tmp_path / "text")
    if READERS[name].tolerant or not files:
        assert READERS[name].tolerant or not READERS[name].needs, "a format with files lists none"
        return
    with pytest.raises(UserError) as error:
        [row for part in corpus_parts(settings, PAIR, "train", "files") for row in part.read()]
    assert str(tmp_path / "text") in str(error.value) and "\n" not in str(error.value)


@every_reader
def test_settings_go_through_yaml(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path / "text")
    (tmp_path / "data.yaml").write_text(dump(settings), encoding="utf-8")
    assert load(DataSettings, tmp_path / "data.yaml") == settings


@every_reader
def test_a_section_of_the_docs_tells_of_it(name: str) -> None:
    assert sections_with(f"`{name}`") or sections_with(f"format: {name}"), f"no section under docs/ names {name}"

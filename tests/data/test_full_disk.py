"""``prepare`` on a full or read-only disk: one line that names the disk, and the corpus that was there stays whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.settings import DataSettings
from tests.data.conftest import three_pairs
from tests.small_disk import fill, read_only, small_disk

Moses = Callable[..., dict[str, Any]]
Make = Callable[..., DataSettings]


def refused(words: list[str], disk: Path, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert main(words) == 2, words
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mnmt-ds ")]
    assert len(lines) == 1 and lines[0].startswith(f"mnmt-ds {words[0]}: {disk}/"), lines
    assert what in lines[0]


def written(settings: DataSettings, path: Path) -> str:
    path.write_text(yaml.safe_dump({"data": settings.model_dump(mode="json")}))
    return str(path)


def test_the_corpus_that_was_there_stays(
    moses: Moses, settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        settings = three_pairs(moses, settings_of).model_copy(update={"directory": str(disk / "data")})
        words = ["prepare", written(settings, tmp_path / "recipe.yaml"), "--processes", "1"]
        assert main(words) == 0
        whole = Corpus.open(settings.directory).hash
        for left in (0, 8_192):
            fill(disk, left)
            refused([*words, "data.max_train={'*': 50}"], disk, "no space left on the disk", capfd)
            assert Corpus.open(settings.directory).hash == whole
        read_only(disk)
        refused([*words, "--fresh"], disk, "Read-only file system", capfd)
        assert Corpus.open(settings.directory).hash == whole
        assert main(["validate", *words[1:]]) == 0


@pytest.mark.slow
def test_wherever_it_becomes_full(
    moses: Moses, settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each time with a little more room, until it is enough; two processes, and files that have to be copied."""
    with small_disk(tmp_path / "disk", "3m") as disk:
        settings = three_pairs(moses, settings_of).model_copy(update={"directory": str(disk / "data")})
        words = ["prepare", written(settings, tmp_path / "recipe.yaml"), "--processes", "2"]
        assert main(words) == 0
        whole, refusals = Corpus.open(settings.directory).hash, 0
        for left in range(0, 2_000_000, 12_288):
            fill(disk, left)
            if main([*words, "data.max_train={'*': 50}"]) == 0:
                break
            refused([*words, "data.max_train={'*': 50}"], disk, "no space left on the disk", capfd)
            assert Corpus.open(settings.directory).hash == whole, left
            refusals += 1
        assert refusals >= 5 and Corpus.open(settings.directory).hash != whole

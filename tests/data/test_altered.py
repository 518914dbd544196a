"""A flipped bit in any prepared file is refused by name where the file is read; preparing again mends it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.errors import UserError
from tests.data.conftest import three_pairs

Moses = Callable[..., dict[str, Any]]
Make = Callable[..., DataSettings]


def flip(path: Path) -> None:
    """Flips a bit in the middle of a file, in place."""
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 4]))


def read_all(directory: Path) -> None:
    """Reads all that training and evaluation would."""
    corpus = Corpus.open(directory)
    for pair in corpus.pairs:
        for name in ("train", "dev", "test"):
            corpus.split(pair, name).text()
    for language in corpus.monolingual:
        corpus.monolingual_sentences(language).text()


def test_a_flipped_bit_in_each_file_of_a_corpus(tiny_corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny_corpus, copy, ignore=shutil.ignore_patterns("work"))
    read_all(copy)
    files = [*Corpus.open(copy).manifest["files"], "manifest.json"]
    assert len(files) == 3 * 3 * 4 + 2 + 1
    for name in files:
        content = (copy / name).read_bytes()
        flip(copy / name)
        with pytest.raises(UserError) as caught:
            read_all(copy)
        message = str(caught.value)
        place = copy / ("tokenizer" if name.startswith("tokenizer") else name)
        assert message.startswith(f"{place}: ") and message.endswith("run mnmt-ds prepare again"), message
        (copy / name).write_bytes(content)
    read_all(copy)


def test_training_does_not_read_what_it_does_not_need(tiny_corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny_corpus, copy, ignore=shutil.ignore_patterns("work"))
    flip(copy / "text" / "fr-en.test.tgt")
    split = Corpus.open(copy).split("fr-en", "test")
    assert len(split) == 12
    with pytest.raises(UserError, match=r"text/fr-en.test.tgt: its content changed since it was prepared"):
        split.text()


@pytest.mark.parametrize("name", ["bin/bs-en.train.bin", "text/en-mr.dev.src", "tokenizer/spm.model", "manifest.json"])
def test_preparing_again_mends_it(moses: Moses, settings_of: Make, name: str) -> None:
    settings = three_pairs(moses, settings_of)
    directory = prepare(settings, processes=1).parent
    before = Corpus.open(directory).hash
    flip(directory / name)
    with pytest.raises(UserError, match="run mnmt-ds prepare again"):
        read_all(directory)
    prepare(settings, processes=1)
    read_all(directory)
    assert Corpus.open(directory).hash == before


def test_a_damaged_output_is_built_again(moses: Moses, settings_of: Make) -> None:
    """A flipped bit in what step 1 of prepare kept would else be published as new text."""
    settings = three_pairs(moses, settings_of)
    directory = prepare(settings, processes=1).parent
    before = Corpus.open(directory).hash
    kept = [path for path in (directory / "work").rglob("*") if path.is_file() and path.name != "stage.json"]
    for path in kept:
        if "clean." in str(path) or path.parent.parent.name.startswith("read"):
            flip(path)
    prepare(settings.model_copy(update={"max_train": {"bs-en": 100}}), processes=1)
    prepare(settings, processes=1)
    assert Corpus.open(directory).hash == before


def test_a_corpus_of_an_older_version_is_read(tiny_corpus: Path, tmp_path: Path) -> None:
    """Its manifest has no checksum of its own."""
    copy = tmp_path / "data"
    shutil.copytree(tiny_corpus, copy, ignore=shutil.ignore_patterns("work"))
    manifest = (copy / "manifest.json").read_text()
    lines = [line for line in manifest.splitlines() if '"checksum"' not in line]
    (copy / "manifest.json").write_text("\n".join(lines).replace("},\n}", "}\n}"))
    read_all(copy)

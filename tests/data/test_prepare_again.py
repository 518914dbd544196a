"""Preparing again: what is redone, what a crash leaves, who is refused."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.config import dump
from mnmt_ds.data import binarization, manifest
from mnmt_ds.data import prepare as preparing
from mnmt_ds.data.build_cache import lock_corpus
from mnmt_ds.data.corpus import Corpus, changed_settings
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.data.validate import validate
from mnmt_ds.errors import UserError
from tests.data.conftest import ENGLISH, three_pairs, translated
from tests.data.test_readers import compiled

Moses = Callable[..., dict[str, Any]]
Make = Callable[..., DataSettings]


def made(capfd: pytest.CaptureFixture[str]) -> set[str]:
    """Stages that the last run had to make."""
    lines = capfd.readouterr().err.splitlines()  # "TIME INFO: read bs-en train: done"
    return {line.removesuffix(": done").partition(" INFO: ")[2] for line in lines if line.endswith(": done")}


def test_a_second_run_redoes_only_what_changed(
    moses: Moses, settings_of: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    everything = made(capfd)
    assert len(everything) == 2 + 2 + 1 + 6
    manifest = (Path(settings.directory) / "manifest.json").read_bytes()
    prepare(settings)
    assert made(capfd) == set()
    assert (Path(settings.directory) / "manifest.json").read_bytes() == manifest
    prepare(three_pairs(moses, settings_of))  # writes the same files anew
    assert made(capfd) == {"read bs-en train", "read en-mr train"}  # what follows sees that their content is the same


def test_a_changed_tokenizer_reads_nothing_again(
    moses: Moses, settings_of: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    made(capfd)
    smaller = settings.model_copy(update={"tokenizer": settings.tokenizer.model_copy(update={"size": 50})})
    prepare(smaller)
    assert made(capfd) == {
        "tokenizer",
        *(f"tokenise {p}.{w}" for p in settings.pairs for w in ("train", "dev", "test")),
    }
    assert len(list((Path(settings.directory) / "work" / "tokenizer").iterdir())) == 1  # the old one is gone
    assert changed_settings(Corpus.open(settings.directory).manifest, settings) == ["tokenizer.size"]
    assert changed_settings(Corpus.open(settings.directory).manifest, smaller) == []


def test_a_tokenizer_is_opened_once(moses: Moses, settings_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = Tokenizer.open
    monkeypatch.setattr(
        binarization.Tokenizer, "open", lambda directory: opened.append(directory) or original(directory)
    )
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    prepare(settings.model_copy(update={"tokenizer": settings.tokenizer.model_copy(update={"size": 50})}))
    assert len(opened) == len(set(opened)) == 2  # not once for each of six texts


def test_a_changed_text_is_read_again_alone(moses: Moses, settings_of: Make, capfd: pytest.CaptureFixture[str]) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    made(capfd)
    moses("en-mr", ENGLISH[100:200])
    prepare(settings)
    again = made(capfd)
    assert "read en-mr train" in again
    assert "read bs-en train" not in again
    assert len(Corpus.open(settings.directory).split("en-mr", "dev")) == 20


def test_no_change_of_content_no_change_of_hash(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    elsewhere = settings.model_copy(update={"directory": str(tmp_path / "elsewhere")})
    prepare(elsewhere, processes=1)
    assert Corpus.open(settings.directory).hash == Corpus.open(elsewhere.directory).hash


def test_a_fault_leaves_the_old_corpus_whole(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    before = Corpus.open(settings.directory).hash
    (tmp_path / "train.bs-en.bs").write_text("one line\n")
    with pytest.raises(UserError, match=r"train.bs-en.bs:2: has 1 lines, but .*train.bs-en.en has 300;"):
        prepare(settings)
    assert Corpus.open(settings.directory).hash == before
    assert not list((Path(settings.directory) / "work").rglob("*.tmp*"))


def test_catalogs_stay_as_first_read(settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "locale" / "fr" / "LC_MESSAGES"
    root.mkdir(parents=True)

    def catalog(name: str, english: list[str]) -> None:
        entries = "".join(f'msgid "{line}"\nmsgstr "{translated(line, "fr")}"\n\n' for line in english)
        compiled(root / name, f'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n{entries}')

    catalog("a.mo", ENGLISH[:150])
    catalog("iso_1.mo", ENGLISH[150:200])
    (root / "broken.mo").write_bytes((root / "a.mo").read_bytes()[:50])  # no error: nobody chose this file
    settings = settings_of(pairs=["fr-en", "en-fr"], catalogs=[str(tmp_path / "locale")], min_catalog_pairs=100)
    prepare(settings)
    first = Corpus.open(settings.directory)
    assert first.manifest["origin"] == "gettext"
    counts = first.manifest["pairs"]["fr-en"]["counts"]
    assert (counts["read"], counts["name list"], counts["bad line"], counts["clean"]) == (201, 50, 1, 150)
    assert first.manifest["pairs"]["en-fr"]["domains"] == {"a": 150, "broken": 0}
    assert validate(settings) == []
    catalog("b.mo", ENGLISH[200:])
    prepare(settings)
    assert "clean.fr-en.train: files changed since they were read; kept as read (--fresh" in capfd.readouterr().err
    assert Corpus.open(settings.directory).hash == first.hash
    prepare(settings, fresh=True)
    assert Corpus.open(settings.directory).manifest["pairs"]["fr-en"]["domains"] == {"a": 150, "b": 200, "broken": 0}


def test_two_at_once_the_second_is_refused(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of)
    with lock_corpus(Path(settings.directory)), pytest.raises(UserError, match="another prepare is at work here"):
        prepare(settings)
    prepare(settings)


def test_an_interrupted_exchange_of_files_is_not_trusted_and_is_mended(
    moses: Moses, settings_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    root, real, calls = Path(settings.directory), os.replace, []

    def dies(source: Path, target: Path) -> None:
        if Path(target).parent in (root / "text", root / "bin"):
            calls.append(target)
            if len(calls) == 5:
                raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies)
    smaller = settings.model_copy(update={"max_train": {"*": 50}})
    with pytest.raises(KeyboardInterrupt):
        prepare(smaller)
    with pytest.raises(UserError, match="no prepared corpus here; run mnmt-ds prepare"):
        Corpus.open(settings.directory)
    monkeypatch.setattr(os, "replace", real)
    prepare(settings)
    assert len(Corpus.open(settings.directory).split("bs-en", "train")) > 50


def test_a_disk_that_is_full_when_files_are_exchanged_leaves_the_old_corpus(
    moses: Moses, settings_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever needs space is done before the first file is replaced; here copies, as without hard links."""
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    root, before = Path(settings.directory), Corpus.open(settings.directory).hash
    published = lambda: {path: path.stat().st_ino for path in root.rglob("*") if "work" not in path.parts}  # noqa: E731
    there, smaller, calls = published(), settings.model_copy(update={"max_train": {"*": 50}}), []

    def full(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        shutil.copyfile(source, target)

    monkeypatch.setattr(manifest, "link_or_copy", full)
    with pytest.raises(UserError, match="no space left on the disk") as caught:
        prepare(smaller)
    assert len(caught.value.faults) == 1 and ".tmp" not in str(caught.value)
    assert published() == there and Corpus.open(settings.directory).hash == before
    monkeypatch.undo()
    prepare(smaller)
    assert Corpus.open(settings.directory).hash != before


def test_temporary_files_of_a_killed_prepare_are_removed(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    root = Path(settings.directory)
    left = [root / ".manifest.json.4242.tmp", root / "text" / ".bs-en.train.src.17.tmp", root / "bin" / ".a.bin.1.tmp"]
    others = [root / ".notes.tmp", root / "text" / "a.17.tmp"]
    for path in [*left, *others]:
        path.write_text("half")
    prepare(settings)
    assert [path.exists() for path in left] == [False] * 3
    assert [path.exists() for path in others] == [True] * 2


def wait_until_free(lock: Path) -> None:
    """Waits, a few seconds at most, until nobody holds the lock."""
    deadline = time.monotonic() + 10
    while lock.exists():
        with lock.open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)


def test_killed_at_any_moment_it_leaves_the_old_corpus_or_the_new_one(
    moses: Moses, settings_of: Make, tmp_path: Path
) -> None:
    """SIGKILL after more and more time; then a whole run must end with the hash of an undisturbed one."""
    settings = three_pairs(moses, settings_of)
    recipe = tmp_path / "data.yaml"
    recipe.write_text(dump(settings))
    script = (
        "import sys; from pathlib import Path; from mnmt_ds.config import load; from mnmt_ds.data.settings import"
        " DataSettings; from mnmt_ds.data.prepare import prepare; prepare(load(DataSettings, Path(sys.argv[1])))"
    )
    root = Path(preparing.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    survived = 0
    for delay in (0.3, 0.6, 0.9, 1.3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(recipe)], env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay)
        survived += process.poll() is None
        process.kill()  # the process alone: its workers must follow by themselves, and with them the lock
        process.wait()
        wait_until_free(Path(settings.directory) / ".lock")
        try:
            Corpus.open(settings.directory)
        except UserError as error:
            assert "no prepared corpus here" in str(error)  # never a half one
    assert survived
    prepare(settings)
    undisturbed = settings.model_copy(update={"directory": str(tmp_path / "undisturbed")})
    prepare(undisturbed)
    assert Corpus.open(settings.directory).hash == Corpus.open(undisturbed.directory).hash
    assert not list((Path(settings.directory) / "work").rglob("*.tmp*"))

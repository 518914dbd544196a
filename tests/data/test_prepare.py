"""From files to an opened corpus: contents, leak-freedom, what a second run redoes, crashes, locks, refusals."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnmt_ds.config import dump
from mnmt_ds.data import prepare as preparing
from mnmt_ds.data.corpus import Corpus, stale
from mnmt_ds.data.keys import normalised
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.stages import locked
from mnmt_ds.data.validate import validate
from mnmt_ds.errors import UserError
from tests.data.conftest import sentences, translated
from tests.data.test_readers import compiled

Moses = Callable[..., dict[str, Any]]
Make = Callable[..., DataSettings]
ENGLISH = sentences(400)


def three_pairs(moses: Moses, settings_of: Make, **values: Any) -> DataSettings:
    """Two pairs into English and one between the two other languages, all with overlapping English."""
    corpora = {
        "bs-en": {"train": [moses("bs-en", ENGLISH[:300])]},
        "en-mr": {"train": [moses("en-mr", ENGLISH[100:])]},
    }
    return settings_of(pairs=["bs-en", "en-mr"], corpora=corpora, **values)


def made(capfd: pytest.CaptureFixture[str]) -> set[str]:
    """Stages that the last run had to make."""
    return {line.removesuffix(": done") for line in capfd.readouterr().err.splitlines() if line.endswith(": done")}


def test_what_comes_out_is_what_went_in(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings, processes=2)
    corpus = Corpus.open(settings.directory)
    assert corpus.pairs == ("bs-en", "en-mr")
    assert corpus.tokenizer.languages == ("bs", "en", "mr")
    for pair in corpus.pairs:
        source_language, target_language = pair.split("-")
        for which in ("train", "dev", "test"):
            split = corpus.split(pair, which)
            sources, targets = split.text()
            assert len(split) == len(sources) == len(targets) == len(split.source_lengths) == len(split.target_lengths)
            for i in range(0, len(split), 7):
                source, target = split.pieces(i)
                assert corpus.tokenizer.decode(source) == sources[i]
                assert corpus.tokenizer.encode(targets[i], target_language) == target.tolist()
                assert (len(source), len(target)) == (split.source_lengths[i], split.target_lengths[i])
                english, other = (sources[i], targets[i]) if source_language == "en" else (targets[i], sources[i])
                assert other == translated(english, {"bs-en": "bs", "en-mr": "mr"}[pair])
    sizes = {pair: [len(corpus.split(pair, which)) for which in ("train", "dev", "test")] for pair in corpus.pairs}
    assert sizes["bs-en"][1:] == sizes["en-mr"][1:] == [20, 10]
    for pair in corpus.pairs:
        assert corpus.manifest["pairs"][pair]["counts"]["held-out key"] == 300 - sum(sizes[pair])


def test_nothing_held_out_is_trained_on_in_any_pair(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    english = {"bs-en": 1, "en-mr": 0}
    keys = {
        which: {normalised(line) for pair in corpus.pairs for line in corpus.split(pair, which).text()[english[pair]]}
        for which in ("train", "dev", "test")
    }
    assert not keys["train"] & (keys["dev"] | keys["test"])
    assert not keys["dev"] & keys["test"]
    assert len(keys["dev"]) < 40  # the pairs' sets overlap, so that little is lost


def test_given_sets_are_taken_whole_and_kept_out_of_every_pair(moses: Moses, settings_of: Make) -> None:
    dev = ["red bird", "red bird", "song", "x"]  # a duplicate and a one-letter line stay
    corpora = {
        "bs-en": {"train": [moses("bs-en", ENGLISH[:300])], "dev": [moses("bs-en", [*dev, *ENGLISH[:5]], "dev")]},
        "en-mr": {"train": [moses("en-mr", [*ENGLISH[100:], f"RED bird, {ENGLISH[0]}", "Red bird!"])]},
    }
    settings = settings_of(pairs=["bs-en", "en-mr"], corpora=corpora)
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    assert corpus.split("bs-en", "dev").text()[1] == [*dev, *ENGLISH[:5]]
    trained = {normalised(line) for line in corpus.split("en-mr", "train").text()[0]}
    assert "red bird" not in trained
    assert not {normalised(line) for line in ENGLISH[:5]} & trained
    assert normalised(f"red bird {ENGLISH[0]}") in trained | {
        normalised(line) for which in ("dev", "test") for line in corpus.split("en-mr", which).text()[0]
    }
    assert len(corpus.split("bs-en", "test")) == 10


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
    assert stale(Corpus.open(settings.directory).manifest, settings) == ["tokenizer.size"]
    assert stale(Corpus.open(settings.directory).manifest, smaller) == []


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


def test_many_to_many_and_limits(moses: Moses, settings_of: Make) -> None:
    corpora = {pair: {"train": [moses(pair, ENGLISH)]} for pair in ("bs-en", "en-bs", "bs-mr")}
    settings = settings_of(pairs="bs-en,en-bs,bs-mr", corpora=corpora, max_train={"bs-en": 100, "*": 150})
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    assert [len(corpus.split(pair, "train")) for pair in corpus.pairs] == [100, 100, 150]
    there, back = corpus.split("bs-en", "dev").text(), corpus.split("en-bs", "dev").text()
    assert (there[0], there[1]) == (back[1], back[0])
    assert corpus.manifest["pairs"]["bs-en"]["counts"]["over limit"] == 400 - 30 - 100


def test_monolingual_text(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    (tmp_path / "mono.en").write_text("".join(f"{line}\n" for line in [*ENGLISH, *ENGLISH[:5], "", "brand new"]))
    (tmp_path / "mono.bs").write_text("".join(f"{translated(line, 'bs')}\n" for line in ENGLISH))
    (tmp_path / "mono.hi").write_text("नमस्ते दुनिया\nयह एक वाक्य है\n")
    mono = {lang: [{"format": "text", "path": str(tmp_path / f"mono.{lang}")}] for lang in ("en", "bs", "hi")}
    settings = three_pairs(moses, settings_of, monolingual=mono)
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    assert corpus.monolingual == ("en", "bs", "hi")
    assert corpus.tokenizer.languages == ("bs", "en", "mr", "hi")
    english = corpus.mono("en")
    held = {
        line
        for p, side in (("bs-en", 1), ("en-mr", 0))
        for w in ("dev", "test")
        for line in corpus.split(p, w).text()[side]
    }
    assert english.text() == [*(line for line in ENGLISH if line not in held), "brand new"]
    bosnian = {line for which in ("dev", "test") for line in corpus.split("bs-en", which).text()[0]}
    assert corpus.mono("bs").text() == [b for line in ENGLISH if (b := translated(line, "bs")) not in bosnian]
    assert len(english) == len(english.lengths) == len(english.text())
    assert corpus.tokenizer.decode(english.pieces(3)) == english.text()[3]
    np.testing.assert_array_equal(english.lengths[:5], [len(english.pieces(i)) for i in range(5)])
    counts = corpus.manifest["monolingual"]["en"]["counts"]
    assert (counts["read"], counts["empty"], counts["duplicate"]) == (407, 1, 5)
    with pytest.raises(UserError, match="language 'mr': no monolingual text"):
        corpus.mono("mr")


def test_per_language_models(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of, tokenizer={"kind": "per_language", "size": 40, "hard_limit": False})
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    names = {path.name for path in (Path(settings.directory) / "tokenizer").iterdir()}
    assert names == {"spm.bs.model", "spm.en.model", "spm.mr.model", "tokenizer.json"}
    split = corpus.split("bs-en", "train")
    assert corpus.tokenizer.decode(split.pieces(0)[0]) == split.text()[0][0]
    assert 40 < corpus.tokenizer.size <= 3 * 40 + 4


def test_reports(moses: Moses, settings_of: Make, capfd: pytest.CaptureFixture[str]) -> None:
    english = [*ENGLISH[:200], *ENGLISH[:7], "", "fire " * 251]
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", english)]}})
    prepare(settings)
    header, row = capfd.readouterr().out.splitlines()[:2]
    assert header.split() == [
        "pair",
        "read",
        "empty",
        "words",
        "duplicate",
        "train",
        "dev",
        "test",
        "source",
        "tokens",
        "target",
        "tokens",
    ]
    assert row.split()[:8] == ["bs-en", "209", "1", "1", "7", "170", "20", "10"]
    report = json.loads((Path(settings.directory) / "report.json").read_text())
    assert report["pairs"]["bs-en"]["dropped"] == {"empty": 1, "words": 1, "duplicate": 7}
    assert report["pairs"]["bs-en"]["first"]["train"]["words"].endswith("train.bs-en.bs:209")
    text = (Path(settings.directory) / "report.md").read_text()
    assert "| bs-en | 209 | 1 | 1 | 7 | 170 | 20 | 10 |" in text
    inputs = Corpus.open(settings.directory).manifest["pairs"]["bs-en"]["inputs"]["train"]
    assert [Path(entry["path"]).name for entry in inputs] == ["train.bs-en.bs", "train.bs-en.en"]


def test_a_pair_with_nothing_left(moses: Moses, settings_of: Make) -> None:
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", ["", ""])]}})
    with pytest.raises(UserError, match=r"pair bs-en: no train sentence is left \(read 2, empty 2\); give more text"):
        prepare(settings)
    settings = settings_of(
        pairs=["bs-en"],
        corpora={"bs-en": {"train": [moses("bs-en", ENGLISH)], "dev": [moses("bs-en", [""], "dev")]}},
    )
    with pytest.raises(UserError, match=r"data.corpora.bs-en.dev: no dev sentence is left"):
        prepare(settings)
    assert not (Path(settings.directory) / "manifest.json").exists()


def test_a_fault_leaves_the_old_corpus_whole(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    before = Corpus.open(settings.directory).hash
    (tmp_path / "train.bs-en.bs").write_text("one line\n")
    with pytest.raises(UserError, match=r"train.bs-en.bs:2: has 1 lines, but .*train.bs-en.en has 300;"):
        prepare(settings)
    assert Corpus.open(settings.directory).hash == before
    assert not list((Path(settings.directory) / "work").rglob("*.tmp*"))


def test_too_few_catalogs_fall_back_to_cldr_and_say_so(
    settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(
        pairs=["bs-en"], catalogs=[str(tmp_path)], max_train={"*": 200}, tokenizer={"size": 300, "hard_limit": False}
    )
    prepare(settings)
    assert "too few sentence pairs in this machine's gettext catalogs (bs-en 0; 300 wanted)" in capfd.readouterr().err
    corpus = Corpus.open(settings.directory)
    assert corpus.manifest["origin"] == "cldr"
    assert len(corpus.split("bs-en", "train")) == 200


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
    with locked(Path(settings.directory)), pytest.raises(UserError, match="another prepare is at work here"):
        prepare(settings)
    prepare(settings)


def test_an_interrupted_exchange_of_files_is_not_trusted_and_is_mended(
    moses: Moses, settings_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    from mnmt_ds.data import manifest

    real, calls = manifest.publish, []

    def dies(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 5:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(manifest, "publish", dies)
    smaller = settings.model_copy(update={"max_train": {"*": 50}})
    with pytest.raises(KeyboardInterrupt):
        prepare(smaller)
    with pytest.raises(UserError, match="no prepared corpus here; run mnmt-ds prepare"):
        Corpus.open(settings.directory)
    monkeypatch.setattr(manifest, "publish", real)
    prepare(settings)
    assert len(Corpus.open(settings.directory).split("bs-en", "train")) > 50


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


def test_opening_refuses_what_does_not_fit(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared corpus here"):
        Corpus.open(tmp_path)
    settings = three_pairs(moses, settings_of)
    prepare(settings)
    corpus, root = Corpus.open(settings.directory), Path(settings.directory)
    with pytest.raises(UserError, match=r"pair 'ko-en': not in .*, which has bs-en, en-mr"):
        corpus.split("ko-en", "train")
    manifest = json.loads((root / "manifest.json").read_text())
    other = {**manifest, "tokenizer_hash": "0" * 64}
    for content, message in (
        ("{", "not a readable manifest"),
        (json.dumps({**manifest, "format": 99}), "made by another version"),
        (json.dumps(other), r"this tokenizer \(.*\) is not the one that made the ids \(000000000000\)"),
    ):
        (root / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=message):
            Corpus.open(root)
    (root / "manifest.json").write_text(json.dumps(manifest))
    (root / "bin" / "bs-en.dev.bin").unlink()
    with pytest.raises(UserError, match=r"bs-en.dev.bin: is missing; run mnmt-ds prepare again"):
        Corpus.open(root)


def test_without_a_test_set(moses: Moses, settings_of: Make) -> None:
    settings = three_pairs(moses, settings_of, split={"dev": 20, "test": 0})
    prepare(settings)
    corpus = Corpus.open(settings.directory)
    with pytest.raises(UserError, match="pair bs-en has no test set"):
        corpus.split("bs-en", "test")
    assert len(corpus.split("bs-en", "dev")) == 20

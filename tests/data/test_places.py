"""Archives read in place, directories and patterns: which files a path of the recipe means."""

import bz2
import gzip
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.data.readers.places import beside, paired_files
from mnmt_ds.data.readers.sources import corpus_parts, files_of_part, parts_identity
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.errors import UserError

FR, EN = "un chat\ndeux chats\n", "a cat\ntwo cats\n"
ROWS = [("un chat", "a cat"), ("deux chats", "two cats")]


def write(root: Path, files: dict[str, str]) -> Path:
    """Text files below a directory; .gz and .bz2 are compressed."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(text.encode()))
    return root


def zipped(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def parts_of(entry: dict[str, Any], role: str = "train", pair: str = "fr-en") -> list[Any]:
    settings = DataSettings.model_validate({"pairs": [pair], "corpora": {pair: {role: [entry]}}})
    return corpus_parts(settings, pair, role, "files")


def rows_of(*arguments: Any, **values: Any) -> list[tuple[str, str]]:
    def text(side: Any) -> str:
        return side.decode() if isinstance(side, bytes) else side

    return [(text(row[1]), text(row[2])) for part in parts_of(*arguments, **values) for row in part.read()]


def test_a_moses_zip_of_opus_is_read_in_place(tmp_path: Path) -> None:
    names = {
        "README": "about",
        "LICENSE": "free",
        "Books.en-fr.en": EN,
        "Books.en-fr.fr": FR,
        "Books.en-fr.xml": "<x/>",
    }
    path = zipped(tmp_path / "en-fr.txt.zip", names)
    with zipfile.ZipFile(path) as archive:  # the independent reader
        lines = [archive.read(f"Books.en-fr.{side}").decode().splitlines() for side in ("fr", "en")]
    assert rows_of({"format": "moses", "path": str(path)}) == list(zip(*lines, strict=True)) == ROWS
    (part,) = parts_of({"format": "moses", "path": str(path)})
    assert part.domain == "Books.en-fr" and files_of_part(part) == [path]
    assert rows_of({"format": "moses", "path": str(path)}, pair="fra-eng_Latn") == ROWS
    named = {"format": "moses", "path": f"{path}/Books.en-fr.fr", "target_path": f"{path}/Books.en-fr.en"}
    assert rows_of(named) == ROWS
    one = zipped(tmp_path / "one.zip", {"README": "x", "inside/a.tsv": "un\tone\n"})
    assert rows_of({"format": "tsv", "path": str(one)}) == [("un", "one")]
    several = zipped(tmp_path / "several.zip", {"a.tsv": "un\tone\n", "b/c.tsv": "deux\ttwo\n", "d.doc": ""})
    assert rows_of({"format": "tsv", "path": str(several)}) == [("un", "one"), ("deux", "two")]


def test_what_is_wrong_with_an_archive_is_said(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.fr": FR, "a.de": EN})
    with pytest.raises(UserError, match=r"a.zip: no two files of one name that end in .fr and .en, it has a.de, a.fr;"):
        parts_of({"format": "moses", "path": str(path)})
    with pytest.raises(UserError, match=r"a.zip: the zip archive has no file 'b.fr'; it has a.de, a.fr"):
        rows_of({"format": "moses", "path": f"{path}/b.fr", "target_path": f"{path}/a.de"})
    with pytest.raises(UserError, match=r"a.zip: the zip archive has no file that ends in .tmx; it has a.de, a.fr"):
        parts_of({"format": "tmx", "path": str(path)})
    both = zipped(tmp_path / "zh.zip", {"a.zh_Hans": FR, "a.zh_Hant": FR, "a.en": EN})
    with pytest.raises(UserError, match=r"several files for 'zh': a.zh_Hans, a.zh_Hant; give 'path'"):
        parts_of({"format": "moses", "path": str(both)}, pair="zh-en")
    assert rows_of({"format": "moses", "path": str(both), "codes": {"zh": "zh_Hant"}}, pair="zh-en") == ROWS
    content = bytearray(zipped(tmp_path / "bad.zip", {"a.tsv": "un\tone\n" * 99}).read_bytes())
    content[40] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"bad.zip/a.tsv:1: the compressed file is cut short or damaged"):
        rows_of({"format": "tsv", "path": str(tmp_path / "bad.zip")})


def test_directories_of_mtdata_and_opuscleaner(tmp_path: Path) -> None:
    out = write(tmp_path / "out", {
        "train-parts/Statmt-europarl-10-fra-eng.fra.gz": FR, "train-parts/Statmt-europarl-10-fra-eng.eng.gz": EN,
        "train.fra": FR * 2, "train.eng": EN * 2, "dev.fra": FR, "dev.eng": EN, "test.eng": EN, "test.fra": FR,
        "mtdata.signature.txt": "x", "references.bib": "@x{}",
    })  # fmt: skip
    assert rows_of({"format": "moses", "path": str(out / "train-parts")}) == ROWS
    assert rows_of({"format": "moses", "path": str(out)}) == ROWS * 2  # neither dev nor test
    assert [part.domain for part in parts_of({"format": "moses", "path": str(out)}, "dev")] == ["dev"]
    assert [part.domain for part in parts_of({"format": "moses", "path": str(out)}, "test")] == ["test"]
    assert [part.domain for part in parts_of({"format": "moses", "path": f"{out}/t*.*"})] == ["train"]
    clean = write(tmp_path / "clean", {
        "Books-v1.fr-en.fr.gz": FR, "Books-v1.fr-en.en.gz": EN, "TED-v1.fr-en.fr.bz2": FR, "TED-v1.fr-en.en.gz": EN,
        "Books-v1.fr-en.filters.json": "{}", "categories.json": "{}",
    })  # fmt: skip
    parts = parts_of({"format": "moses", "path": str(clean)})
    assert [part.domain for part in parts] == ["Books-v1.fr-en", "TED-v1.fr-en"]
    assert rows_of({"format": "moses", "path": str(clean)}) == ROWS * 2
    assert [part.domain for part in parts_of({"format": "moses", "path": str(clean), "domain": "all"})] == ["all"] * 2
    cleaned = write(tmp_path / "tables", {"a.filtered.tsv.gz": "un\tone\n", "b.tsv": "deux\ttwo\n", "notes.md": "x"})
    assert rows_of({"format": "tsv", "path": str(cleaned)}) == [("un", "one"), ("deux", "two")]


def test_patterns(tmp_path: Path) -> None:
    write(tmp_path, {"a/x[1].fr": FR, "a/x[1].en": EN, "b/c/y.fr": FR, "b/c/y.en": EN, "z.tsv": "un\tone\n"})
    entry = {"format": "moses", "path": f"{tmp_path}/**/*.{{source}}", "target_path": f"{tmp_path}/**/*.{{target}}"}
    assert rows_of(entry) == ROWS * 2
    assert [part.domain for part in parts_of(entry)] == ["x[1].fr", "y.fr"]
    assert rows_of({"format": "tsv", "path": f"{tmp_path}/*.tsv"}) == [("un", "one")]
    with pytest.raises(UserError, match=r"q\*.tsv: no file matches; mend the path in the recipe"):
        parts_of({"format": "tsv", "path": f"{tmp_path}/q*.tsv"})
    (tmp_path / "b/c/y.en").unlink()
    with pytest.raises(UserError, match=r"y.en: is not there, but .*y.fr is"):
        parts_of(entry)
    assert beside("c/*/t.*.fr", "c/a/t.1.fr", "d/*-*.en") == "d/a-1.en"
    with pytest.raises(UserError, match=r"d.en: has not as many \* as c/\*.fr"):
        beside("c/*.fr", "c/a.fr", "d.en")


def test_a_directory_whose_files_are_all_held_out(tmp_path: Path) -> None:
    write(tmp_path, {"dev.fr": FR, "dev.en": EN, "test.fr": FR, "test.en": EN})
    with pytest.raises(UserError, match=r"all its files are named as dev or test sets"):
        paired_files(str(tmp_path), ("fr", "en"), "train")
    sets = write(tmp_path / "wmt", {f"newstest20{year}.{side}.txt": FR for year in (13, 14) for side in ("fr", "en")})
    assert [stem for *_, stem in paired_files(str(sets), ("fr", "en"), "dev")] == ["newstest2013", "newstest2014"]


def test_what_decides_about_rows_is_in_the_identity(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("un\tone\teins\t0.5\n")
    entry = {"format": "tsv", "path": str(tmp_path / "a.tsv")}
    changed = [{}, {"columns": [1, 3]}, {"min_scores": {4: 0.4}}, {"min_scores": {4: 0.6}}, {"codes": {"fr": "x"}}]
    identities = [parts_identity(parts_of({**entry, **keys})) for keys in changed]
    assert all(identities.count(identity) == 1 for identity in identities)

"""Every format gives the rows that its file holds, with places; what is wrong with a file is one line."""

from pathlib import Path

import pytest

from mnmt_ds.data.readers import catalog, cldr, huggingface, text, tmx
from mnmt_ds.data.readers.corpus_part import Row
from mnmt_ds.data.readers.sources import parts_of
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.errors import UserError

PO = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=CHARSET\n"

msgctxt "menu"
msgid "_File"
msgstr "_Fichier"

#, fuzzy
msgid "fuzzy"
msgstr "flou"

msgid "one file"
msgid_plural "%d files"
msgstr[0] "un fichier"
msgstr[1] "%d fichiers"

msgid "untranslated"
msgstr ""

#~ msgid "old"
#~ msgstr "vieux"
"""


def compiled(path: Path, text: str, charset: str = "UTF-8") -> Path:
    """A .mo file of a PO text, in a charset."""
    import polib

    polib.pofile(text.replace("CHARSET", charset), encoding=charset).save_as_mofile(str(path))
    return path


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'x\tun\tone\r\ny\t"deux\ttwo\n')
    assert list(text.tsv(str(path), (2, 3), 100)) == [(1, b"un", b"one", None), (2, b'"deux', b"two", None)]
    path.write_bytes(b"un\tone\ndeux\n")
    with pytest.raises(UserError) as error:
        list(text.tsv(str(path), (1, 2), 100))
    assert str(error.value).startswith(f"{path}:2: 1 columns where column 2 is wanted")


def test_ted(tmp_path: Path) -> None:
    path = tmp_path / "all_talks_train.tsv"
    path.write_bytes(b"talk_name\ten\tfr\tbs\nt1\ta\tb\t__NULL__\nt1\tc\t_ _ NULL _ _ \td\nt2\te\tf\tg\n")
    assert list(text.ted(str(path), ("fr", "en"), 100)) == [(2, b"b", b"a", None), (4, b"f", b"e", None)]
    assert list(text.ted(str(path), ("bs", "en"), 100)) == [(3, b"d", b"c", None), (4, b"g", b"e", None)]
    with pytest.raises(
        UserError, match=r"all_talks_train.tsv:1: no column 'ko'; the columns are talk_name, en, fr, bs"
    ):
        list(text.ted(str(path), ("ko", "en"), 100))
    path.write_bytes(b"talk_name\ten\tfr\nt1\ta\n")
    with pytest.raises(UserError, match=r"all_talks_train.tsv:2: 2 columns, but the header has 3"):
        list(text.ted(str(path), ("fr", "en"), 100))


def flores(root: Path) -> Path:
    for split in ("dev", "devtest"):
        (root / split).mkdir(parents=True)
        for code in ("bos_Latn", "eng_Latn", "zho_Hans", "zho_Hant"):
            (root / split / f"{code}.{split}").write_text(f"{code} {split}\n")
    return root


def test_flores(tmp_path: Path) -> None:
    root = str(flores(tmp_path / "flores200_dataset"))
    assert text.flores_file(root, "dev", "bs", {}) == f"{root}/dev/bos_Latn.dev"
    assert text.flores_file(root, "devtest", "en", {}) == f"{root}/devtest/eng_Latn.devtest"
    assert text.flores_file(root, "dev", "zh", {"zh": "zho_Hant"}) == f"{root}/dev/zho_Hant.dev"
    assert text.flores_file(root, "dev", "zho_Hans", {}) == f"{root}/dev/zho_Hans.dev"
    with pytest.raises(
        UserError, match=r"2 files for 'zh' in split dev; say 'codes: \{zh: ...\}', one of zho_Hans.dev"
    ):
        text.flores_file(root, "dev", "zh", {})
    with pytest.raises(UserError, match="0 files for 'ko'"):
        text.flores_file(root, "dev", "ko", {})


def test_flores_by_settings(tmp_path: Path) -> None:
    place = {"format": "flores", "path": str(flores(tmp_path / "f"))}
    settings = DataSettings.model_validate({"pairs": "bs-en", "corpora": {"*": {"dev": [place], "test": [place]}}})
    (dev,), (test,) = (parts_of(settings, "bs-en", which, "files") for which in ("dev", "test"))
    assert list(dev.read()) == [(1, b"bos_Latn dev", b"eng_Latn dev", None)]
    assert list(test.read()) == [(1, b"bos_Latn devtest", b"eng_Latn devtest", None)]


TMX = """<?xml version="1.0"?>
<!DOCTYPE tmx [<!ENTITY secret SYSTEM "file:///etc/hostname">]>
<tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en"><seg>A <b>bold</b> word</seg></tuv><tuv xml:lang="fr"><seg>Un mot <b>gras</b></seg></tuv></tu>
<tu><tuv xml:lang="en-GB"><seg>colour</seg></tuv>
  <tuv lang="FR"><seg>couleur</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>only</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>&secret;x</seg></tuv><tuv xml:lang="fr"><seg>y</seg></tuv></tu>
</body></tmx>
"""


def test_tmx(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    path.write_text(TMX)
    rows = list(tmx.tmx(str(path), "fr", "en"))
    assert rows[:2] == [(4, "Un mot gras", "A bold word", None), (5, "couleur", "colour", None)]
    assert [row[0] for row in rows] == [4, 5, 8]
    assert rows[2][2] in ("x", "&secret;x")  # the external entity is never fetched
    with pytest.raises(UserError, match=r"a.tmx:1: no unit holds both 'ko' and 'en'"):
        list(tmx.tmx(str(path), "ko", "en"))
    path.write_text(TMX[:300])
    with pytest.raises(UserError, match=r"a.tmx:\d+: not whole XML"):
        list(tmx.tmx(str(path), "fr", "en"))


ROWS = [("_File", "_Fichier"), ("one file", "un fichier"), ("%d files", "%d fichiers")]


def texts(rows: list[Row]) -> list[tuple[str, str]]:
    decoded = [
        (s.decode() if isinstance(s, bytes) else s, t.decode() if isinstance(t, bytes) else t) for _, s, t, _ in rows
    ]
    return [(str(source), str(target)) for source, target in decoded if target]


@pytest.mark.parametrize("charset", ["UTF-8", "ISO-8859-1"])
def test_mo(tmp_path: Path, charset: str) -> None:
    path = compiled(tmp_path / "a.mo", PO.replace("un fichier", "un été"), charset)
    assert sorted(texts(list(catalog.mo(str(path))))) == sorted([ROWS[0], ("one file", "un été"), ROWS[2]])
    turned = list(catalog.mo(str(path), turned=True))
    assert ("_Fichier", "_File") in [(s.decode(), t.decode()) for _, s, t, _ in turned]  # type: ignore[union-attr]


def test_mo_with_one_plural_form_gives_it_to_the_plural(tmp_path: Path) -> None:
    path = compiled(tmp_path / "a.mo", PO.replace('msgstr[1] "%d fichiers"\n', ""))
    assert ("%d files", "un fichier") in texts(list(catalog.mo(str(path))))
    assert "one file" not in dict(texts(list(catalog.mo(str(path)))))


def test_mo_that_is_none(tmp_path: Path) -> None:
    path = compiled(tmp_path / "a.mo", PO)
    whole = path.read_bytes()
    for broken in (b"", b"hello", whole[:40], whole[:-30]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a.mo: not a whole .mo catalog"):
            list(catalog.mo(str(path)))


def test_po(tmp_path: Path) -> None:
    path = tmp_path / "a.po"
    path.write_text(PO.replace("CHARSET", "UTF-8"))
    assert [row for row in texts(list(catalog.po(str(path))))] == ROWS
    path.write_bytes(PO.encode().replace(b"Fichier", b"\xe9"))
    with pytest.raises(UserError, match=r"a.po: not a readable UTF-8 PO catalog"):
        list(catalog.po(str(path)))


def test_a_catalog_is_of_a_pair_with_english() -> None:
    values = {"pairs": "fr-de", "corpora": {"*": {"train": [{"format": "po", "path": "a.po"}]}}}
    with pytest.raises(UserError, match=r"data.corpora.fr-de: po catalogs hold en and one other language"):
        parts_of(DataSettings.model_validate(values), "fr-de", "train", "files")


def test_system_catalogs_join_two_languages_on_english(tmp_path: Path) -> None:
    german = PO.replace("_Fichier", "_Datei").replace("un fichier", "eine Datei").replace("%d fichiers", "%d Dateien")
    for language, content in (("fr", PO), ("de_AT", german)):
        (tmp_path / language / "LC_MESSAGES").mkdir(parents=True)
        compiled(tmp_path / language / "LC_MESSAGES" / "tool.mo", content)
    (part,) = catalog.system("fr-de", (str(tmp_path),))
    rows = [(s.decode(), t.decode(), key) for _, s, t, key in part.read() if s]  # type: ignore[union-attr]
    assert sorted(rows) == sorted(
        [
            ("_Fichier", "_Datei", "_File"),
            ("un fichier", "eine Datei", "one file"),
            ("%d fichiers", "%d Dateien", "%d files"),
        ]
    )
    (there,) = catalog.system("en-fr", (str(tmp_path),))
    assert ("_File", "_Fichier") in texts(list(there.read()))
    (back,) = catalog.system("fr-en", (str(tmp_path),))
    assert ("_Fichier", "_File") in texts(list(back.read()))
    assert (back.domain, back.catalog) == ("tool", True)


@pytest.mark.parametrize("nested", [True, False])
def test_huggingface(tmp_path: Path, nested: bool) -> None:
    datasets = pytest.importorskip("datasets")
    cells = [{"fr": "un", "en": "one"}, {"fr": "deux", "en": "two"}]
    rows = [{"translation": cell} for cell in cells] if nested else cells
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "dict"))
    for name in ("plain", "dict"):
        found = list(huggingface.huggingface(str(tmp_path / name), "", ("fr", "en")))
        assert found == [(1, "un", "one", None), (2, "deux", "two", None)]
    with pytest.raises(UserError, match=r"no column 'ko'; the columns are (fr, en|en, fr)"):
        list(huggingface.huggingface(str(tmp_path / "plain"), "", ("ko", "en")))
    with pytest.raises(UserError, match="no split 'dev'; it has train"):
        list(huggingface.huggingface(str(tmp_path / "dict"), "dev", ("fr", "en")))
    with pytest.raises(UserError, match="not a dataset saved by save_to_disk"):
        list(huggingface.huggingface(str(tmp_path), "", ("fr", "en")))


def test_cldr_says_the_same_thing_in_both_languages() -> None:
    rows = list(cldr.cldr("fr", "en"))
    assert len(rows) > 8000
    assert len({number for number, *_ in rows}) == len(rows)
    table = {source: (target, key) for _, source, target, key in rows}
    assert table["Macédoine du Nord"] == ("North Macedonia", "North Macedonia")
    assert all(isinstance(s, str) and isinstance(t, str) and s and t for _, s, t, _ in rows)
    german = {key: source for _, source, _, key in cldr.cldr("de", "fr")}
    assert german["North Macedonia"] == "Nordmazedonien"
    with pytest.raises(UserError, match="language 'xx'"):
        list(cldr.cldr("xx", "en"))


def test_settings_fill_languages_into_paths(tmp_path: Path) -> None:
    (tmp_path / "fr-en.en").write_text("one\n")
    (tmp_path / "fr-en.fr").write_text("un\n")
    place = {
        "format": "moses",
        "path": f"{tmp_path}/{{pair}}.{{source}}",
        "target_path": f"{tmp_path}/{{pair}}.{{target}}",
    }
    settings = DataSettings.model_validate({"pairs": "fr-en", "corpora": {"*": {"train": [place]}}})
    (part,) = parts_of(settings, "fr-en", "train", "files")
    assert list(part.read()) == [(1, b"un", b"one", None)]

"""Every format gives the rows that its file holds, with places; what is wrong with a file is one line."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mnmt_ds.data.readers import catalog, cldr, flores, huggingface, ted, tmx, tsv
from mnmt_ds.data.readers.corpus_part import CorpusPart, ReadRequest, Row
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.data.readers.sources import corpus_parts
from mnmt_ds.data.settings import DataSettings, Files
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


def request(path: Path, **values: Any) -> ReadRequest:
    """A request of one file."""
    return ReadRequest(paths=(str(path),), **{"max_line_bytes": 100, **values})


def compiled(path: Path, text: str, charset: str = "UTF-8") -> Path:
    """A .mo file of a PO text, in a charset."""
    import polib

    polib.pofile(text.replace("CHARSET", charset), encoding=charset).save_as_mofile(str(path))
    return path


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'x\tun\tone\r\ny\t"deux\ttwo\n')
    assert list(tsv.read(request(path, columns=(2, 3)))) == [(1, b"un", b"one", None), (2, b'"deux', b"two", None)]
    path.write_bytes(b"un\tone\ndeux\n")
    with pytest.raises(UserError) as error:
        list(tsv.read(request(path, columns=(1, 2))))
    assert str(error.value).startswith(f"{path}:2: 1 columns where column 2 is wanted")


def test_ted(tmp_path: Path) -> None:
    path = tmp_path / "all_talks_train.tsv"
    path.write_bytes(b"talk_name\ten\tfr\tbs\nt1\ta\tb\t__NULL__\nt1\tc\t_ _ NULL _ _ \td\nt2\te\tf\tg\n")
    assert list(ted.read(request(path, pair="fr-en"))) == [(2, b"b", b"a", None), (4, b"f", b"e", None)]
    assert list(ted.read(request(path, pair="bs-en"))) == [(3, b"d", b"c", None), (4, b"g", b"e", None)]
    with pytest.raises(
        UserError, match=r"all_talks_train.tsv:1: no column 'ko'; the columns are talk_name, en, fr, bs"
    ):
        list(ted.read(request(path, pair="ko-en")))
    path.write_bytes(b"talk_name\ten\tfr\nt1\ta\n")
    with pytest.raises(UserError, match=r"all_talks_train.tsv:2: 2 columns, but the header has 3"):
        list(ted.read(request(path, pair="fr-en")))


def write_flores(root: Path) -> Path:
    for split in ("dev", "devtest"):
        (root / split).mkdir(parents=True)
        for code in ("bos_Latn", "eng_Latn", "zho_Hans", "zho_Hant"):
            (root / split / f"{code}.{split}").write_text(f"{code} {split}\n")
    return root


def test_flores(tmp_path: Path) -> None:
    root = str(write_flores(tmp_path / "flores200_dataset"))
    assert flores.find_file(root, "dev", "bs", {}) == f"{root}/dev/bos_Latn.dev"
    assert flores.find_file(root, "devtest", "en", {}) == f"{root}/devtest/eng_Latn.devtest"
    assert flores.find_file(root, "dev", "zh", {"zh": "zho_Hant"}) == f"{root}/dev/zho_Hant.dev"
    assert flores.find_file(root, "dev", "zho_Hans", {}) == f"{root}/dev/zho_Hans.dev"
    with pytest.raises(
        UserError, match=r"2 files for 'zh' in split dev; say 'codes: \{zh: ...\}', one of zho_Hans.dev"
    ):
        flores.find_file(root, "dev", "zh", {})
    with pytest.raises(UserError, match="0 files for 'ko'"):
        flores.find_file(root, "dev", "ko", {})


def test_flores_by_settings(tmp_path: Path) -> None:
    place = {"format": "flores", "path": str(write_flores(tmp_path / "f"))}
    settings = DataSettings.model_validate({"pairs": "bs-en", "corpora": {"*": {"dev": [place], "test": [place]}}})
    (dev,), (test,) = (corpus_parts(settings, "bs-en", which, "files") for which in ("dev", "test"))
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
    rows = list(tmx.read(request(path, pair="fr-en")))
    assert rows[:2] == [(4, "Un mot gras", "A bold word", None), (5, "couleur", "colour", None)]
    assert [row[0] for row in rows] == [4, 5, 8]
    assert rows[2][2] in ("x", "&secret;x")  # the external entity is never fetched
    with pytest.raises(UserError, match=r"a.tmx:1: no unit holds both 'ko' and 'en'"):
        list(tmx.read(request(path, pair="ko-en")))
    path.write_text(TMX[:300])
    with pytest.raises(UserError, match=r"a.tmx:\d+: not whole XML"):
        list(tmx.read(request(path, pair="fr-en")))


ROWS = [("_File", "_Fichier"), ("one file", "un fichier"), ("%d files", "%d fichiers")]


def texts(rows: list[Row]) -> list[tuple[str, str]]:
    decoded = [
        (s.decode() if isinstance(s, bytes) else s, t.decode() if isinstance(t, bytes) else t) for _, s, t, _ in rows
    ]
    return [(str(source), str(target)) for source, target in decoded if target]


@pytest.mark.parametrize("charset", ["UTF-8", "ISO-8859-1"])
def test_mo(tmp_path: Path, charset: str) -> None:
    path = compiled(tmp_path / "a.mo", PO.replace("un fichier", "un été"), charset)
    assert sorted(texts(list(catalog.read_mo(request(path, pair="en-fr"))))) == sorted(
        [ROWS[0], ("one file", "un été"), ROWS[2]]
    )
    into_english = list(catalog.read_mo(request(path, pair="fr-en")))
    assert ("_Fichier", "_File") in [(s.decode(), t.decode()) for _, s, t, _ in into_english]  # type: ignore[union-attr]


def test_mo_with_one_plural_form_gives_it_to_the_plural(tmp_path: Path) -> None:
    path = compiled(tmp_path / "a.mo", PO.replace('msgstr[1] "%d fichiers"\n', ""))
    assert ("%d files", "un fichier") in texts(list(catalog.read_mo(request(path, pair="en-fr"))))
    assert "one file" not in dict(texts(list(catalog.read_mo(request(path, pair="en-fr")))))


def test_mo_that_is_none(tmp_path: Path) -> None:
    path = compiled(tmp_path / "a.mo", PO)
    whole = path.read_bytes()
    for broken in (b"", b"hello", whole[:40], whole[:-30]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a.mo: not a whole .mo catalog"):
            list(catalog.read_mo(request(path, pair="en-fr")))


def test_po(tmp_path: Path) -> None:
    path = tmp_path / "a.po"
    path.write_text(PO.replace("CHARSET", "UTF-8"))
    assert [row for row in texts(list(catalog.read_po(request(path, pair="en-fr"))))] == ROWS
    path.write_bytes(PO.encode().replace(b"Fichier", b"\xe9"))
    with pytest.raises(UserError, match=r"a.po: not a readable UTF-8 PO catalog"):
        list(catalog.read_po(request(path, pair="en-fr")))


def test_a_catalog_is_of_a_pair_with_english() -> None:
    values = {"pairs": "fr-de", "corpora": {"*": {"train": [{"format": "po", "path": "a.po"}]}}}
    with pytest.raises(UserError, match=r"data.corpora.fr-de: po catalogs hold en and one other language"):
        corpus_parts(DataSettings.model_validate(values), "fr-de", "train", "files")


def system_parts(pair: str, root: Path) -> list[CorpusPart]:
    """The system's catalogs below a directory."""
    settings = DataSettings.model_validate({"pairs": pair, "catalogs": [str(root)]})
    return corpus_parts(settings, pair, "train", "gettext")


def test_system_catalogs_join_two_languages_on_english(tmp_path: Path) -> None:
    german = PO.replace("_Fichier", "_Datei").replace("un fichier", "eine Datei").replace("%d fichiers", "%d Dateien")
    for language, content in (("fr", PO), ("de_AT", german)):
        (tmp_path / language / "LC_MESSAGES").mkdir(parents=True)
        compiled(tmp_path / language / "LC_MESSAGES" / "tool.mo", content)
    (part,) = system_parts("fr-de", tmp_path)
    rows = [(s.decode(), t.decode(), key) for _, s, t, key in part.read() if s]  # type: ignore[union-attr]
    assert sorted(rows) == sorted(
        [
            ("_Fichier", "_Datei", "_File"),
            ("un fichier", "eine Datei", "one file"),
            ("%d fichiers", "%d Dateien", "%d files"),
        ]
    )
    (there,) = system_parts("en-fr", tmp_path)
    assert ("_File", "_Fichier") in texts(list(there.read()))
    (back,) = system_parts("fr-en", tmp_path)
    assert ("_Fichier", "_File") in texts(list(back.read()))
    assert (back.domain, back.catalog) == ("tool", True)


def test_tmx_inline_elements(tmp_path: Path) -> None:
    """Codes of the original format are no words; a text inside them is one of its own."""
    path = tmp_path / "a.tmx"
    units = [
        ('Click <bpt i="1">{\\b </bpt>OK<ept i="1">}</ept>.', 'Auf <bpt i="1">{\\b</bpt>OK<ept i="1">}</ept> klicken.'),
        ('Note<ph x="1">\\fn <sub>Inner.</sub></ph> here', 'Notiz<ph x="1">\\fn <sub>Innen.</sub></ph> hier'),
        ('A <hi>bold</hi> word<!-- c --><ut>x</ut>', 'Ein <hi>fettes <it pos="begin">y</it>Wort</hi>'),
        ('One<ph><sub>a</sub></ph>', 'Eins'),
    ]  # fmt: skip
    body = "".join(
        f'<tu><tuv xml:lang="en"><seg>{a}</seg></tuv><tuv xml:lang="de"><seg>{b}</seg></tuv></tu>\n' for a, b in units
    )
    path.write_text(f'<tmx version="1.4"><header/><body>{body}</body></tmx>')
    assert texts(list(tmx.read(request(path, pair="en-de")))) == [
        ("Click OK.", "Auf OK klicken."), ("Note here", "Notiz hier"), ("Inner.", "Innen."),
        ("A bold word", "Ein fettes Wort"), ("One", "Eins"),
    ]  # fmt: skip


def test_tmx_says_which_variety_it_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.tmx"
    variants = "".join(f'<tuv xml:lang="{code}"><seg>{code}</seg></tuv>' for code in ("en", "zh-TW", "zh-CN", "fr-CA"))
    path.write_text(f"<tmx><body>{f'<tu>{variants}</tu>' * 2}</body></tmx>")
    with caplog.at_level("INFO"):
        assert texts(list(tmx.read(request(path, pair="en-zh")))) == [("en", "zh-CN")] * 2
        assert texts(list(tmx.read(request(path, pair="en-fr")))) == [("en", "fr-CA")] * 2
    assert [line for line in caplog.messages if "zh" in line] == [
        f"{path}: zh is read from zh-cn, not from zh-tw; 'codes' names another"
    ]


def test_huggingface_layouts(tmp_path: Path) -> None:
    """All that datasets writes for translations, and what is no text."""
    datasets = pytest.importorskip("datasets")
    cells = [{"fr": "un", "en": "one"}, {"fr": "deux", "en": "two"}, {"en": "three"}]
    lists = [{"language": list(cell), "translation": list(cell.values())} for cell in cells]
    parts = [[{"language": name, "text": text} for name, text in cell.items()] for cell in cells]
    fixed = datasets.Features({"translation": datasets.Translation(languages=["en", "fr"])})
    variable = datasets.Features({"translation": datasets.TranslationVariableLanguages(languages=["en", "fr"])})
    made = {
        "fixed": datasets.Dataset.from_list([{"translation": cell} for cell in cells[:2]], features=fixed),
        "variable": datasets.Dataset.from_list([{"translation": cell} for cell in lists], features=variable),
        "lists": datasets.Dataset.from_list([{"translation": cell} for cell in lists]),
        "parts": datasets.Dataset.from_list([{"translation": cell} for cell in parts]),
        "columns": datasets.Dataset.from_list([{"fr": None, **cell} for cell in cells]),
    }
    if hasattr(datasets, "Json"):
        json = datasets.Features({"translation": datasets.Json()})
        made["json"] = datasets.Dataset.from_list([{"translation": cell} for cell in cells], features=json)
    wanted = [(1, "one", "un", None), (2, "two", "deux", None), (3, "three", "", None)]
    for name, dataset in made.items():
        dataset.save_to_disk(str(tmp_path / name))
        rows = list(huggingface.read(request(tmp_path / name, pair="en-fr")))
        assert rows == wanted[: len(rows)] and len(rows) == (2 if name == "fixed" else 3), name
        with pytest.raises(UserError, match=r"no column 'ko'; the columns are (en, fr|fr, en)"):
            list(huggingface.read(request(tmp_path / name, pair="en-ko")))
    columns = [{"id": number, "en": "one", "refs": ["un"]} for number in range(3)]
    datasets.Dataset.from_list(columns).save_to_disk(str(tmp_path / "other"))
    for name, held in (("id", "int64"), ("refs", "[Ll]ist")):
        with pytest.raises(UserError, match=rf"other: column '{name}' holds {held}.*, not text"):
            list(huggingface.read(request(tmp_path / "other", pair="en-fr", columns=("en", name))))


@pytest.mark.parametrize("nested", [True, False])
def test_huggingface(tmp_path: Path, nested: bool) -> None:
    datasets = pytest.importorskip("datasets")
    cells = [{"fr": "un", "en": "one"}, {"fr": "deux", "en": "two"}]
    rows = [{"translation": cell} for cell in cells] if nested else cells
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "dict"))
    for name in ("plain", "dict"):
        rows_read = list(huggingface.read(request(tmp_path / name, pair="fr-en")))
        assert rows_read == [(1, "un", "one", None), (2, "deux", "two", None)]
    with pytest.raises(UserError, match=r"no column 'ko'; the columns are (fr, en|en, fr)"):
        list(huggingface.read(request(tmp_path / "plain", pair="ko-en")))
    with pytest.raises(UserError, match="no split 'dev'; it has train"):
        list(huggingface.read(request(tmp_path / "dict", split="dev", pair="fr-en")))
    with pytest.raises(UserError, match="not a dataset saved by save_to_disk"):
        list(huggingface.read(request(tmp_path, pair="fr-en")))


def test_cldr_says_the_same_thing_in_both_languages() -> None:
    rows = list(cldr.read(ReadRequest("fr-en")))
    assert len(rows) > 8000
    assert len({number for number, *_ in rows}) == len(rows)
    table = {source: (target, key) for _, source, target, key in rows}
    assert table["Macédoine du Nord"] == ("North Macedonia", "North Macedonia")
    assert all(isinstance(s, str) and isinstance(t, str) and s and t for _, s, t, _ in rows)
    german = {key: source for _, source, _, key in cldr.read(ReadRequest("de-fr"))}
    assert german["North Macedonia"] == "Nordmazedonien"
    with pytest.raises(UserError, match="language 'xx'"):
        list(cldr.read(ReadRequest("xx-en")))


@pytest.mark.parametrize(
    ("code", "english"),
    [("sr@latin", "engleski"), ("srp_Latn", "engleski"), ("sr", "енглески"), ("bos_Cyrl", "енглески"),
     ("uz@cyrillic", "инглизча"), ("zho_Hant", "英文"), ("zho_Hans", "英语"), ("arb_Arab", "الإنجليزية")],
)  # fmt: skip
def test_cldr_is_in_the_script_that_a_code_names(code: str, english: str) -> None:
    assert cldr._locale(code).languages["en"] == english


def test_cldr_refuses_a_script_that_babel_does_not_have() -> None:
    with pytest.raises(UserError, match=r"language 'be@latin': .* in the script Latin"):
        cldr._locale("be@latin")


def test_settings_fill_languages_into_paths(tmp_path: Path) -> None:
    (tmp_path / "fr-en.en").write_text("one\n")
    (tmp_path / "fr-en.fr").write_text("un\n")
    place = {
        "format": "moses",
        "path": f"{tmp_path}/{{pair}}.{{source}}",
        "target_path": f"{tmp_path}/{{pair}}.{{target}}",
    }
    settings = DataSettings.model_validate({"pairs": "fr-en", "corpora": {"*": {"train": [place]}}})
    (part,) = corpus_parts(settings, "fr-en", "train", "files")
    assert list(part.read()) == [(1, b"un", b"one", None)]


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as error:
        Files.model_validate({"format": "docx", "path": "a"})
    known = [f"'{name}'" for name in READERS]
    assert error.value.errors()[0]["msg"] == f"Input should be {', '.join(known[:-1])} or {known[-1]}"


def test_a_format_of_pairs_is_no_monolingual_text() -> None:
    settings = DataSettings.model_validate({"pairs": "fr-en", "monolingual": {"fr": [{"format": "gettext"}]}})
    with pytest.raises(UserError, match=r"data.monolingual.fr: format gettext is for pairs of languages"):
        corpus_parts(settings, "fr", "mono", "files")

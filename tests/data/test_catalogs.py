"""Gettext catalogs: plural forms by their header, charsets, several roots, scripts of a language, identifiers."""

import gettext
import gzip
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from mnmt_ds.data.readers import catalog, system_catalogs
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.plural_forms import PluralForms, read_plural_forms
from mnmt_ds.data.scripts import script_fraction
from mnmt_ds.errors import UserError

HEADER = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\nPlural-Forms: {}\\n"\n'


def plural_entry(*forms: str, message: str = "%d file") -> str:
    lines = [f'msgstr[{number}] "{form}"' for number, form in enumerate(forms)]
    return "\n".join(["", f'msgid "{message}"', f'msgid_plural "{message}s"', *lines, ""])


def write_po(path: Path, header: str, *entries: str, charset: str = "UTF-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = HEADER.format(header).replace("UTF-8", charset) + "".join(entries)
    path.write_bytes(text.encode("utf-8" if charset == "CHARSET" else charset))
    return path


def write_mo(path: Path, header: str, *entries: str, charset: str = "UTF-8") -> Path:
    import polib

    source = write_po(path.with_suffix(".source"), header, *entries, charset=charset)
    polib.pofile(str(source), encoding=charset).save_as_mofile(str(path))
    source.unlink()
    return path


def sides(rows: list[Row]) -> list[tuple[str, str]]:
    def text(side: object) -> str:
        return side.decode() if isinstance(side, bytes) else str(side)

    return [(text(source), text(target)) for _, source, target, _ in rows]


@pytest.mark.parametrize(
    ("header", "forms"),
    [  # as the languages' teams write them
        ("nplurals=3; plural=(n==1) ? 1 : (n>=2 && n<=4) ? 2 : 0;", (1, 0)),  # sk, GNOME
        ("nplurals=3; plural=(n==1) ? 0 : (n>=2 && n<=4) ? 1 : 2;", (0, 2)),  # sk, KDE
        ("nplurals=4; plural=(n%100==1 ? 1 : n%100==2 ? 2 : n%100==3 || n%100==4 ? 3 : 0);", (1, 0)),  # sl
        (
            "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5;",
            (1, 5),
        ),  # ar
        ("nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n != 0 ? 1 : 2);", (0, 1)),  # lv
        (
            "nplurals=4; plural=n==1? 3 : n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 &&"
            " (n%100<10 || n%100>=20) ? 1 : 2;",
            (3, 2),
        ),  # sr
        ("nplurals=2; plural=n>1;", (0, 1)),  # fr
        ("nplurals=1; plural=0;", (0, 0)),  # ja
        ("nplurals=2; plural=n%10!=1 || n%100==11", (0, 1)),  # is, without a last semicolon
    ],
)  # fmt: skip
def test_forms_of_one_and_of_many(header: str, forms: tuple[int, int]) -> None:
    assert read_plural_forms(f"Language: x\nPlural-Forms: {header}\nX-Generator: y\n") == PluralForms(*forms)


def test_headers_that_name_no_forms() -> None:
    assert read_plural_forms("Language: de\n") == PluralForms(0, 1, named=False)  # what gettext takes
    for expression in ("EXPRESSION", "n==1 ? 0 : 1/0", "n = 1", "n > (1"):
        assert read_plural_forms(f"Plural-Forms: nplurals=2; plural={expression};\n") is None


def test_both_readers_pair_the_forms_that_the_header_selects(tmp_path: Path) -> None:
    header = "nplurals=3; plural=(n==1) ? 1 : (n>=2 && n<=4) ? 2 : 0;"
    entry = plural_entry("%d súborov", "%d súbor", "%d súbory")
    wanted = [("%d file", "%d súbor"), ("%d files", "%d súborov")]
    for path in (write_po(tmp_path / "sk.po", header, entry), write_mo(tmp_path / "sk.mo", header, entry)):
        read = catalog.read_po if path.suffix == ".po" else catalog.read_mo
        assert sides(list(read(ReadRequest(pair="en-sk", paths=(str(path),))))) == wanted
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert sides(list(read(ReadRequest(pair="en-sk", paths=(str(packed),))))) == wanted
    unfilled = write_po(
        tmp_path / "t.po", "nplurals=INTEGER; plural=EXPRESSION;", entry, '\nmsgid "Yes"\nmsgstr "Áno"\n'
    )
    assert sides(list(catalog.read_po(ReadRequest(pair="en-sk", paths=(str(unfilled),))))) == [("Yes", "Áno")]


def test_two_languages_are_joined_at_the_same_number(tmp_path: Path) -> None:
    """Japanese has one form; Slovenian has its general form first."""
    place = "LC_MESSAGES/a.mo"
    write_mo(tmp_path / "ja" / place, "nplurals=1; plural=0;", plural_entry("%d ファイル"))
    write_mo(tmp_path / "fr" / place, "nplurals=2; plural=n>1;", plural_entry("%d fichier", "%d fichiers"))
    header = "nplurals=4; plural=(n%100==1 ? 1 : n%100==2 ? 2 : n%100==3 || n%100==4 ? 3 : 0);"
    write_mo(tmp_path / "sl" / place, header, plural_entry("%d datotek", "%d datoteka", "%d datoteki", "%d datoteke"))

    def joined(pair: str) -> list[tuple[str, str]]:
        (part,) = system_catalogs.locate_system(ReadRequest(pair=pair, catalog_roots=(str(tmp_path),)))
        return sides(list(system_catalogs.read_system(part)))

    assert joined("ja-fr") == [("%d ファイル", "%d fichiers")]
    assert joined("sl-fr") == [("%d datoteka", "%d fichier"), ("%d datotek", "%d fichiers")]


def test_charsets(tmp_path: Path) -> None:
    yes = '\nmsgid "yes"\nmsgstr "že da"\n'
    for language, charset in (("sl", "ISO-8859-2"), ("de", "UTF-8")):
        write_mo(tmp_path / language / "LC_MESSAGES" / "a.mo", "nplurals=2; plural=n>1;", yes, charset=charset)
    (part,) = system_catalogs.locate_system(ReadRequest(pair="sl-de", catalog_roots=(str(tmp_path),)))
    assert sides(list(system_catalogs.read_system(part))) == [("že da", "že da")]
    legacy = write_po(tmp_path / "sl.po", "nplurals=2; plural=n>1;", yes, charset="ISO-8859-2")
    assert sides(list(catalog.read_po(ReadRequest(pair="en-sl", paths=(str(legacy),))))) == [("yes", "že da")]
    template = write_po(tmp_path / "new.po", "nplurals=2; plural=n>1;", yes, charset="CHARSET")
    assert sides(list(catalog.read_po(ReadRequest(pair="en-sl", paths=(str(template),))))) == [("yes", "že da")]


def test_all_roots_are_read(tmp_path: Path) -> None:
    def entry(text: str) -> str:
        return f'\nmsgid "{text}"\nmsgstr "{text} (x)"\n'

    for root, language, name in (
        ("one", "fr", "stray"), ("two", "fr", "large"), ("two", "fr", "stray"), ("one", "be@latin", "a"),
        ("one", "be", "a"), ("two", "uz@Cyrl", "a"), ("one", "zh_CN", "a"), ("two", "zh_TW", "a"), ("one", "pt", "a"),
        ("two", "pt_BR", "a"), ("one", "sr", "a"), ("one", "sr@latin", "a"),
    ):  # fmt: skip
        write_mo(tmp_path / root / language / "LC_MESSAGES" / f"{name}.mo", "nplurals=2; plural=n>1;", entry(root))
    (tmp_path / "three").symlink_to(tmp_path / "one")
    roots = tuple(str(tmp_path / name) for name in ("one", "two", "three", "none"))

    def directories(code: str) -> list[str]:
        parts = system_catalogs.locate_system(ReadRequest(pair=f"{code}-en", catalog_roots=roots))
        return ["/".join(Path(part.paths[0]).parts[-4:-2]) for part in parts]

    assert directories("fr") == directories("fra_Latn") == ["one/fr", "two/fr", "two/fr"]
    assert directories("be") == directories("bel_Cyrl") == ["one/be"] and directories("be_Latn") == ["one/be@latin"]
    assert directories("uz_Cyrl") == ["two/uz@Cyrl"] and directories("uz_Latn") == []
    assert directories("sr") == directories("sr_Cyrl") == ["one/sr"] and directories("sr_Latn") == ["one/sr@latin"]
    assert directories("pt") == ["one/pt"] and directories("pt_BR") == ["two/pt_BR"]
    assert directories("zh") == ["one/zh_CN", "two/zh_TW"] and directories("zh_Hant") == ["two/zh_TW"]
    parts = system_catalogs.locate_system(ReadRequest(pair="fr-be_Latn", catalog_roots=roots))
    assert parts == []  # no catalog of one name


def test_catalogs_of_identifiers_are_told_apart(tmp_path: Path) -> None:
    named = [f'\nmsgid "dialog.title{n}"\nmsgstr "Titre du dialogue {n}"\n' for n in range(12)]
    path = write_mo(tmp_path / "fr" / "LC_MESSAGES" / "a.mo", "nplurals=2; plural=n>1;", *named)
    with pytest.raises(UserError, match=r"a\.mo: its messages are identifiers such as 'dialog\.title0', not en text"):
        list(catalog.read_mo(ReadRequest(pair="en-fr", paths=(str(path),))))
    (part,) = system_catalogs.locate_system(ReadRequest(pair="en-fr", catalog_roots=(str(tmp_path),)))
    assert list(system_catalogs.read_system(part)) == []
    messages = ("File", "Edit", "View", "Help", "Quit", "Save", "Open", "Close", "Undo", "New")
    words = [f'\nmsgid "{word}"\nmsgstr "{word}e"\n' for word in messages]
    english = write_mo(tmp_path / "b.mo", "nplurals=2; plural=n>1;", *words)
    assert len(list(catalog.read_mo(ReadRequest(pair="en-fr", paths=(str(english),))))) == 10


@pytest.mark.parametrize(
    ("code", "text", "wanted"),
    [
        ("uz_Cyrl", "Муқова саҳифаси", 1.0), ("uz", "Муқова", 0.0), ("uz", "Faylni ochish", 1.0),
        ("be_Latn", "Adčyni fajł", 1.0), ("be", "Adčyni", 0.0), ("pa_Arab", "فائل کھولو", 1.0), ("sr", "Datoteka", 1.0),
        ("sr_Cyrl", "Datoteka", 0.0), ("zh_Hant", "檔案", 1.0), ("zh_TW", "檔案", 1.0), ("fra_Latn", "Файл", 0.0),
        ("bo_Tibt", "བོད", 1.0), ("be@latin", "Adčyni fajł", 1.0), ("uz@cyrillic", "Faylni", 0.0),
        ("sr-Cyrl", "Da", 0.0), ("de_DE@euro", "Datei", 1.0), ("sr_RS.UTF-8@latin", "Датотека", 0.0),
    ],
)  # fmt: skip
def test_the_script_that_a_code_names(code: str, text: str, wanted: float) -> None:
    assert script_fraction(text, code) == wanted


SYSTEM = Path("/usr/share/locale")
LANGUAGES = [
    "ar",
    "be",
    "ca",
    "cs",
    "cy",
    "da",
    "de",
    "et",
    "ga",
    "he",
    "hu",
    "id",
    "is",
    "ja",
    "lt",
    "lv",
    "pl",
    "ro",
    "ru",
    "sk",
    "sl",
    "sr",
    "uk",
    "vi",
    "zh_CN",
]


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_systems_catalogs_as_gettext_reads_them(language: str) -> None:
    """Python's own lookup says what stands for one and for a hundred things; msgunfmt counts the messages."""
    paths = sorted((SYSTEM / language / "LC_MESSAGES").glob("*.mo"))
    if not paths:
        pytest.skip(f"{SYSTEM / language}: no catalogs of this language on this machine")
    plurals = 0
    for path in paths:
        try:
            with path.open("rb") as stream:
                judge = gettext.GNUTranslations(stream)
        except UnicodeDecodeError:  # of a catalog whose bytes are not of its charset
            continue
        messages = catalog.mo_messages(str(path))
        texts = {(entry.entry, entry.message): entry.translation for entry in messages}
        for entry, message in texts:
            context, _, ids = entry.rpartition("\4")
            singular, _, plural = ids.partition("\0")
            number = catalog_number(message, singular, plural)
            if not plural:
                wanted = judge.pgettext(context, singular) if context else judge.gettext(singular)
            else:
                plurals += 1
                lookup = (context, singular, plural, number) if context else (singular, plural, number)
                wanted = judge.npgettext(*lookup) if context else judge.ngettext(*lookup)  # type: ignore[arg-type,call-arg]
            assert texts[entry, message] == wanted, f"{path}: {message}"
        if shutil.which("msgunfmt"):
            told = subprocess.run(["msgunfmt", "--no-wrap", path], capture_output=True, text=True, errors="replace")
            data = path.read_bytes()
            order = catalog.MAGIC[data[:4]]
            (revision,) = struct.unpack_from(f"{order}I", data, 4)
            # strings such as %<PRIuMAX> stand in tables of their own, which only GNU's own code reads
            (of_the_system,) = struct.unpack_from(f"{order}I", data, 36) if revision & 0xFFFF else (0,)
            entries = len({entry for entry, _ in texts}) + of_the_system
            assert told.returncode or entries == len(re.findall(r'^msgid (?!""\n(?!"))', told.stdout, re.MULTILINE))
    assert plurals


def catalog_number(message: str, singular: str, plural: str) -> int:
    """A number for which English has just this text."""
    return 100 if plural and message == plural else 1

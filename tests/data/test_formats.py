"""JSON, Parquet, CSV, XLIFF, Qt, Android, NTREX, FLORES+ and Tatoeba, each beside an independent reader."""

# ruff: noqa: E501

import json
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.data.readers import android, csv_table, flores, json_records, ntrex, parquet, qt, tatoeba, tsv, xliff
from mnmt_ds.data.readers.corpus_part import ReadRequest
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.errors import UserError


def request(path: Path, pair: str = "fr-en", **values: Any) -> ReadRequest:
    return ReadRequest(pair=pair, paths=(str(path),), **{"max_line_bytes": 1000, **values})


def sides(rows: Any) -> list[tuple[Any, Any]]:
    return [(source, target) for _, source, target, _ in rows]


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


RECORDS = [{"id": i, "fr": f"numéro «{i}»\n", "en": f'number "{i}", {{x}}', "score": i / 100} for i in range(500)]
EXPECTED = [(record["fr"], record["en"]) for record in RECORDS]


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    lines = written(tmp_path / "a.jsonl", "\ufeff" + "\n".join(json.dumps(record) for record in RECORDS) + "\n\n")
    loaded = [json.loads(line) for line in lines.read_text("utf-8-sig").split("\n") if line]  # the independent reader
    rows = list(json_records.read(request(lines)))
    assert sides(rows) == [(record["fr"], record["en"]) for record in loaded] == EXPECTED
    assert [row[0] for row in rows] == list(range(1, 501))
    for indent in (None, 2):
        array = written(tmp_path / "b.json", " " + json.dumps(RECORDS, indent=indent, ensure_ascii=False) + "\n")
        assert sides(json_records.read(request(array))) == EXPECTED
    assert sides(json_records.read(request(written(tmp_path / "c.json", "[]")))) == []
    nested = [{"translation": {"fr": "un", "en": "one"}, "m": {"s": 2}}, {"m": {"s": 1}, "translation": {"en": "two"}}]
    path = written(tmp_path / "d.jsonl", "\n".join(map(json.dumps, nested)))
    assert sides(json_records.read(request(path))) == [("un", "one"), ("", "two")]
    assert sides(
        json_records.read(request(path, columns=("translation.fr", "translation.en"), min_scores={"m.s": 2}))
    ) == [("un", "one")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"fr": "un"\n', r"a.json:1: not a JSON object on one line"),
        ('{"fr": "un", "en": "one"}\n["un", "one"]\n', r"a.json:2: a list where an object"),
        ('{"fr": "un", "english": "one"}\n', r"a.json: no field 'en'; it has fr, english: say which in 'columns'"),
        ('{"fr": 1, "en": "one"}\n', r"a.json:1: 'fr' holds int, not text"),
        ('[{"fr": "un", "en": "one"}', r"a.json: the JSON array has no end; it is cut short after record 1"),
        ('[{"fr": "un", "en": "one"} {"fr": "x"}]', r"a.json: not a JSON array: '\{' after record 1"),
        ('[{"fr": "un", "en": "one"}, {"fr": ]', r"a.json: record 2 of its array is not JSON"),
        ('[1, 2]', r"a.json:1: a int where an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_json(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(json_records.read(request(written(tmp_path / "a.json", text))))


def test_parquet(tmp_path: Path) -> None:
    import pandas
    import pyarrow
    from pyarrow.parquet import write_table

    path = tmp_path / "a.parquet"
    write_table(pyarrow.Table.from_pylist(RECORDS), path, row_group_size=70)
    frame = pandas.read_parquet(path)  # the independent reader
    assert sides(parquet.read(request(path))) == list(zip(frame["fr"], frame["en"], strict=True)) == EXPECTED
    assert (
        len(list(parquet.read(request(path, min_scores={"score": 2.5})))) == int((frame["score"] >= 2.5).sum()) == 250
    )
    nested = [{"translation": {"fr": text, "en": other, "de": "x"}} for text, other in EXPECTED]
    write_table(pyarrow.Table.from_pylist(nested), path)
    assert sides(parquet.read(request(path))) == EXPECTED
    with pytest.raises(
        UserError, match=r"a.parquet: no field 'ko'; it has (fr, en, de|de, en, fr), translation: say which"
    ):
        list(parquet.read(request(path, "ko-en")))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a.parquet: .*copy it again"):
        list(parquet.read(request(path)))


def test_csv(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "a.csv"
    pandas.DataFrame(RECORDS).to_csv(path, index=False)
    frame = pandas.read_csv(path)  # the independent reader
    rows = list(csv_table.read(request(path)))
    assert sides(rows) == list(zip(frame["fr"], frame["en"], strict=True)) == EXPECTED
    assert [row[0] for row in rows[:3]] == [2, 4, 6]  # each record has a line end in a cell
    assert len(list(csv_table.read(request(path, min_scores={"score": 2.5})))) == 250
    for separator in ";\t|":
        pandas.DataFrame(RECORDS).to_csv(path, index=False, sep=separator)
        assert sides(csv_table.read(request(path))) == EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fr,en\nun,one\ndeux\n", r"a.csv:3: 1 cells, but the header has 2"),
        ("fr,english\n", r"a.csv:1: no column 'en'; the columns are fr, english: say which in 'columns'"),
        ("fr,en,en\n", r"a.csv:1: several columns 'en'"),
        ('fr,en\nun,one\n"deux,two\nx,y\n', r"a.csv:3: not whole CSV .*; a quote is not closed"),
        ('fr,en\n"un" mot,one\n', r"a.csv:2: not whole CSV"),
        ("", r"a.csv:1: no header"),
        ("fr,en\nun,\udcff\n", r"a.csv: not UTF-8"),
    ],
)
def test_what_is_wrong_with_csv(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        list(csv_table.read(request(tmp_path / "a.csv")))


def test_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "a.tsv", "1.07\tun\tone\n1.02\tdeux\ttwo\n\ttrois\tthree\nnan\tquatre\tfour\n")
    asked = request(path, columns=(2, 3), min_scores={1: 1.02})
    with caplog.at_level("INFO"):
        assert sides(tsv.read(asked)) == [(b"un", b"one"), (b"deux", b"two")]
    assert "2 of 4 rows have less than min_scores {1: 1.02}, and are left out" in caplog.text
    with pytest.raises(UserError, match=r"a.tsv:1: column 2 holds 'un', no score; mend 'min_scores'"):
        list(tsv.read(request(path, columns=(2, 3), min_scores={2: 1})))
    with pytest.raises(UserError, match=r"a.tsv:1: 3 columns where column 4 is wanted"):
        list(tsv.read(request(path, columns=(2, 3), min_scores={4: 1})))
    with pytest.raises(UserError, match=r"'min_scores' of a TSV are by columns' numbers from 1, not 'score'"):
        list(tsv.read(request(path, min_scores={"score": 1})))


XLIFF_1 = """<?xml version="1.0" encoding="utf-8"?>
<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2" xmlns:x="urn:x">
<file original="a" source-language="en-US" target-language="fr" datatype="plaintext"><body>
<trans-unit id="1"><source>A <g id="1">bold</g> word<x id="2"/>.</source>
  <target>Un mot <g id="1">gras</g><x id="2"/>.</target>
  <alt-trans><source>no</source><target>non</target></alt-trans></trans-unit>
<group><trans-unit id="2"><source>See <bpt id="1">&lt;a title="<sub>the page</sub>"&gt;</bpt>it<ept id="1">&lt;/a&gt;</ept></source>
  <target state="translated">Voir <bpt id="1">&lt;a title="<sub>la page</sub>"&gt;</bpt>ça<ept id="1">&lt;/a&gt;</ept></target></trans-unit></group>
<trans-unit id="3"><source>Not yet</source></trans-unit>
<trans-unit id="4"><source>Copied</source><target state="needs-translation">Copied</target></trans-unit>
<trans-unit id="5" translate="no"><source>Name</source><target>Name</target></trans-unit>
<trans-unit id="6"><source>One. Two.</source>
  <seg-source><mrk mtype="seg" mid="0">One.</mrk> <mrk mtype="seg" mid="1">Two.</mrk></seg-source>
  <target><mrk mtype="seg" mid="1">Deux.</mrk> <mrk mtype="seg" mid="0">Un.</mrk></target></trans-unit>
</body></file></xliff>
"""
XLIFF_2 = """<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en" trgLang="fr-CA"><file id="f">
<unit id="1"><segment state="translated"><source>Press <pc id="1">OK</pc><ph id="2"/>.</source><target>Appuyez sur <pc id="1">OK</pc><ph id="2"/>.</target></segment>
<ignorable><source> </source></ignorable>
<segment><source>A<cp hex="001B"/>b</source><target>A<cp hex="001B"/>c</target></segment><segment><source>x</source></segment></unit>
<unit id="2" translate="no"><segment><source>no</source><target>non</target></segment></unit>
</file></xliff>
"""


def test_xliff(tmp_path: Path) -> None:
    from translate.storage.xliff import xlifffile

    path = written(tmp_path / "a.xlf", XLIFF_1)
    rows = list(xliff.read(request(path, "en-fr")))
    assert sides(rows) == [
        ("A bold word.", "Un mot gras."), ("See it", "Voir ça"), ("the page", "la page"), ("One.", "Un."),
        ("Two.", "Deux."),
    ]  # fmt: skip
    assert [row[0] for row in rows] == [4, 7, 7, 12, 12]
    assert sides(xliff.read(request(path, "fr-en"))) == [(target, source) for source, target in sides(rows)]
    units = xlifffile.parsefile(str(path)).units  # the independent reader: units, whatever their state
    translated = [unit for unit in units if unit.target and unit.xmlelement.get("translate") != "no"]
    assert len(translated) - 1 == len({row[0] for row in rows})  # it counts a target that needs translation, too
    path = written(tmp_path / "b.xlf", XLIFF_2)
    assert sides(xliff.read(request(path, "en-fr"))) == [("Press OK.", "Appuyez sur OK."), ("A\x1bb", "A\x1bc")]
    with pytest.raises(UserError, match=r"b.xlf:2: from 'en' into 'fr-CA', not de and en; give 'codes'"):
        list(xliff.read(request(path, "de-en")))
    with pytest.raises(UserError, match=r"a.xlf:\d+: not whole XML"):
        list(xliff.read(request(written(tmp_path / "a.xlf", XLIFF_1[:900]), "en-fr")))
    with pytest.raises(UserError, match=r"b.xlf: holds no translated segment"):
        list(xliff.read(request(written(tmp_path / "b.xlf", XLIFF_2.replace("target>", "note>")), "en-fr")))


QT = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="LANGUAGE">
<context><name>Main</name>
<message><source>&amp;Open</source><translation>&amp;Ouvrir</translation></message>
<message><source>Later</source><translation type="unfinished">Plus</translation></message>
<message><source>Gone</source><translation type="vanished">Parti</translation></message>
<message numerus="yes"><source>%n file(s)</source><translation>
  <numerusform>%n un</numerusform><numerusform>%n deux</numerusform><numerusform>%n trois</numerusform></translation></message>
<message><source>Bell<byte value="x7"/></source><translation><lengthvariant>Cloche longue</lengthvariant><lengthvariant>C</lengthvariant></translation></message>
<message><source>Empty</source><translation></translation></message>
</context></TS>
"""


def test_qt(tmp_path: Path) -> None:
    from translate.storage.ts2 import tsfile

    path = written(tmp_path / "a.ts", QT.replace("LANGUAGE", "fr_FR"))
    rows = list(qt.read(request(path, "en-fr")))
    assert sides(rows) == [("&Open", "&Ouvrir"), ("%n file(s)", "%n trois"), ("Bell\x07", "Cloche longue")]
    assert [row[0] for row in rows] == [5, 8, 10]
    assert sides(qt.read(request(path, "fra-eng", codes={"fra": "fr", "eng": "en"})))[0] == ("&Ouvrir", "&Open")
    units = tsfile.parsefile(str(path)).units  # the independent reader
    translated = [unit for unit in units if unit.istranslated() and not unit.isobsolete()]
    assert len(translated) == len(rows) - 1  # it misses a translation of several lengths
    latvian = written(tmp_path / "lv.ts", QT.replace("LANGUAGE", "lv"))
    assert ("%n file(s)", "%n deux") in sides(qt.read(request(latvian, "en-lv")))  # the last form is that of none
    with pytest.raises(UserError, match=r"a.ts: from 'en' into 'fr_FR', not de and en"):
        list(qt.read(request(path, "de-en")))


STRINGS = {
    "values": r"""<resources xmlns:xliff="urn:oasis:names:tc:xliff:document:1.2">
<string name="a">Don\'t   <b>open</b> <xliff:g id="n">%1$s</xliff:g><!-- note --></string>
<string name="only">Only here</string>
<string name="fixed" translatable="false">x</string>
<string name="ref">@string/a</string>
<string-array name="days"><item>Monday</item><item>Tuesday</item></string-array>
<plurals name="files"><item quantity="one">%d file</item><item quantity="other">%d files</item></plurals>
<string name="line">"two  spaces"\nand \u00e9 \ud83d\ude00 \@</string>
</resources>""",
    "values-fr": r"""<resources>
<plurals name="files"><item quantity="one">%d fichier</item><item quantity="many">%d de</item><item quantity="other">%d fichiers</item></plurals>
<string name="line">ligne</string><string name="a">N\'ouvrez pas %1$s</string><string name="ref">@string/a</string>
<string-array name="days"><item>lundi</item><item>mardi</item></string-array>
</resources>""",
}


def test_android(tmp_path: Path) -> None:
    from translate.storage.aresource import AndroidResourceFile

    for name, text in STRINGS.items():
        written(tmp_path / name / "strings.xml", text)
    (tmp_path / "values-land").mkdir()
    (tmp_path / "values-fr" / "other.xml").write_text("<resources/>")
    (located,) = android.locate(request(tmp_path, "en-fr"))
    rows = sides(android.read(located))
    assert rows == [
        ("Don't open %1$s", "N'ouvrez pas %1$s"), ("Monday", "lundi"), ("Tuesday", "mardi"),
        ("%d file", "%d fichier"), ("%d files", "%d fichiers"), ("two  spaces\nand é 😀 @", "ligne"),
    ]  # fmt: skip
    units = AndroidResourceFile.parsefile(str(tmp_path / "values" / "strings.xml")).units  # the independent reader
    texts = [str(unit.target).encode("utf-16", "surrogatepass").decode("utf-16") for unit in units]
    assert texts[-1] == rows[-1][0] and len(texts) == 6  # it reads no arrays, and leaves surrogates apart
    for folder in ("values-b+sr+Latn", "values-pt-rBR", "values-iw", "values-zh-rCN", "values-zh-rTW"):
        written(tmp_path / folder / "strings.xml", STRINGS["values-fr"])
    for pair, folder in (("en-sr_Latn", "values-b+sr+Latn"), ("en-pt", "values-pt-rBR"), ("he-en", "values-iw")):
        paths = android.locate(request(tmp_path, pair))[0].paths
        assert str(tmp_path / folder / "strings.xml") in paths
    with pytest.raises(
        UserError, match=r"2 directories of strings for 'zh' \(there are values-zh-rCN, values-zh-rTW\)"
    ):
        android.locate(request(tmp_path, "en-zh"))
    assert android.locate(request(tmp_path, "en-zh", codes={"zh": "values-zh-rTW"}))
    with pytest.raises(UserError, match=r"no directories of strings for 'ko'"):
        android.locate(request(tmp_path, "ko-en"))


def test_ntrex_and_flores_plus(tmp_path: Path) -> None:
    for name in ("src.eng", "ref.fra", "ref.fra-CA", "ref.zho-CN", "ref.zho-TW", "ref.srp-Cyrl"):
        written(tmp_path / "NTREX" / "NTREX-128" / f"newstest2019-{name}.txt", f"{name}\nx\n")
    (located,) = ntrex.locate(request(tmp_path / "NTREX", "sr-en"))
    assert sides(ntrex.read(located)) == [(b"ref.srp-Cyrl", b"src.eng"), (b"x", b"x")]
    assert ntrex.locate(request(tmp_path / "NTREX", "zh-en", codes={"zh": "zho-TW"}))[0].paths[0].endswith("TW.txt")
    with pytest.raises(UserError, match=r"2 files for 'zh'; say 'codes: \{zh: ...\}', one of zho-CN, zho-TW"):
        ntrex.locate(request(tmp_path / "NTREX", "zh-en"))
    import pyarrow
    from pyarrow.parquet import write_table

    texts = {"eng_Latn": ["one", "two"], "fra_Latn": ["un", "deux"], "nob_Latn": ["en", "to"]}
    records = {code: [{"id": i, "text": text} for i, text in enumerate(lines)] for code, lines in texts.items()}
    (tmp_path / "p" / "dev").mkdir(parents=True)
    for code, rows in records.items():
        written(tmp_path / "j" / "dev" / f"{code}.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows[::-1]))
        write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p" / "dev" / f"{code}.parquet")
        written(tmp_path / "g" / "dev" / f"dev.{code}", "".join(f"{row['text']}\n" for row in rows))
        written(tmp_path / "o" / "dev" / f"{code[:3]}.dev", "".join(f"{row['text']}\n" for row in rows))
    written(tmp_path / "p" / "dev" / "eng_Latn.jsonl", "".join(f"{json.dumps(row)}\n" for row in records["eng_Latn"]))
    for layout in "jpgo":
        for pair, expected in (("fr-en", [("un", "one"), ("deux", "two")]), ("no-en", [("en", "one"), ("to", "two")])):
            (located,) = flores.locate(request(tmp_path / layout, pair, split="dev"))
            rows_read = [
                tuple(s if isinstance(s, str) else s.decode() for s in row) for row in sides(flores.read(located))
            ]
            assert sorted(rows_read) == sorted(expected), layout
    written(tmp_path / "j" / "dev" / "eng_Latn.jsonl", '{"id": 5, "text": "x"}\n')
    with pytest.raises(UserError, match=r"has other sentences than .*eng_Latn.jsonl \(id 0\)"):
        list(flores.read(flores.locate(request(tmp_path / "j", "fr-en", split="dev"))[0]))


def test_tatoeba(tmp_path: Path) -> None:
    sentences = [
        "1\tfra\tun",
        "2\teng\tone",
        "3\tfra\tdeux",
        "4\teng\ttwo",
        "5\tdeu\tzwei",
        "6\teng\tpair",
        "7\tcmn\t二",
    ]
    links = ["1\t2", "2\t1", "3\t4", "3\t5", "6\t3", "9\t3", "7\t4"]
    written(tmp_path / "a" / "sentences.csv", "\n".join(sentences) + "\n")
    written(tmp_path / "a" / "links.csv", "\n".join(links) + "\n")
    (located,) = tatoeba.locate(request(tmp_path / "a"))
    rows = list(tatoeba.read(located))
    texts = {line.split("\t")[0]: line.split("\t")[1:] for line in sentences}  # the independent reader
    linked = {(a, b) for line in links for a, b in (line.split("\t"), line.split("\t")[::-1]) if {a, b} <= set(texts)}
    assert {(texts[a][1], texts[b][1]) for a, b in linked if texts[a][0] == "fra" and texts[b][0] == "eng"} == {
        (source.decode(), target.decode()) for source, target in sides(rows)
    }
    assert [row[0] for row in rows] == [1, 3, 5] and len(rows) == 3
    (chinese,) = tatoeba.locate(request(tmp_path / "a", "zh-en"))
    assert sides(tatoeba.read(chinese)) == [("二".encode(), b"two")]
    written(tmp_path / "b" / "fra_sentences.tsv", "\n".join(sentences[:3:2]) + "\n")
    written(tmp_path / "b" / "eng_sentences_detailed.tsv", "2\teng\tone\tuser\t2010\n4\teng\ttwo\tuser\t2010\n")
    with pytest.raises(UserError, match=r"b: has neither links.csv nor fr-en_links.tsv"):
        tatoeba.locate(request(tmp_path / "b"))
    written(tmp_path / "b" / "eng-fra_links.tsv", "2\t1\n4\t3\n")
    (located,) = tatoeba.locate(request(tmp_path / "b"))
    assert sides(tatoeba.read(located)) == [(b"un", b"one"), (b"deux", b"two")]
    with pytest.raises(UserError, match=r"holds no sentence in 'ko'"):
        list(tatoeba.read(tatoeba.locate(request(tmp_path / "a", "ko-en"))[0]))


def test_every_new_reader_says_in_one_line_that_a_file_is_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7\n\xff\xfe\x00binary\n" * 20)
    for name in ("csv", "json", "parquet", "tmx", "xliff", "qt"):
        with pytest.raises(UserError) as caught:
            list(READERS[name].read(request(tmp_path / "a.pdf")))
        assert str(tmp_path / "a.pdf") in str(caught.value) and "\n" not in str(caught.value), name

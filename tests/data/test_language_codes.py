"""The table of language codes against Babel's data and the code lists of M2M-100 and NLLB-200, and what asks it."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from babel.core import get_global

from mnmt_ds.data.family_languages import M2M100, NLLB200
from mnmt_ds.data.held_out_overlap import LanguageFile, count_overlap
from mnmt_ds.data.held_out_text import HeldOutText
from mnmt_ds.data.language_choice import codes_for, open_questions
from mnmt_ds.data.language_codes import (
    SCRIPT_OF_REGION,
    canonical_language,
    fits,
    may_be_same,
    parse_code,
    possible_languages,
    same_language,
)
from mnmt_ds.data.language_groups import GROUPS, MACROLANGUAGES
from mnmt_ds.data.readers.corpus_part import ReadRequest
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.data.scripts import LANGUAGES_OF_SCRIPT, SCRIPT_CODES, script_fraction
from mnmt_ds.data.worker_pool import process_pool
from mnmt_ds.errors import UserError

OTHERWISE = {"cnr": "sr", "swc": "sw", "quz": "qu", "fuc": "ff", "pbu": "ps"}
"""Where CLDR folds a code into another language's: Montenegrin is one of its own here, and a macrolanguage's code
stands for the member that NLLB-200 has (swh, quy, fuv, pbt)."""
NO_LONGER = {"nbx", "mnk", "fat", "knn"}
"""Codes that Babel 2.16 folds into others, and 2.19 does not, or into another one."""


def test_table_names_each_code_once() -> None:
    codes = GROUPS.replace(";", " ").split()
    assert len(codes) == len({*codes})
    macros = " ".join(macro.partition(":")[0] for macro in MACROLANGUAGES.split(";")).split()
    assert len(macros) == len({*macros})
    for macro in MACROLANGUAGES.split(";"):
        names, _, members = macro.partition(":")
        assert len({canonical_language(name) for name in names.split()}) == 1, names
        assert not {canonical_language(member) for member in members.split()} & {canonical_language(names.split()[0])}


def test_aliases_of_cldr_mean_the_same_here() -> None:
    aliases = {code: target.split("_")[0] for code, target in get_global("language_aliases").items()}
    unlike = {code: target for code, target in aliases.items() if not same_language(code, target)}
    assert {code: target for code, target in unlike.items() if code not in OTHERWISE.keys() | NO_LONGER} == {}
    assert [code for code, target in OTHERWISE.items() if not may_be_same(code, target)] == ["cnr"]


@pytest.mark.parametrize("region", sorted({f"{language}_{region}" for language, region in SCRIPT_OF_REGION}))
def test_countries_imply_the_script_of_cldr(region: str) -> None:
    likely = get_global("likely_subtags").get(region) or get_global("likely_subtags")[region.split("_")[0]]
    assert parse_code(region).implied_script == likely.split("_")[1]


def test_usual_scripts_are_those_of_cldr() -> None:
    likely = get_global("likely_subtags")
    for script, languages in LANGUAGES_OF_SCRIPT.items():
        for language in languages.split():
            if language in likely:  # iso3 codes of rare languages may be missing
                assert SCRIPT_CODES[likely[language].split("_")[1].lower()] == script, language


def test_codes_of_nllb_are_language_and_script() -> None:
    aliases = get_global("language_aliases")
    for code in NLLB200:
        language, script = code.split("_")
        parsed = parse_code(code)
        assert (parsed.script, parsed.region) == (script, "")
        target = aliases.get(language, language).split("_")[0]
        assert language in OTHERWISE or canonical_language(target) == parsed.language, code


def test_codes_of_m2m_are_found_in_nllb_and_back() -> None:
    found = {code: codes_for(code, NLLB200, "x") for code in M2M100}
    assert {code: names for code, names in found.items() if len(names) != 1} == {
        "br": [], "fy": [], "zh": ["zho_Hans", "zho_Hant"],
    }  # fmt: skip
    assert all(codes_for(names[0], M2M100, "x") == [code] for code, names in found.items() if names)


@pytest.mark.parametrize(
    ("first", "second", "same", "may_be"),
    [
        ("eng_Latn", "en_XX", True, True), ("en-GB-oxendict", "eng", True, True), ("iw", "he_IL", True, True),
        ("in", "ind_Latn", True, True), ("ji", "ydd_Hebr", True, True), ("mo", "ron_Latn", True, True),
        ("sh", "srp_Cyrl", True, True), ("sh", "hrv", False, True), ("hbs", "cnr", False, True),
        ("sr", "hr", False, False), ("no", "nob_Latn", True, True), ("no", "nn", False, True),
        ("nb", "nn", False, False), ("no-nyn", "nno", True, True), ("zh", "cmn_Hans", True, True),
        ("zh_TW", "zho_Hans", True, True), ("zh", "yue_Hant", False, True), ("cmn", "yue", False, False),
        ("zh-yue-HK", "yue", True, True), ("zh-min-nan", "nan", True, True), ("ar", "arb", True, True),
        ("ar-EG", "arz", False, True), ("arb", "arz", False, False), ("ar-arz", "arz_Arab", True, True),
        ("fil_PH", "tgl_Latn", True, True), ("ms", "zsm_Latn", True, True), ("ms", "id", False, False),
        ("pt_BR", "pt-PT", True, True), ("sr@latin", "srp_Cyrl", True, True), ("fa", "prs_Arab", True, True),
        ("i-lux", "ltz_Latn", True, True), ("ajp_Arab", "apc_Arab", True, True), ("et", "vro", False, True),
        ("xyz", "xyz_Latn", True, True), ("xyz", "xzz", False, False), ("kur", "ckb_Arab", False, True),
    ],
)  # fmt: skip
def test_what_is_one_language(first: str, second: str, same: bool, may_be: bool) -> None:
    assert same_language(first, second) is same_language(second, first) is same
    assert may_be_same(first, second) is may_be_same(second, first) is may_be
    sentences = np.array([3, 5], np.uint64)
    held_out = HeldOutText({first: sentences}, np.zeros(0, np.uint64))
    assert held_out.in_language(second, np.array([3, 4], np.uint64)).tolist() == [may_be, False]


@pytest.mark.parametrize(
    ("wanted", "codes", "found"),
    [
        ("zh", "zho_Hans zho_Hant yue_Hant", "zho_Hans zho_Hant"), ("zh_HK", "zho_Hans zho_Hant yue_Hant", "zho_Hant"),
        ("zh-Hans", "zh_CN zh_TW", "zh_CN"), ("cmn", "zh yue", "zh"), ("pt", "pt-BR pt-PT", "pt-BR pt-PT"),
        ("pt_BR", "pt-PT", ""), ("por", "pt pt-BR", "pt"), ("sr_Latn", "srp_Cyrl", ""), ("sr", "srp_Cyrl", "srp_Cyrl"),
        ("sr", "srp_Cyrl srp_Latn", "srp_Cyrl srp_Latn"), ("sr@latin", "sr sr_Latn", "sr_Latn"),
        ("ar", "arb_Arab arb_Latn arz_Arab", "arb_Arab"), ("fa", "pes_Arab prs_Arab", "pes_Arab"),
        ("prs", "pes_Arab prs_Arab", "prs_Arab"), ("tw", "aka_Latn twi_Latn", "twi_Latn"),
        ("ak", "aka_Latn twi_Latn", "aka_Latn"),
        ("no", "nob_Latn nno_Latn", "nob_Latn"), ("nn", "no", ""), ("nb", "no", "no"), ("EN", "en eng", "en"),
        ("he", "iw", "iw"), ("tl", "fil", "fil"), ("ko", "kor_Kore", "kor_Kore"), ("kor_Hang", "ko_Kore", "ko_Kore"),
    ],
)  # fmt: skip
def test_which_code_is_meant(wanted: str, codes: str, found: str) -> None:
    assert codes_for(wanted, codes.split(), "x") == found.split()


def test_what_a_macrolanguages_code_takes_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        codes_for("no", ["nob_Latn", "nno_Latn"], "flores/dev")
        codes_for("nob", ["nob_Latn", "nno_Latn"], "flores/dev")
    assert [record.getMessage() for record in caplog.records] == [
        "flores/dev: 'no' is taken as nob_Latn, not as nno_Latn"
    ]


def test_what_codes_leave_open() -> None:
    assert open_questions(["en", "zh_TW", "srp_Cyrl", "nb", "de", "pt"]) == []
    assert open_questions(["zh", "sr", "no", "sh", "pt", "pt_BR"]) == [
        "'zh' does not say Hans or Hant",
        "'sr' does not say Cyrl or Latn",
        "'no' counts as no, and may be nn",
        "'sh' does not say Cyrl or Latn",
        "'sh' counts as sr, and may be bs, cnr, hr",
        "sr and sh are one language",
        "pt and pt_BR are one language",
    ]


def test_held_out_text_of_a_macrolanguage_is_counted_under_its_members(tmp_path: Path) -> None:
    (tmp_path / "held").write_text("Dette er en setning\n", encoding="utf-8")
    (tmp_path / "train").write_text("Noe annet\nDette er en setning\n", encoding="utf-8")
    with process_pool(1) as pool:
        texts = {"no-en.dev": [LanguageFile(tmp_path / "held", "no")]}
        texts |= {f"mono.{code}": [LanguageFile(tmp_path / "train", code)] for code in ("nn", "nob_Latn", "da")}
        counts = count_overlap(pool, texts)
    assert {name: overlap.exact for name, overlap in counts.items()} == {"mono.nn": 1, "mono.nob_Latn": 1, "mono.da": 0}


def test_script_of_a_country() -> None:
    assert script_fraction("ਪੰਜਾਬੀ", "pa") == 1 and script_fraction("پنجابی", "pa_PK") == 1
    assert script_fraction("پنجابی", "pa") == 0 and script_fraction("Монгол", "mn") == 1
    assert script_fraction("ᠮᠣᠩᠭᠣᠯ", "mn_CN") == 1


def _write(path: Path, format_: str, names: tuple[str, str]) -> None:
    rows = [dict(zip(names, row, strict=True)) for row in (("un chat", "a cat"), ("deux chats", "two cats"))]
    if format_ == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    elif format_ == "ted":
        lines = ["talk_name\t" + "\t".join(names), *("x\t" + "\t".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif format_ == "json":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif format_ == "nested":
        path.write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows), encoding="utf-8")
    elif format_ == "parquet":
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.table({name: [row[name] for row in rows] for name in names}), path)
    elif format_ == "tmx":
        units = "".join(
            "<tu>" + "".join(f'<tuv xml:lang="{name}"><seg>{row[name]}</seg></tuv>' for name in names) + "</tu>"
            for row in rows
        )
        path.write_text(f'<tmx version="1.4"><header/><body>{units}</body></tmx>', encoding="utf-8")
    else:
        units = "".join(
            f'<trans-unit id="{i}"><source>{row[names[0]]}</source><target>{row[names[1]]}</target></trans-unit>'
            for i, row in enumerate(rows)
        )
        head = f'<file source-language="{names[0]}" target-language="{names[1]}" original="x" datatype="plaintext">'
        path.write_text(f'<xliff version="1.2">{head}<body>{units}</body></file></xliff>', encoding="utf-8")


@pytest.mark.parametrize("format_", ["csv", "json", "nested", "parquet", "ted", "tmx", "xliff"])
def test_readers_know_a_language_by_its_other_codes(tmp_path: Path, format_: str) -> None:
    _write(tmp_path / "text", format_, ("fra_Latn", "en"))
    reader = READERS["json" if format_ == "nested" else format_]
    request = ReadRequest(pair="fr-eng", paths=(str(tmp_path / "text"),))
    rows = [
        tuple(cell.decode() if isinstance(cell, bytes) else cell for cell in row[1:3]) for row in reader.read(request)
    ]
    assert rows == [("un chat", "a cat"), ("deux chats", "two cats")]
    with pytest.raises(UserError, match="nld"):
        list(reader.read(ReadRequest(pair="nld-eng", paths=(str(tmp_path / "text"),))))


def test_two_columns_of_one_language_are_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "text", "csv", ("zh_CN", "zh_TW"))
    with pytest.raises(UserError, match="'zh' may be zh_CN or zh_TW: say which in 'codes'"):
        list(READERS["csv"].read(ReadRequest(pair="zh-en", paths=(str(tmp_path / "text"),))))
    request = ReadRequest(pair="zh-zh_TW", paths=(str(tmp_path / "text"),), codes={"zh": "zh_CN"})
    assert [row[1] for row in READERS["csv"].read(request)] == ["un chat", "deux chats"]


@pytest.mark.parametrize("field", ["en_id", "en_text", "en_score", "en-url", "english", "en_Text", "en.text", "EN_LEN"])
def test_columns_about_a_language_are_not_its_text(tmp_path: Path, field: str) -> None:
    _write(tmp_path / "text", "csv", ("fr", field))
    with pytest.raises(UserError, match="no column 'en'; the columns are fr, "):
        list(READERS["csv"].read(ReadRequest(pair="fr-en", paths=(str(tmp_path / "text"),))))


@pytest.mark.parametrize("field", ["en_US", "eng_Latn", "en-GB", "en_XX", "EN", "eng", "en_us", "en_Latn_GB", "en-001"])
def test_columns_of_a_language(tmp_path: Path, field: str) -> None:
    _write(tmp_path / "text", "csv", ("fr", field))
    rows = READERS["csv"].read(ReadRequest(pair="fr-en", paths=(str(tmp_path / "text"),)))
    assert [row[2] for row in rows] == ["a cat", "two cats"]


@pytest.mark.parametrize(
    "code", ["", "-", "_", "@", "@latin", ".UTF-8", "a", "en-", "en--x", "-en", "é", "en@", "x-klingon", "日本"]
)
def test_any_text_is_some_code(code: str) -> None:
    parsed = parse_code(code)
    assert same_language(code, code) and may_be_same(code, code) and isinstance(parsed.script, str)
    assert codes_for(code, [code], "x") == [code]
    assert codes_for("en", [code, "en"], "x") == ["en"]


def test_a_name_that_the_recipe_gives_is_taken_as_it_is(tmp_path: Path) -> None:
    _write(tmp_path / "text", "csv", ("eng", "fr"))
    for given in ({"codes": {"en": "english"}}, {"columns": ("fr", "english")}):
        with pytest.raises(UserError, match="no column 'english'"):
            list(READERS["csv"].read(ReadRequest(pair="fr-en", paths=(str(tmp_path / "text"),), **given)))  # type: ignore[arg-type]


def test_fits_is_what_both_codes_say() -> None:
    assert fits("fr-CA", "fr") and fits("fr", "fr-CA") and not fits("fr-CA", "fr-FR")
    assert fits("zh-Hani", "zh_Hant") and not fits("zh_MO", "zh_SG") and fits("en_XX", "en_GB")
    assert sorted(possible_languages("mk")) == ["mk"]

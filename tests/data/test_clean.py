"""Each cleaning rule and each repair, on a row that meets it and on one that just does not."""

from typing import Any

import numpy as np
import pytest

from mnmt_ds.data.cleaning_rules import CleanedBlock, CleaningRules, RowBlock, clean_block, first_failed_rule
from mnmt_ds.data.dedup_keys import hash64, normalise_key
from mnmt_ds.data.settings import CleanSettings
from mnmt_ds.errors import UserError


def rules(**values: Any) -> CleaningRules:
    others = {
        name: values.pop(name)
        for name in ("source", "target", "is_held_out_set", "monolingual", "list_faults")
        if name in values
    }
    return CleaningRules(
        **{"source": "mk", "target": "en", "key_side": 1, "clean": CleanSettings(**values), "seed": 1, **others}
    )


def cleaned(
    source: str | bytes | None, target: str | bytes | None, catalog: bool = False, **values: Any
) -> CleanedBlock:
    return clean_block(RowBlock(("a.mk", "a.en"), 0, catalog, [(7, source, target, None)]), rules(**values))


@pytest.mark.parametrize(
    ("source", "target", "values", "rule"),
    [
        ("Дома", "Home", {}, None),
        ("", "Home", {}, "empty"),
        ("Дома", "", {}, "empty"),
        ("Home", "home", {"min_script": 0}, "copied"),
        ("Home", "home", {"min_script": 0, "copied": "keep"}, None),
        ("а б в", "a b c", {"max_words": 3}, None),
        ("а б в г", "a b c", {"max_words": 3}, "words"),
        ("а б в г", "a b c", {"max_key_words": 3}, None),
        ("а б в", "a b c d", {"max_key_words": 3}, "key words"),
        ("а" * 30, "b" * 31, {"max_characters": 30}, "characters"),
        ("а" * 45, "b" * 15, {"max_ratio": 2}, None),  # (45 + 15) / (15 + 15) = 2
        ("а" * 46, "b" * 15, {"max_ratio": 2}, "ratio"),
        ("Дома %s", "Home %d", {}, "placeholders"),
        ("Дома %1$s", "Home %s", {}, None),
        ("Дома %s", "Home %s", {"placeholders": "any"}, "placeholders"),
        ("Дома %s", "Home %d", {"placeholders": "keep"}, None),
        ("Дома abcdefghi", "Home", {"min_script": 0.3}, None),  # 4 of 13 letters
        ("Дома abcdefghij", "Home", {"min_script": 0.3}, "script"),  # 4 of 14
        ("Дома", "Дома е", {}, "script"),
        ("12:30", "12.30", {}, "no letters"),
        ("12:30", "12.30", {"min_script": 0}, None),
        ("Home", "home", {"is_held_out_set": True}, None),
        ("", "home", {"is_held_out_set": True}, None),
        ("Дома", "Дома", {"monolingual": True, "target": "mk"}, None),
    ],
)
def test_rules(source: str, target: str, values: dict[str, Any], rule: str | None) -> None:
    assert first_failed_rule(source, target, rules(**values)) == rule


@pytest.mark.parametrize(
    ("source", "target", "kept", "repair"),
    [
        ("_Датотека", "_File", "Датотека\tFile", "accelerator"),
        ("Датотека (_F)", "_File", "Датотека\tFile", "accelerator"),
        ("&Датотека", "F&ile", "Датотека\tFile", "accelerator"),
        ("Из~лез", "~Exit", "Излез\tExit", "accelerator"),
        ("Отвори log_file", "Open log_file", "Отвори log_file\tOpen log_file", None),
        ("log_fileот е", "the log_file is", "log_fileот е\tthe log_file is", None),
        ("лош pam_*_item()", "bad pam_*_item()", "лош pam_*_item()\tbad pam_*_item()", None),
        ("Дома &amp; куќа", "Home and house", "Дома &amp; куќа\tHome and house", "HTML entity"),
        ("а_б_в", "x", "а_б_в\tx", None),
        ("Датотека", "Stock label|File", "Датотека\tFile", "context prefix"),
        ("|N|нов ПИН", "|N|new PIN", "нов ПИН\tnew PIN", "context prefix"),
        ("да|не", "yes|no", "да|не\tyes|no", None),
        ("прв\nред", "first\nline", "прв ред\tfirst line", None),
    ],
)
def test_catalog_marks(source: str, target: str, kept: str, repair: str | None) -> None:
    block = cleaned(source, target, catalog=True)
    assert f"{block.source.decode()[:-1]}\t{block.target.decode()[:-1]}" == kept
    assert dict(block.counts) == {"read": 1, "clean": 1, **({repair: 1} if repair else {})}


def test_marks_stay_outside_catalogs() -> None:
    assert cleaned("_Датотека", "_File").target == b"_File\n"


@pytest.mark.parametrize(
    ("raw", "kept", "kind"),
    [
        (b"two words\r", "two words", "CRLF line end"),
        (b"two\rwords", "two words", "line separator inside"),
        (b"two\x0bwords", "two words", "line separator inside"),
        (b"two\x0cwords", "two words", "line separator inside"),
        ("two\x85words".encode(), "two words", "line separator inside"),
        ("two\u2028words".encode(), "two words", "line separator inside"),
        ("two\u2029words".encode(), "two words", "line separator inside"),
        (b"two\x1cwords", "two words", "line separator inside"),
        (b"two\x07words", "two words", "control character"),
        ("two\ufeff words".encode(), "two words", "control character"),
        ("two\u00a0 words".encode(), "two words", None),
        (b"two\twords", "two words", None),
    ],
)
def test_repairs(raw: bytes, kept: str, kind: str | None) -> None:
    block = cleaned("Дома овде", raw)
    assert block.target == f"{kept}\n".encode()
    assert dict(block.counts) == {"read": 1, "clean": 1, **({kind: 1} if kind else {})}
    assert block.places == ({kind: "a.mk:7"} if kind else {})


def test_byte_order_mark_goes_at_the_start_of_a_file() -> None:
    block = RowBlock(("a.mk", "a.en"), 0, False, [(1, "\ufeffДома".encode(), b"\xef\xbb\xbfHome", None)])
    block = clean_block(block, rules())
    assert (block.source, block.target) == ("Дома\n".encode(), b"Home\n")
    assert block.counts["byte order mark"] == 1


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"caf\xe9", "a.en:7: byte 4 (0xe9) is not UTF-8"),
        (b"a\x00b", "a.en:7: a NUL byte at character 2"),
        (b"x" * 101, "a.en:7: a line of more than 100 bytes"),
        (None, "a.en:7: a line of more than 100 bytes"),
    ],
)
def test_bad_lines(raw: bytes | None, what: str) -> None:
    with pytest.raises(UserError) as error:
        cleaned("Дома", raw, max_line_bytes=100)
    assert str(error.value).startswith(what)
    assert "\n" not in str(error.value)
    dropped = cleaned("Дома", raw, max_line_bytes=100, bad_lines="drop")
    assert dict(dropped.counts) == {"read": 1, "bad line": 1, "clean": 0}
    assert dropped.source == dropped.target == b""
    listed = cleaned("Дома", raw, max_line_bytes=100, list_faults=True)
    assert len(listed.faults) == 1
    assert listed.faults[0].startswith(what)


def test_hashes_are_of_the_key_and_of_both_sides() -> None:
    block = cleaned("Дома 1", "Home 1")
    np.testing.assert_array_equal(block.key, [hash64(normalise_key("home"), 1)])
    np.testing.assert_array_equal(block.pair, [hash64("Дома 1\nHome 1")])
    with_key = clean_block(RowBlock(("a",), 0, False, [(1, "Дома", "Zuhause", "home!")]), rules(target="de"))
    np.testing.assert_array_equal(with_key.key, block.key)


def test_lone_surrogates_are_control_characters() -> None:
    block = cleaned("Дома", "Home \ud800 now")
    assert (block.target, block.counts["control character"]) == (b"Home now\n", 1)


def test_unicode_is_composed() -> None:
    assert cleaned("Дома", "cafe\u0301").target == "café\n".encode()
    assert cleaned("Дома", "cafe\u0301", unicode="keep").target == "cafe\u0301\n".encode()

"""The language check: what it reports, what it drops on demand, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("py3langid")
pytest.importorskip("lingua")

from mnmt_ds.cli.main import main
from mnmt_ds.data import language_check, language_identifiers
from mnmt_ds.data.cleaning_rules import CleaningRules, first_failed_rule
from mnmt_ds.data.language_check import (
    are_close,
    check_languages,
    count_languages,
    is_in_other_language,
    judge,
    language_lines,
)
from mnmt_ds.data.language_identifiers import is_known
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.preview import preview
from mnmt_ds.data.settings import CleanSettings
from mnmt_ds.data.validate import validate
from mnmt_ds.errors import UserError
from mnmt_ds.json_files import read_json

GERMAN = [
    "Die alten Häuser stehen seit hundert Jahren an derselben Straße.",
    "Am Abend liest der Lehrer den Kindern eine lange Geschichte vor.",
    "Zwischen den Bergen fließt ein schmaler Fluss mit kaltem Wasser.",
    "Niemand weiß genau, warum der Zug heute so spät gekommen ist.",
]
ENGLISH = [
    "The old houses have been standing in the same street for a hundred years.",
    "In the evening the teacher reads a long story to the children.",
    "Between the mountains there flows a narrow river with cold water.",
    "Nobody knows exactly why the train has come so late today.",
]
FRENCH = "Personne ne sait pourquoi le train est arrivé si tard aujourd'hui."


@pytest.mark.parametrize(
    ("text", "language", "verdict"),
    [
        (GERMAN[0], "de", "same"), (GERMAN[0], "deu_Latn", "same"), (GERMAN[0], "en", "other"),
        ("Die Datei", "en", "short"), (FRENCH, "de", "other"), (FRENCH, "xyz", "other"),
        ("Ovo je mali primjer teksta na našem jeziku, koji nije dug.", "sr_Latn", "close"),
        ("Det er ikke så lenge siden de gamle husene ble bygget her.", "nb", "same"),
        ("Det er ikke så lenge siden de gamle husene ble bygget her.", "nn", "same"),
        ("Ini adalah contoh kalimat yang tidak terlalu panjang untuk dibaca.", "ms", "close"),
        ("这些老房子在同一条街上已经有一百年了。", "zh_Hans", "same"),
        ("这些老房子在同一条街上已经有一百年了。", "ja", "other"),
        ("1234 5678 9012 3456 7890 ---- 1234 5678", "en", "short"),
    ],
)  # fmt: skip
def test_verdicts(text: str, language: str, verdict: str) -> None:
    assert judge(text, language, "py3langid")[0] == verdict


def test_close_languages_have_one_code_each() -> None:
    groups = [group.split() for group in language_check._CLOSE]
    assert all(
        len(group) > 1 and group == [language_check.canonical_language(code) for code in group] for group in groups
    )
    assert are_close("hrv_Latn", "sr@latin") and are_close("ind", "zsm_Latn") and not are_close("de", "en")


def test_what_the_identifier_does_not_know_is_not_judged() -> None:
    assert count_languages([FRENCH], "qaa", "py3langid") is None
    assert "languages that py3langid does not know: qaa" in language_lines(
        {"qaa-en.train": [None, [*_counts("en")]]}, "py3langid"
    )


def _counts(language: str) -> language_check.LanguageCounts:
    counts = count_languages([*ENGLISH, FRENCH, FRENCH, FRENCH], language, "py3langid")
    assert counts is not None
    return counts


def test_counts_name_what_was_found() -> None:
    counts = _counts("en")
    assert (counts.lines, counts.other, counts.close, counts.unsure) == (7, 3, 0, 0)
    assert counts.identified == {"fr": 3} and counts.examples == [f"fr: {FRENCH}"] * 2
    (line,) = language_lines({"mono.en": [counts]}, "py3langid")
    assert line.startswith(
        "mono.en, en: 42.9% of 7 lines seem to be in another language by py3langid (fr 3; such as 'fr: Personne"
    )
    close = counts._replace(language="hr", other=1, close=3, identified={"bs": 3, "en": 1})
    (line,) = language_lines({"mono.hr": [close]}, "py3langid")
    assert line.startswith(
        "mono.hr, hr: 42.9% of 7 lines are taken for a close language by py3langid (bs 3, en 1), which"
    )
    (line,) = language_lines({"mono.hr": [close._replace(close=1)]}, "py3langid")
    assert line == "languages: no text has 2% of lines that seem to be in another one (at most 14.3%, by py3langid)"


@pytest.fixture
def corpus(tmp_path: Path, settings_of: Callable[..., Any]) -> Callable[..., Any]:
    """Settings of a pair, of whose German side every fifth line is French or English."""

    def make(**clean: Any) -> Any:
        rows = [(f"{GERMAN[i % 4]} {_word(i)}", f"{ENGLISH[i % 4]} {_word(i)}") for i in range(80)]
        rows += [(f"{FRENCH} {_word(i)}", f"{ENGLISH[3]} {_word(i)} so") for i in range(20)]
        text = "".join(f"{source}\t{target}\n" for source, target in rows)
        (tmp_path / "text.tsv").write_text(text, encoding="utf-8")
        files = [{"format": "tsv", "path": str(tmp_path / "text.tsv"), **({"clean": clean} if clean else {})}]
        return settings_of(pairs=["de-en"], corpora={"de-en": {"train": files}})

    return make


def _word(number: int) -> str:
    return "".join(chr(ord("b") + int(digit)) for digit in str(number))


def test_prepare_reports_and_keeps(corpus: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    directory = prepare(corpus(), processes=1).parent
    output = capsys.readouterr().out
    assert "de-en.train, de: " in output and "seem to be in another language by py3langid (fr " in output
    assert "de-en.train, en: " not in output
    report = read_json(directory / "report.json")
    assert "language" not in report["pairs"]["de-en"]["dropped"] and report["pairs"]["de-en"]["read"] == 100
    counts = report["language_check"]["de-en.train"]
    assert counts[0][4] > 10 and counts[1][4] == 0
    assert "| de-en.train | de |" in (directory / "report.md").read_text(encoding="utf-8")


def test_dropping_is_on_demand_and_counted(corpus: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    settings = corpus(language="drop")
    (shown,) = preview(settings, 1)
    assert shown.counts["language"] == 20 and shown.languages is not None
    assert [counts.other for counts in shown.languages["text.tsv"] if counts] == [0, 0]
    assert any(example.kind == "language" and example.source.startswith("Personne") for example in shown.examples)
    report = read_json(prepare(settings, processes=1).parent / "report.json")
    assert report["pairs"]["de-en"]["dropped"] == {"language": 20}
    assert (
        "languages: no text has 2% of lines that seem to be in another one (at most 0.0%, by py3langid)"
        in capsys.readouterr().out
    )


def test_what_drops_is_either_side_and_no_held_out_set() -> None:
    clean = CleanSettings(language="drop", min_script=0)
    rules = CleaningRules("de", "en", 1, clean, 1)
    assert first_failed_rule(GERMAN[0], ENGLISH[0], rules) is None
    assert first_failed_rule(FRENCH, ENGLISH[0], rules) == first_failed_rule(GERMAN[0], FRENCH, rules) == "language"
    assert first_failed_rule(FRENCH, ENGLISH[0], rules._replace(is_held_out_set=True)) is None
    assert first_failed_rule(FRENCH, ENGLISH[0], rules._replace(clean=CleanSettings(min_script=0))) is None
    alone = rules._replace(target="de", monolingual=True)
    assert (
        first_failed_rule(FRENCH, FRENCH, alone) == "language"
        and first_failed_rule(GERMAN[0], GERMAN[0], alone) is None
    )


def test_the_preview_shows_languages(
    corpus: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    recipe, page = tmp_path / "recipe.yaml", tmp_path / "preview.html"
    recipe.write_text(yaml.safe_dump({"data": corpus().model_dump(mode="json")}))
    assert main(["prepare", str(recipe), "--preview", str(page), "--processes", "1"]) == 0
    html = page.read_text(encoding="utf-8")
    assert "de-en text.tsv" in html
    assert (
        "de-en text.tsv, de: 20.0% of 100 lines seem to be in another language by py3langid (fr 20;"
        in capsys.readouterr().out
    )
    assert "Which languages the text seems to be in" in html and "fr 20" in html and "fr: Personne ne sait" in html


@pytest.mark.parametrize(("identifier", "extra"), [("py3langid", "langid"), ("lingua", "lingua")])
def test_without_the_identifier(
    identifier: Any, extra: str, corpus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (language_check, language_identifiers):
        monkeypatch.setattr(module, "identifier_version", lambda identifier: None)
    assert check_languages({}, identifier) is None
    not_checked = f"languages not checked; pip install 'mnmt_ds[{extra}]' ({identifier}) checks them"
    assert language_lines(None, identifier) == [not_checked]
    settings = corpus(language="drop")
    clean = settings.clean.model_copy(update={"language_identifier": identifier})
    settings = settings.model_copy(update={"clean": clean})
    message = f"clean.language: drop needs the package '{identifier}.*'; pip install 'mnmt_ds.{extra}.'"
    with pytest.raises(UserError, match=message):
        prepare(settings, processes=1)
    assert any(identifier in fault for fault in validate(settings, processes=1))


GREEK = "Τα παλιά σπίτια βρίσκονται στον ίδιο δρόμο εδώ και εκατό χρόνια."
THAI = "บ้านเก่าเหล่านี้ตั้งอยู่บนถนนเดียวกันมาเป็นเวลาร้อยปีแล้ว"


def test_lingua_reports_and_drops(
    tmp_path: Path, settings_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Text whose letters alone say its language: lingua reads no model for it. Reports name who was asked."""
    rows = [(f"{GREEK} {_word(i)}", f"{THAI} {_word(i)}") for i in range(80)]
    rows += [(f"{THAI} {_word(i)} {_word(i)}", f"{THAI} {_word(i)} {_word(i)}.") for i in range(20)]
    (tmp_path / "text.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    corpora = {"el-th": {"train": [{"format": "tsv", "path": str(tmp_path / "text.tsv")}]}}
    clean = {"min_script": 0, "language_identifier": "lingua"}
    common = dict(pairs=["el-th"], corpora=corpora, split={"key_language": "el", "dev": 10, "test": 10})
    directory = prepare(settings_of(**common, clean=clean), processes=1).parent
    output = capsys.readouterr().out
    assert "el-th.train, el: " in output and "lines seem to be in another language by lingua (th " in output
    assert "Languages by lingua, of up to" in (directory / "report.md").read_text(encoding="utf-8")
    report = read_json(
        prepare(settings_of(**common, clean={**clean, "language": "drop"}), processes=1).parent / "report.json"
    )
    assert report["pairs"]["el-th"]["dropped"] == {"language": 20}
    (shown,) = preview(settings_of(**common, clean={**clean, "language": "drop"}), 1)
    assert shown.identifier == "lingua" and shown.counts["language"] == 20


def test_what_lingua_does_not_know() -> None:
    """Norwegian is one of its languages under any code; Galician and Amharic are not, and so are not judged."""
    known = [code for code in ("nb", "no", "nn", "zh_Hant", "srp_Cyrl", "tl", "gl", "am") if is_known(code, "lingua")]
    assert known == ["nb", "no", "nn", "zh_Hant", "srp_Cyrl", "tl"]
    assert len(language_identifiers.IDENTIFIERS["lingua"].languages()) == 75
    assert not is_in_other_language(GREEK, "gl", "lingua") and count_languages([GREEK], "am", "lingua") is None
    line = language_lines({"gl-en.train": [None, None]}, "lingua")[-1]
    assert line == "languages that lingua does not know: gl, en"


@pytest.mark.slow
def test_verdicts_of_lingua() -> None:
    """Its models of all languages in Latin letters, 1 GB: close languages are close, and never others."""
    cases = [
        (GERMAN[0], "de", "same"), (GERMAN[0], "en", "other"), (FRENCH, "de", "other"), ("Die Datei", "en", "short"),
        ("Ovo je mali primjer teksta na našem jeziku, koji nije dug.", "sr_Latn", "close"),
        ("Det er ikke så lenge siden de gamle husene ble bygget her.", "nb", "same"),
        ("Det er ikke så lenge siden de gamle husene ble bygget her.", "da", "close"),
        ("Ini adalah contoh kalimat yang tidak terlalu panjang untuk dibaca.", "ms", "same"),
        ("这些老房子在同一条街上已经有一百年了。", "zh_Hans", "same"),
        ("1234 5678 9012 3456 7890 ---- 1234 5678", "en", "short"),
    ]  # fmt: skip
    assert [judge(text, language, "lingua")[0] for text, language, _ in cases] == [verdict for *_, verdict in cases]

"""``prepare --preview``: the counts of ``prepare``, with examples that stand where they say; nothing is written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.preview import preview
from mnmt_ds.json_files import read_json
from tests.data.conftest import sentences, translated


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    """Two corpora of a pair: in one a copy and a long line, in the other a placeholder, an entity and a tag."""
    rows = {
        "news": [*((translated(line, "bs"), line) for line in sentences(120)), ("a b", "a b"), ("c " * 300, "d e f g")],
        "software": [
            *((f"{translated(line, 'bs')} %s", f"{line} %s") for line in sentences(40, seed=5)),
            ("dan %s", "day %d"), ("kisa &amp; dan", "rain &amp; day"), ("<b>kuca</b>", "<b>house</b>"),
        ],
    }  # fmt: skip
    files = []
    for name, pairs in rows.items():
        path = tmp_path / f"{name}.tsv"
        path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
        files.append({"format": "tsv", "path": str(path)})
    return {"bs-en": {"train": files}}


def test_the_page_has_prepares_counts_and_examples(texts: Any, settings_of: Any, tmp_path: Path) -> None:
    settings = settings_of(pairs=["bs-en"], corpora=texts)
    recipe, page = tmp_path / "recipe.yaml", tmp_path / "out" / "preview.html"
    recipe.write_text(yaml.safe_dump({"data": settings.model_dump(mode="json")}))
    assert main(["prepare", str(recipe), "--preview", str(page), "--examples", "3"]) == 0
    assert not Path(settings.directory).exists()
    (shown,) = preview(settings, examples=3)
    report = read_json(prepare(settings).parent / "report.json")["pairs"]["bs-en"]
    by_cleaning = {rule: count for rule, count in shown.counts.items() if rule in report["dropped"]}
    assert by_cleaning == {"copied": 1, "words": 1, "placeholders": 1}
    assert (shown.read, report["noticed"]) == (report["read"], {"HTML entity": 1, "markup": 1})
    assert shown.counts["clean"] == shown.read - 3
    html = page.read_text(encoding="utf-8")
    for words in ("dropped: placeholders", "day %d", "software.tsv:41", "noticed: HTML entity", "rain &amp;amp; day"):
        assert words in html, words
    assert sum(example.kind == "clean" for example in shown.examples) == 3
    for example in shown.examples:
        path, _, number = example.place.rpartition(":")
        line = Path(path).read_text(encoding="utf-8").split("\n")[int(number) - 1]
        assert " ".join(line.split("\t")[1].split()) == example.target


def test_a_corpus_has_rules_of_its_own(texts: Any, settings_of: Any) -> None:
    news, software = texts["bs-en"]["train"]
    corpora = {"bs-en": {"train": [
        {**news, "clean": {"max_words": 400, "max_ratio": 100, "copied": "keep"}},
        {**software, "clean": {"placeholders": "any"}},
    ]}}  # fmt: skip
    settings = settings_of(pairs=["bs-en"], corpora=corpora)
    (shown,) = preview(settings)
    assert {rule: shown.counts.get(rule, 0) for rule in ("words", "copied", "placeholders")} == {
        "words": 0, "copied": 0, "placeholders": 41,
    }  # fmt: skip
    assert prepare(settings).exists()
    again = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [news, software]}})
    assert read_json(prepare(again).parent / "report.json")["pairs"]["bs-en"]["dropped"]["words"] == 1  # read anew


def test_hostile_text_is_shown_as_text_and_huge_lines_in_part(
    settings_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, page = tmp_path / "text.tsv", tmp_path / "page.html"
    evil = "<script>alert(1)</script>"
    path.write_text(f"{evil} a\t{evil} b\n{'x' * 500_000}\ty\n", encoding="utf-8")
    settings = settings_of(
        pairs=["bs-en"], corpora={"bs-en": {"train": [{"format": "tsv", "path": str(path)}]}},
        monolingual={"en": [{"format": "text", "path": str(path)}]},
    )  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": settings.model_dump(mode="json")}))
    command = ["prepare", str(recipe), "--processes", "1", "--preview"]
    assert main([*command, str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert" in html and "<script>alert" not in html and len(html) < 100_000
    capsys.readouterr()
    monkeypatch.setattr("mnmt_ds.data.preview.preview", None)  # nothing is read before the page's place is known
    for place, said in ((tmp_path, "is a directory"), (path / "page.html", "not a directory")):
        assert main([*command, str(place)]) == 2
        assert said in capsys.readouterr().err

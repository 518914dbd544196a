"""No held-out sentence is trained on: on any side, in any direction, under any code for a language."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.dedup_keys import normalise_key
from mnmt_ds.data.held_out_overlap import LanguageFile, Overlap, count_overlap
from mnmt_ds.data.language_codes import canonical_language, code_in_pair, key_side
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.validate import validate
from mnmt_ds.data.worker_pool import process_pool
from mnmt_ds.file_integrity import read_checked_json
from mnmt_ds.files import sha256
from tests.data.conftest import sentences, translated

Make = Callable[..., DataSettings]
LANGUAGE = {"de": "de", "fr": "fr", "fra": "fr", "fr_XX": "fr", "fra_Latn": "fr", "en": "en", "eng": "en",
            "eng_Latn": "en", "en_GB": "en", "bs": "bs", "mr": "mr"}  # fmt: skip
"""Language of each code in this file's tests."""
MEANINGS = sentences(300)


def say(meaning: str, code: str) -> str:
    """A sentence in the language of a code."""
    return meaning if LANGUAGE[code] == "en" else translated(meaning, LANGUAGE[code])


def write_tsv(path: Path, codes: tuple[str, ...], meanings: list[str], header: bool = False) -> str:
    """Parallel text, a column a code."""
    rows = [codes] if header else []
    rows += [tuple(say(meaning, code) for code in codes) for meaning in meanings]
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def leaks(directory: str) -> list[tuple[str, str, str]]:
    """Every training sentence that is a held-out sentence of its language: name, language, sentence. By brute force."""
    corpus = Corpus.open(directory)
    held_out: set[tuple[str, str]] = set()
    trained: list[tuple[str, str, str]] = []
    for pair in corpus.pairs:
        for split in corpus.manifest["pairs"][pair]["splits"]:
            for code, texts in zip(pair.split("-"), corpus.split(pair, split).text(), strict=True):
                if split == "train":
                    trained += [(pair, LANGUAGE[code], text) for text in texts]
                else:
                    held_out |= {(LANGUAGE[code], normalise_key(text)) for text in texts}
    for code in corpus.monolingual:
        trained += [(f"mono.{code}", LANGUAGE[code], text) for text in corpus.monolingual_sentences(code).text()]
    assert held_out and trained
    return [row for row in trained if (row[1], normalise_key(row[2])) in held_out]


def meanings_held_out(corpus: Corpus, pair: str, split: str) -> set[tuple[str, ...]]:
    """Rows of a split, as sentences by language in alphabetical order."""
    codes, (sources, targets) = pair.split("-"), corpus.split(pair, split).text()
    order = sorted((0, 1), key=lambda side: LANGUAGE[codes[side]])
    return {tuple(row[side] for side in order) for row in zip(sources, targets, strict=True)}


def counted(output: str) -> str:
    """The line of a command's output that counts held-out text in training text."""
    (line,) = [line for line in output.splitlines() if "held-out sentences in training text" in line]
    return line.partition(": ")[2]


@pytest.mark.parametrize(
    ("pairs", "split"),
    [
        (("de-fr", "fr-de"), {}),
        (("fra-eng", "eng-fra"), {}),
        (("eng_Latn-fra_Latn", "fr-en"), {}),
        (("en_GB-de", "de-eng", "fr_XX-de", "de-fra"), {}),
        (("de-fr", "fr-de"), {"key_language": "fra_Latn"}),
        (("de-fra", "fr_XX-de"), {"key_language": "mr"}),
    ],
)
def test_both_directions_hold_out_the_same_rows_and_train_on_none(
    pairs: tuple[str, ...], split: dict[str, Any], settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpora = {}
    for pair in pairs:
        source, target = pair.split("-")
        path = write_tsv(tmp_path / f"{pair}.tsv", (source, target), MEANINGS)
        corpora[pair] = {"train": [{"format": "tsv", "path": path}]}
    settings = settings_of(pairs=pairs, corpora=corpora, split={"dev": 20, "test": 10, **split})
    prepare(settings, processes=1)
    output = capfd.readouterr()
    assert leaks(settings.directory) == []
    assert counted(output.out).startswith("held-out sentences in training text: 0 exact, 0 normalised; near-duplicates")
    corpus = Corpus.open(settings.directory)
    for name in ("dev", "test"):
        groups: dict[tuple[str, ...], list[set[tuple[str, ...]]]] = {}
        for pair in pairs:
            group = tuple(sorted(LANGUAGE[code] for code in pair.split("-")))
            groups.setdefault(group, []).append(meanings_held_out(corpus, pair, name))
        for rows in groups.values():
            assert len(rows[0]) == {"dev": 20, "test": 10}[name] and all(other == rows[0] for other in rows)
    if len(pairs) == 2:  # what a direction holds out is all that the other loses
        assert [len(corpus.split(pair, "train")) for pair in pairs] == [270, 270]
    key_language = split.get("key_language", "en")
    lines = [line for line in output.err.splitlines() if "split.key_language" in line]
    without = [pair for pair in pairs if LANGUAGE[key_language] not in {LANGUAGE[code] for code in pair.split("-")}]
    assert len(lines) == bool(without)
    if lines:
        assert ("none of the pairs" if len(without) == len(pairs) else ", ".join(without)) in lines[0]


def test_multi_parallel_text_and_monolingual_text(
    settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_tsv(tmp_path / "talks.tsv", ("en", "de", "fr"), MEANINGS, header=True)
    monolingual = {}
    for code in ("de", "fra", "en_GB"):
        (tmp_path / code).write_text("".join(f"{say(m, code).upper()}!\n" for m in MEANINGS), encoding="utf-8")
        monolingual[code] = [{"format": "text", "path": str(tmp_path / code)}]
    settings = settings_of(
        pairs=["en-de", "en-fr", "de-fr", "fr-de"],
        corpora={"*": {"train": [{"format": "ted", "path": path}]}},
        monolingual=monolingual,
    )
    prepare(settings, processes=1)
    output = capfd.readouterr()
    assert leaks(settings.directory) == []
    manifest = json.loads((Path(settings.directory) / "manifest.json").read_text())
    for name, entry in [*manifest["pairs"].items(), *manifest["monolingual"].items()]:
        counts = entry["counts"]
        dropped = sum(counts.get(f"held-out {kind}", 0) for kind in ("key", "source", "target"))
        sizes = (
            [split["sentences"] for split in entry["splits"].values()] if "splits" in entry else [entry["sentences"]]
        )
        assert dropped + sum(sizes) == 300 and dropped > 10, (name, counts)
    assert manifest["pairs"]["en-de"]["counts"]["held-out target"] > 0  # a held-out German sentence of de-fr
    assert "held-out target" in output.out
    report = (Path(settings.directory) / "report.md").read_text()
    assert "held-out target" in report and "Held-out sentences in training text: 0 exact, 0 normalised" in report
    assert (
        json.loads((Path(settings.directory) / "report.json").read_text())["held_out_overlap"]["mono.fra"]["exact"] == 0
    )
    assert validate(settings, processes=1) == []
    assert counted(capfd.readouterr().out) == counted(output.out)


def test_given_sets_are_kept_whole_and_out_of_training(settings_of: Make, tmp_path: Path) -> None:
    given = MEANINGS[:40]
    corpora = {
        "de-fr": {
            "train": [{"format": "tsv", "path": write_tsv(tmp_path / "a.tsv", ("de", "fr"), MEANINGS)}],
            "dev": [{"format": "tsv", "path": write_tsv(tmp_path / "dev.tsv", ("de", "fr"), given[:20])}],
        },
        "mr-fra": {
            "train": [{"format": "tsv", "path": write_tsv(tmp_path / "b.tsv", ("mr", "fra"), MEANINGS)}],
            "test": [{"format": "tsv", "path": write_tsv(tmp_path / "test.tsv", ("mr", "fra"), given[20:])}],
        },
    }
    settings = settings_of(pairs=["de-fr", "mr-fra"], corpora=corpora)
    prepare(settings, processes=1)
    corpus = Corpus.open(settings.directory)
    assert corpus.split("de-fr", "dev").text()[1] == [say(m, "fr") for m in given[:20]]
    assert corpus.split("mr-fra", "test").text()[1] == [say(m, "fr") for m in given[20:]]
    assert leaks(settings.directory) == []
    french = set(corpus.split("de-fr", "train").text()[1]) | set(corpus.split("mr-fra", "train").text()[1])
    assert not french & {say(m, "fr") for m in given} and len(french) > 200


def test_short_frequent_sentences_are_dropped_in_sight(
    settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ "OK" in a given test set costs every row that says it on that side; the count says how many."""
    rows = [f"{say(m, 'de')}\t{say(m, 'en')}" for m in MEANINGS] + [
        f"Gut {i} {m}\tOK!" for i, m in enumerate(MEANINGS[:50])
    ]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "test.tsv").write_text("in Ordnung\tok\n", encoding="utf-8")
    corpora = {"de-en": {"train": [{"format": "tsv", "path": str(tmp_path / "train.tsv")}],
                         "test": [{"format": "tsv", "path": str(tmp_path / "test.tsv")}]}}  # fmt: skip
    settings = settings_of(pairs=["de-en"], corpora=corpora, clean={"min_script": 0, "max_ratio": 50})
    prepare(settings, processes=1)
    header, row = (line.split("  ") for line in capfd.readouterr().out.splitlines()[:2])
    cells = dict(zip([c.strip() for c in header if c.strip()], [c.strip() for c in row if c.strip()], strict=True))
    assert cells["held-out key"] == "50" and cells["train"] == "280"


def old_corpus(settings: DataSettings, pairs: dict[str, list[str]]) -> None:
    """Rewrites a prepared corpus's training text as the rule of earlier versions chose it."""
    root = Path(settings.directory)
    manifest = read_checked_json(root / "manifest.json")
    del manifest["held_out_overlap"]
    for pair, meanings in pairs.items():
        for code, suffix in zip(pair.split("-"), ("src", "tgt"), strict=True):
            path = root / "text" / f"{pair}.train.{suffix}"
            path.unlink()  # it is a link to the output's file
            path.write_text("".join(f"{say(m, code)}\n" for m in meanings), encoding="utf-8")
            manifest["files"][f"text/{path.name}"] = {"sha256": sha256(path), "size": path.stat().st_size}
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_validate_finds_leaks_in_a_corpus_of_an_earlier_version(
    settings_of: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpora = {
        pair: {
            "train": [{"format": "tsv", "path": write_tsv(tmp_path / f"{pair}.tsv", tuple(pair.split("-")), MEANINGS)}]
        }
        for pair in ("de-fr", "fr-de")
    }
    settings = settings_of(pairs=["de-fr", "fr-de"], corpora=corpora)
    prepare(settings, processes=1)
    old_corpus(settings, {"fr-de": MEANINGS})  # 30 of them are dev and test of de-fr
    capfd.readouterr()
    assert len(leaks(settings.directory)) == 60
    (fault,) = validate(settings, processes=1)
    assert fault == (
        f"{settings.directory}: fr-de trains on held-out text: 30 of 300 rows (30 exact, 0 normalised) have a side that"
        " is a dev or test sentence of its language; run mnmt-ds prepare again"
    )
    assert counted(capfd.readouterr().out).startswith("held-out sentences in training text: 30 exact, 0 normalised;")
    assert Corpus.open(settings.directory).pairs == ("de-fr", "fr-de")
    prepare(settings, processes=1)
    assert leaks(settings.directory) == [] and validate(settings, processes=1) == []


def test_text_read_by_an_earlier_version_is_selected_anew(settings_of: Make, tmp_path: Path) -> None:
    """Its cleaned text has no hashes of the sides; catalogs are not read again for them."""
    corpora = {"de-fr": {"train": [{"format": "tsv", "path": write_tsv(tmp_path / "a.tsv", ("de", "fr"), MEANINGS)}]}}
    settings = settings_of(pairs=["de-fr"], corpora=corpora)
    prepare(settings, processes=1)
    hash_before, work = Corpus.open(settings.directory).hash, Path(settings.directory) / "work"
    for directory in (work / "clean.de-fr.train").iterdir():
        record = read_checked_json(directory / "stage.json")
        for name in ("source_key", "target_key"):
            del record["files"][name]
            (directory / name).unlink()
        (directory / "stage.json").write_text(json.dumps(record))
    shutil.rmtree(work / "select.de-fr")
    prepare(settings, processes=1)
    assert Corpus.open(settings.directory).hash == hash_before


def test_near_duplicates_differ_by_at_most_a_word(tmp_path: Path) -> None:
    held = ["the small red house stands by the river", "too few words here", "我们今天去河边看房子"]
    rows = {
        "the small red house stands by the river": "exact",
        "The small RED house stands by the river 7!": "normalised",
        "by the river the small red house stands": "near",
        "the small red house stands by the sea": "near",
        "the small red old house stands by the river": "near",
        "the small house stands by the river": "near",
        "the small old house stands by the sea": "",
        "too few words there": "",
        "我们明天去河边看房子": "near",
        "我们明天去海边看房子": "",
        "": "",
    }
    (tmp_path / "held").write_text("\n".join(held) + "\n", encoding="utf-8")
    (tmp_path / "train").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with process_pool(1) as pool:
        texts = {
            "en-de.dev": [LanguageFile(tmp_path / "held", "eng")],
            "mono.en": [LanguageFile(tmp_path / "train", "en_XX")],
            "mono.dev": [LanguageFile(tmp_path / "train", "dev")],
        }
        counts = count_overlap(pool, texts)
    kinds = list(rows.values())
    expected = Overlap(len(rows), kinds.count("exact"), kinds.count("normalised"), kinds.count("near"))
    assert counts == {"mono.en": expected, "mono.dev": Overlap(len(rows), 0, 0, 0)}


@pytest.mark.parametrize(("first", "second", "kept"), [("no", "nn", False), ("nb", "nn", True)])
def test_a_macrolanguages_held_out_sentences_train_under_no_member(
    moses: Any, settings_of: Any, tmp_path: Path, first: str, second: str, kept: bool
) -> None:
    """Both languages' sides are the same text, and their English is not."""
    foreign, corpora = sentences(120, seed=3), {}
    for language in (first, second):
        paths = [tmp_path / f"{language}.{side}" for side in ("text", "en")]
        paths[0].write_text("".join(f"{line}\n" for line in foreign), encoding="utf-8")
        paths[1].write_text("".join(f"{translated(line, language)} {language}\n" for line in foreign), encoding="utf-8")
        entry = {"format": "moses", "path": str(paths[0]), "target_path": str(paths[1])}
        corpora[f"{language}-en"] = {"train": [entry]}
    settings = settings_of(pairs=list(corpora), corpora=corpora, clean={"min_script": 0})
    directory = prepare(settings, processes=1).parent
    dev = (directory / "text" / f"{first}-en.dev.src").read_text(encoding="utf-8").split("\n")[:-1]
    train = (directory / "text" / f"{second}-en.train.src").read_text(encoding="utf-8").split("\n")
    assert len(dev) > 5 and bool({*dev} & {*train}) is kept
    assert validate(settings, processes=1) == []


@pytest.mark.parametrize(
    ("codes", "canonical"),
    [
        ("en eng eng_Latn en_XX en_US.UTF-8 EN", "en"),
        ("zh zho chi cmn zh_CN zho_Hans zho_Hant zh-Hans zh-cmn", "zh"),
        ("zh-yue yue yue_Hant", "yue"),
        ("sr srp sr@latin sr_Latn srp_Cyrl", "sr"),
        ("pt por pt_BR pt-BR", "pt"),
        ("ar ara arb arb_Arab ar_AR", "ar"),
        ("de deu ger de_DE", "de"),
        ("he heb iw", "he"),
        ("xyz xyz_Latn", "xyz"),
    ],
)
def test_codes_of_one_language(codes: str, canonical: str) -> None:
    assert {code: canonical_language(code) for code in codes.split()} == dict.fromkeys(codes.split(), canonical)


def test_both_directions_have_one_key_side() -> None:
    codes = ["en", "eng", "fr", "fra_Latn", "de", "zh_CN", "zho_Hant", "xyz", "en_GB"]
    draw = random.Random(1)
    for _ in range(200):
        source, target = draw.sample(codes, 2)
        key_language = draw.choice(codes)
        side, back = key_side(source, target, key_language), key_side(target, source, key_language)
        assert (source, target)[side] == (target, source)[back], (source, target, key_language)
    assert key_side("fra", "eng_Latn", "en") == 1 and key_side("fr", "deu", "en") == 1
    assert code_in_pair("fra", "eng_Latn", "en") == "eng_Latn" and code_in_pair("fra", "deu", "en") == "en"

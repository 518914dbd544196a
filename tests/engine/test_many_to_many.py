"""Pairs in both directions in one run: prepared from the same files, trained with teachers, each direction scored."""

import json
from pathlib import Path

from mnmt_ds.batch import EOS
from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings, frame_of
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.methods.lssd import LssdSettings, default_alpha
from mnmt_ds.tracking import read_records
from tests.engine.test_learning import train
from tests.spawn import on_ranks

BOTH = ("bs-en", "en-bs", "fr-en", "en-fr", "bs-fr")


def test_many_to_many(tiny_corpus: Path, tmp_path: Path) -> None:
    """Tags tell directions apart, no held-out English sentence is trained on in any direction, all of it learns."""
    corpora = {}
    for pair in ("bs-en", "fr-en"):
        path = str(tiny_corpus.parent / f"{pair}.tsv")
        corpora[pair] = {"train": [{"format": "tsv", "path": path}]}
        back = "-".join(reversed(pair.split("-")))
        corpora[back] = {"train": [{"format": "tsv", "path": path, "columns": [2, 1]}]}
    rows = [line.split("\t") for line in Path(str(tiny_corpus.parent / "bs-en.tsv")).read_text().splitlines()]
    (tmp_path / "bs-fr.tsv").write_text("".join(f"{row[0]}\t{row[0][::-1]}\n" for row in rows))
    corpora["bs-fr"] = {"train": [{"format": "tsv", "path": str(tmp_path / "bs-fr.tsv")}]}
    settings = {
        "directory": str(tmp_path / "data"), "pairs": BOTH, "corpora": corpora, "clean": {"min_script": 0.0},
        "split": {"dev": 12, "test": 12}, "tokenizer": {"size": 150, "hard_limit": False},
    }  # fmt: skip
    prepare(DataSettings.model_validate(settings), processes=1)
    corpus = Corpus.open(tmp_path / "data")
    held = {
        text for pair in ("bs-en", "fr-en", "en-bs", "en-fr") for split in ("dev", "test")
        for text in corpus.split(pair, split).text()[pair.split("-").index("en")]
    }  # fmt: skip
    for pair in ("bs-en", "fr-en", "en-bs", "en-fr"):
        assert held.isdisjoint(corpus.split(pair, "train").text()[pair.split("-").index("en")])

    sections = {
        "data": {"directory": str(tmp_path / "data"), "pairs": BOTH},
        "method": {"name": "lssd", "variant": "adaptive"},
        "framing": {"encoder_langtok": "tgt"},
        "validation": {"every": 10},
        "train": {"max_steps": 60, "max_epochs": 99, "lr": 1e-2, "warmup_steps": 10},
    }
    assert on_ranks(2, train, str(tmp_path / "data"), str(tmp_path / "run"), sections) == ["", ""]
    valid = [record for record in read_records(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "valid"]
    for pair in BOTH:
        assert valid[-1][f"valid/{pair}/loss"] < valid[0][f"valid/{pair}/loss"]
        assert (tmp_path / "run" / f"best_{pair}" / "model.json").exists()
    assert main(["evaluate", str(tmp_path / "run"), "--jobs", "1", "--beam", "1"]) == 0
    report = json.loads((tmp_path / "run" / "evaluation" / "best.test.json").read_text())
    assert tuple(report["pairs"]) == BOTH
    assert default_alpha(LssdSettings(), BOTH) == 0.6


def test_tags_of_both_directions(tiny_corpus: Path) -> None:
    tokenizer = Corpus.open(tiny_corpus).tokenizer
    into, out = (
        frame_of(FramingSettings(encoder_langtok="tgt"), tokenizer.tag(source), tokenizer.tag(target))
        for source, target in (("bs", "en"), ("en", "bs"))
    )
    assert into.source_prefix == (tokenizer.tag("en"),) and out.source_prefix == (tokenizer.tag("bs"),)
    assert (into.decoder_start, out.decoder_start) == (tokenizer.tag("en"), tokenizer.tag("bs"))
    assert into.source_suffix == out.source_suffix == (EOS,)

"""``bench checks``: the corpus that it makes is one that training takes; and what benchmarks write on a full disk."""

import json
from pathlib import Path

import pytest

from mnmt_ds.bench import checks
from mnmt_ds.bench.publish import publish
from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.errors import file_fault
from tests.small_disk import fill, read_only, small_disk
from tests.tiny import PAIRS, recipe


def test_an_enlarged_corpus_is_a_corpus(tiny_corpus: Path, tmp_path: Path) -> None:
    size = checks.enlarge(tiny_corpus, tmp_path / "data", 1000)
    small, large = Corpus.open(tiny_corpus), Corpus.open(tmp_path / "data")
    large.verify(*large.manifest["files"])
    for pair, count in PAIRS.items():
        split, first = large.split(pair, "train"), small.split(pair, "train")
        assert len(split) == 3 * count and [ids.tolist() for ids in split.pieces(2 * count + 7)] == [
            ids.tolist() for ids in first.pieces(7)
        ]
        assert large.split(pair, "dev").text() == small.split(pair, "dev").text()
    assert size == sum(
        (tmp_path / "data" / "bin" / f"{p}.train.{k}").stat().st_size for p in PAIRS for k in ("bin", "idx")
    )


def test_the_table_has_the_least_of_each_way() -> None:
    ways = {"without": [(2.0, 1.0), (4.0, 3.0)], "with": [(9.0, 9.0), (2.1, 1.1)]}
    result = {
        "starts": ways,
        "saves": ways,
        "first_start": [(3.0, 2.0)],
        "sentences": 10,
        "data_mib": 1,
        "checkpoint_mib": 2,
    }
    lines = checks.table(result).splitlines()
    assert "| 2.000 | 2.100 | +5.0% | 1.000 | 1.100 | +10.0% |" in lines[2]
    assert lines[4] == "| the first start | 2.000 | 3.000 | +50.0% | 1.000 | 2.000 | +100.0% |"


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_the_result_file_that_was_there_stays(kind: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200k") as disk:
        publish("checks", "", {"rounds": 1}, disk / "out.json")
        fill(disk) if kind == "full" else read_only(disk)
        with pytest.raises(OSError) as caught:
            publish("checks", "", {"rounds": 2}, disk / "out.json")
        fault = file_fault(caught.value)
        assert fault is not None and str(fault).startswith(f"{disk}/out.json: ") and len(fault.faults) == 1
        assert json.loads((disk / "out.json").read_text())["rounds"] == 1


@pytest.mark.slow
def test_the_command(tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump(recipe(tiny_corpus, tmp_path / "run")))
    words = ["--sentences", "1000", "--rounds", "1", "--out", str(tmp_path / "out.json"), "--place", str(tmp_path)]
    assert main(["bench", "checks", str(tmp_path / "recipe.yaml"), *words]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["starts"]["with"]) == len(written["saves"]["without"]) == 1 and written["checkpoint_mib"] > 0

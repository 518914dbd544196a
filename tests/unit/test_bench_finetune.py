"""``bench finetune``: the batches that all ways get, what refuses unequal ways, and a small run of all of it."""

import argparse
import json
from pathlib import Path

import pytest

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.bench import finetune, finetune_ways
from mnmt_ds.cli.main import main
from mnmt_ds.errors import UserError


def test_batches_are_framed_as_nllbs_and_full() -> None:
    args = argparse.Namespace(updates=2, batches_per_update=3, max_tokens=256, words=500)
    updates = finetune_ways.random_updates(args)
    assert [len(update) for update in updates] == [3, 3, 3]
    source_tag, target_tag = finetune_ways.TAGS
    for update in updates:
        for batch in update:
            assert batch.divisor == sum(other.tokens for other in update)
            assert batch.target_BT.numel() <= 256 and batch.tokens > 128
            assert (batch.source_BS[:, 0] == source_tag).all() and (batch.decoder_BT[:, 0] == EOS).all()
            assert (batch.target_BT[:, 0] == target_tag).all() and int(batch.target_BT.max()) < 500
            labels = finetune_ways.as_transformers(batch)["labels"]
            assert ((labels == -100) == (batch.target_BT == PAD)).all()


def test_ways_that_compute_something_else_are_refused() -> None:
    rows = [{"way": "trainer", "first_loss": 5.0}, {"way": "ours", "first_loss": 5.001}]
    finetune.check_first_losses(rows, "bf16")
    finetune.check_first_losses([*rows[:1], {"way": "trimmed", "first_loss": 4.0}], "fp32")
    with pytest.raises(UserError, match="losses before the first update differ"):
        finetune.check_first_losses(rows, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_small_run_of_all_ways(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    sizes = ["--width", "64", "--vocabulary", "5000", "--words", "1000", "--updates", "2", "--max-tokens", "256"]
    out = tmp_path / "result.json"
    assert main(["bench", "finetune", *sizes, "--precision", precision, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["way"] for row in rows] == list(finetune.WAYS)
    assert [row["words"] for row in rows] == [5000, 5000, 1000]
    assert rows[0]["speed_ratio"] == rows[0]["memory_ratio"] == 1

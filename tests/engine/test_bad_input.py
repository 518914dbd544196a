"""What a user may get wrong before training: one line that names place and remedy, exit code 2, nothing lost."""

import json
import shutil
from pathlib import Path

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.checkpointing.run_directory import claim
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.errors import UserError
from mnmt_ds.launching.hostfile import read_hostfile
from tests.spawn import on_ranks
from tests.tiny import ROOT, recipe


def test_ds_config_fills_auto_and_leaves_the_rest() -> None:
    config = ds_config.read(ROOT / "ds_configs" / "zero3_offload.json")
    filled = ds_config.resolve(config, TrainSettings(batches_per_update=8, lr=0.5, precision="bf16"), 4, "f.json")
    assert filled["gradient_accumulation_steps"] == 2 and filled["train_batch_size"] == 8
    assert filled["optimizer"]["params"]["lr"] == 0.5 and filled["bf16"]["enabled"] is True
    assert filled["zero_optimization"]["stage"] == 3
    assert filled["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": False}


def test_every_contradiction_is_listed_at_once(tmp_path: Path) -> None:
    config = {"gradient_clipping": 5.0, "optimizer": {"params": {"lr": 1.0}}, "aio": {"block_size": "auto"}}
    with pytest.raises(UserError) as caught:
        ds_config.resolve(config, TrainSettings(), 1, "f.json")
    message = str(caught.value)
    assert len(caught.value.faults) == 3 and all(fault.startswith("f.json: ") for fault in caught.value.faults)
    assert "gradient_clipping is 5.0 there and 1.0 by the recipe" in message
    assert "optimizer.params.lr is 1.0 there and 0.002 by the recipe" in message
    assert "aio.block_size is 'auto' and no recipe key fills it" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot be read"),
        ("", ":1: no host in it"),
        ("a slots=2\nb\n", ":2: 'b' is not of the form HOST slots=N"),
        ("a slots=2\n$(rm -rf x) slots=1\n", ":2: '$(rm -rf x) slots=1' is not of the form"),
        ("a slots=0\n", ":1: 'a slots=0' is not of the form"),
        ("# nodes\na slots=2\na slots=2\n", ":3: host a is listed twice"),
    ],
)
def test_hostfile(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "hosts"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_hostfile(path)
    assert str(caught.value).startswith(str(path)) and expected in str(caught.value)


def test_a_good_hostfile(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# two nodes\nnode-1.cluster slots=8\n\nnode_2 slots=4  # half\n")
    assert read_hostfile(tmp_path / "hosts") == {"node-1.cluster": 8, "node_2": 4}


def dry_run(capfd: pytest.CaptureFixture[str], path: Path, *overrides: str) -> str:
    """What ``mnmt-ds train --dry-run`` says first of a recipe that it must refuse."""
    assert main(["train", str(path), "--dry-run", *overrides]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines and all(line.startswith("mnmt-ds train:") for line in lines), lines
    return lines[0]


@pytest.fixture
def good(tiny_corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe(tiny_corpus, tmp_path / "run")))
    return path


def test_dry_run_of_a_good_recipe(good: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", str(good), "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "fr-en           240       0.5714        240" in out and "all is well" in out
    assert not (tmp_path / "run").exists()


def test_refusals_before_training(
    good: Path, capfd: pytest.CaptureFixture[str], tiny_corpus: Path, tmp_path: Path
) -> None:
    assert "no prepared corpus here; run mnmt-ds prepare" in dry_run(capfd, good, f"data.directory={tmp_path}/none")
    assert "ko-en not prepared there" in dry_run(capfd, good, "data.pairs=[ko-en,fr-en]")
    assert "no training sentence within 3 tokens" in dry_run(capfd, good, "train.max_tokens=3")
    assert "did you mean 'max_tokens'" in dry_run(capfd, good, "train.max_token=3")
    assert "cannot be read" in dry_run(capfd, good, f"deepspeed={tmp_path}/none.json")
    fp16 = dry_run(capfd, good, "train.precision=fp16", f"deepspeed={ROOT}/ds_configs/zero0.json")
    assert "train.precision: fp16 needs ZeRO 1 or more" in fp16 and "zero1.json" in fp16
    assert "override 'train." in dry_run(capfd, good, "train.batches_per_update=3", "train.update_freq=2")


@pytest.mark.parametrize(
    ("override", "refusal"),
    [
        ("pipeline.stages=2", "pipeline: 1 rank(s) cannot form 2 stages; start a multiple of 2"),
        (
            "tensor.vocabulary=2",
            "tensor.vocabulary: 1 rank(s) cannot be vocabulary-parallel by 2; start a multiple of 2",
        ),
    ],
)
def test_one_process_cannot_hold_parts_of_a_model(
    good: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, override: str, refusal: str
) -> None:
    assert main(["train", str(good), override]) == 2
    assert f"mnmt-ds train: {refusal}\n" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train", str(good), "--dry-run", override]) == 0
    printed = capfd.readouterr().out
    assert "training needs a multiple of 2 ranks, this dry run has 1\n" in printed
    assert printed.endswith("; all is well for a start on a multiple of 2 ranks\n")
    assert "give 1 to 4 stages" in dry_run(capfd, good, "pipeline.stages=5")


def test_a_tokenizer_that_is_not_the_datas(
    good: Path, capfd: pytest.CaptureFixture[str], tiny_corpus: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny_corpus, copy, symlinks=True)
    vocabulary = next((copy / "tokenizer").glob("*.json"))
    text = json.loads(vocabulary.read_text())
    text["languages"] = [*text["languages"], "xx"]
    vocabulary.unlink()
    vocabulary.write_text(json.dumps(text))
    line = dry_run(capfd, good, f"data.directory={copy}")
    assert "tokenizer" in line and "prepare" in line


def test_a_used_directory_and_a_locked_one(good: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lock = claim(run)
    with pytest.raises(UserError, match="another run is at work here"):
        claim(run)
    lock.close()
    claim(run).close()
    (run / "metrics.jsonl").write_text('{"kind": "train", "update": 1}\n')
    failures = on_ranks(2, _train_again, str(good))
    assert all("holds a run already; add --resume" in failure for failure in failures)
    assert (run / "metrics.jsonl").read_text() == '{"kind": "train", "update": 1}\n'


def _train_again(path: str) -> str:
    from mnmt_ds.engine.loop import train
    from mnmt_ds.engine.recipe import load_recipe

    try:
        train(load_recipe(Path(path)))
    except UserError as error:
        return str(error)
    return "trained"


def test_ranks_that_cannot_share_an_update(tiny_corpus: Path) -> None:
    with pytest.raises(UserError, match="3 cannot be shared by 2 ranks; use a multiple of 2"):
        ds_config.known_values(TrainSettings(batches_per_update=3), 2)
    assert Corpus.open(tiny_corpus).pairs

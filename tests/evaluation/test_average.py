"""``mnmt-ds average``: each weight is the mean, and the model translates as any other."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.cli.main import main
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.models.weights import describe_model, read_weights, save_model
from tests.evaluation.runs import model_run


def call(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def test_average(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [model_run(tmp_path / name, tiny_corpus, seed) for seed, name in enumerate(("a", "b", "c"))]
    (runs[0] / "best_bs-en").symlink_to("snapshots/7")
    save_model(runs[0] / "average", read_weights(runs[1] / "best"), describe_model(runs[1] / "best"))
    out = tmp_path / "mean"
    assert call("average", out, runs[0], runs[1] / "best", runs[2]) == 0
    assert (
        "the mean of 3 models" in (said := capfd.readouterr().out)
        and "(1 more have the weights of one of these)" in said
    )
    single = [read_weights(run / "best") for run in runs]
    for name, value in read_weights(out).items():
        expected = torch.stack([weights[name].double() for weights in single]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    facts = describe_model(out)
    assert [Path(each["model"]) for each in facts["averaged"]] == [run / "best" for run in runs], "no run's average"
    assert [each["update"] for each in facts["averaged"]] == [7, 7, 7] and facts["pairs"] == ["bs-en", "hi-en", "fr-en"]
    translator = open_translator(out)
    assert translator.tokenizer.hash == facts["tokenizer_hash"]
    source = tmp_path / "in"
    source.write_text("derbo eulbbo\n")
    assert call("translate", out, source, "--pair", "bs-en", "--device", "cpu") == 0
    assert capfd.readouterr().out.strip()


def test_what_cannot_be_averaged(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, other = model_run(tmp_path / "a", tiny_corpus), model_run(tmp_path / "b", tiny_corpus, 1)
    facts = describe_model(other / "best")
    changed = {**facts, "framing": {**facts["framing"], "encoder_langtok": "tgt"}}
    save_model(tmp_path / "framed", read_weights(other / "best"), changed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "none").mkdir()
    cases = {
        (tmp_path / "out", run): "one model has no mean; name several",
        (tmp_path / "out", run, run / "best"): f"{run}, {run}/best: all 2 models are one snapshot, of update 7"
        f" ({(run / 'best').resolve()}); name models of other updates or runs",
        (tmp_path / "out", run, tmp_path / "framed"): f"{tmp_path / 'framed'}: another framing than {run / 'best'}",
        (tmp_path / "full", run, other): "exists and is not empty",
        (tmp_path / "out", run, tmp_path / "none"): f"{tmp_path / 'none'}: holds no model",
    }
    for arguments, message in cases.items():
        assert call("average", *arguments) == 2
        error = capfd.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()

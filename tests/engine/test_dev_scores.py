"""BLEU and chrF while training are what ``evaluate`` finds afterwards; the MFU's FLOPs are those that torch counts."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mnmt_ds.batch import Batch
from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.distributed import ALONE, device
from mnmt_ds.engine.monitoring import dev_scores as dev_scores_module
from mnmt_ds.engine.monitoring.mfu import peak_flops, training_flops
from mnmt_ds.engine.settings import ValidationSettings
from mnmt_ds.engine.students.records import validation_line
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.models.weights import read_weights
from mnmt_ds.tracking import read_records
from tests.engine.test_learning import train
from tests.spawn import on_ranks
from tests.tiny import PAIRS, zero


@pytest.mark.parametrize("stage", [1, 3])
def test_bleu_in_training_is_that_of_evaluate(tiny_corpus: Path, tmp_path: Path, stage: int) -> None:
    run = tmp_path / "run"
    sections = {
        "train": {"max_epochs": 4, "batches_per_update": 2, "lr": 8e-3},
        "validation": {"bleu_every": 2, "select_by": "chrf", "average_k": 2},
        "deepspeed": zero(stage, run),
    }
    assert on_ranks(2, train, str(tiny_corpus), str(run), sections) == ["", ""]
    valid = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "valid"]
    assert ["valid/avg/bleu" in record for record in valid] == [True, True, False, True]
    _check_selection(run, valid)
    assert main(["evaluate", str(run), "--checkpoint", "last", "--split", "dev"]) == 0
    report = json.loads((run / "evaluation" / "last.dev.json").read_text())
    for pair in PAIRS:
        for key in ("bleu", "chrf", "bleu_ceiling", "chrf_ceiling"):
            assert valid[-1][f"valid/{pair}/{key}"] == pytest.approx(report["pairs"][pair][key])
    ceiling = report["macro"]["bleu_ceiling"]
    assert valid[-1]["valid/avg/bleu_ceiling"] == pytest.approx(ceiling)
    assert valid[-1]["valid/avg/chrf"] == pytest.approx(report["macro"]["chrf"]) and report["macro"]["chrf"] > 0


def _check_selection(run: Path, valid: list[dict[str, Any]]) -> None:
    """``best`` is of the best mean chrF, ``average`` the mean of the two best; pairs go by their losses."""
    scored = [(-record["valid/avg/chrf"], record["update"]) for record in valid if "valid/avg/chrf" in record]
    assert os.readlink(run / "best") == f"snapshots/{min(scored)[1]}"
    assert valid[-1]["valid/best/update"] == min(scored)[1]
    chosen = {"average": sorted(scored)[:2]}
    for pair in PAIRS:
        losses = sorted((record[f"valid/{pair}/loss"], record["update"]) for record in valid)
        assert os.readlink(run / f"best_{pair}") == f"snapshots/{losses[0][1]}"
        chosen[f"average_{pair}"] = losses[:2]
    for name, (first, second) in chosen.items():
        one, two = (read_weights(run / "snapshots" / str(update)) for _, update in (first, second))
        for key, value in read_weights(run / name).items():
            assert torch.equal(value, ((one[key].float() + two[key].float()) / 2).to(value.dtype))


def test_sentences_without_a_translation_are_said(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a model that overflows in half precision the beam search gives no hypothesis."""
    real, corpus = dev_scores_module.decode_batch, Corpus.open(tiny_corpus)
    monkeypatch.setattr(dev_scores_module, "decode_batch", lambda *words: [[], *real(*words)[1:]])
    settings = ModelSettings(preset="tiny", d_model=32, ffn=48, heads=2, encoder_layers=1, decoder_layers=1)
    model = initialise(Transformer(settings, corpus.tokenizer.size))
    description = {"framing": FramingSettings().model_dump(mode="json")}
    scored = ValidationSettings(bleu_every=1, bleu_sentences=2, bleu_beam=1, max_tokens=4096)
    dev_scores_module._scores(model, description, corpus, corpus.pairs, scored, ALONE)
    assert "3 sentence(s) have no translation" in caplog.text


def test_the_log_has_the_ceiling_beside_bleu() -> None:
    best = SimpleNamespace(selected=lambda: "best 1.0000 at 5", deficit=lambda: 0.0)
    student: Any = SimpleNamespace(best=best, training_data=SimpleNamespace(pairs=["a-en"]))
    report: Any = SimpleNamespace(update=5, epoch=1.0, dev={"a-en": 1.0, "b-en": 2.5})
    record = {"valid/avg/macro": 1.0, "valid/avg/bleu": 12.345, "valid/avg/bleu_ceiling": 73.1}
    assert " | worst b-en 2.500, best a-en 1.000" in validation_line(student, report, record)
    assert " | BLEU 12.35 (ceiling 73.10)" in validation_line(student, report, record)
    assert "BLEU" not in validation_line(student, report, {"valid/avg/macro": 1.0})


def test_training_flops_are_those_that_torch_counts() -> None:
    settings = ModelSettings(preset="tiny", d_model=32, ffn=48, heads=2, encoder_layers=3, decoder_layers=2, dropout=0)
    model = initialise(Transformer(settings, 101))
    source_BS, target_BT = torch.randint(5, 101, (4, 9)), torch.randint(5, 101, (4, 7))
    batch = Batch(source_BS, target_BT, target_BT, 0, torch.arange(4), 28, 28)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.head(model(source_BS, target_BT).decoder_BTD).sum().backward()
    assert training_flops(settings, 101, batch) == counter.get_total_flops()


def test_no_peak_is_claimed_for_a_device_that_is_not_known() -> None:
    assert peak_flops("fp32") is None
    if device().type == "cpu":
        assert peak_flops("bf16") is None

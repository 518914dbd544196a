"""MULTI-DISTILL and several methods together: losses by hand, thresholds, refusals, one real run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.errors import UserError
from mnmt_ds.models.weights import describe_model, load_model, save_model
from mnmt_ds.objectives.method import Report
from mnmt_ds.objectives.methods import build, check
from mnmt_ds.objectives.multi_distill import MultiDistillSettings
from mnmt_ds.objectives.peers import Facts
from mnmt_ds.objectives.several import SeveralSettings
from tests.unit.test_lssd import PAIRS, context, example, model

DEV = {"bs-en": 2.0, "fr-en": 1.0}


def experts(tmp_path: Path) -> dict[str, str]:
    save_model(tmp_path / "expert", dict(model(2).named_parameters()), {"dev": DEV})
    return dict.fromkeys(PAIRS, str(tmp_path / "expert"))


def test_loss_and_threshold_by_hand(tmp_path: Path) -> None:
    student, teacher, batch = model(1), model(2), example()
    for parameter in teacher.parameters():
        parameter.data.copy_(parameter.data.half())
    settings = MultiDistillSettings.model_validate(
        {"experts": experts(tmp_path), "alpha": 0.7, "temperature": 0.6, "margin": 0.1}
    )
    method = build(settings, context(student, dict(model(2).named_parameters())))
    states = student(batch.source_BS, batch.decoder_BT)
    loss = float(method.score(states, student.head.weight, method.teach(batch)).loss.detach())
    s = (states.decoder_BTD @ student.head.weight.T).double()
    t = (teacher(batch.source_BS, batch.decoder_BT).decoder_BTD @ teacher.head.weight.T).double()
    there = batch.target_BT != 1
    logp, gold = s.log_softmax(-1)[there], batch.target_BT[there]
    ce = -0.9 * logp[torch.arange(len(gold)), gold].sum() - 0.1 * logp.mean(-1).sum()
    kd = -((t / 0.6).softmax(-1) * (s / 0.6).log_softmax(-1))[there].sum()
    assert loss == pytest.approx(float(0.3 * ce + 0.7 * 0.6**2 * kd), rel=1e-5)
    method.on_validated(Report(1, 1.0, {"bs-en": 1.85, "fr-en": 0.95}))  # bs passes 2.0 - 0.1, fr does not pass 0.9
    assert not method.teach(batch).teachers and method.teach(batch._replace(pair=1)).teachers
    part = method.state["experts"]
    part.restore(part.state())
    with pytest.raises(UserError, match="the checkpoint was taught by"):
        part.restore({"passed": {}, "paths": {}})


def test_bad_experts_are_refused(tmp_path: Path) -> None:
    paths = experts(tmp_path)
    facts = Facts(PAIRS, dict.fromkeys(PAIRS, 9), ["student"], [None])
    with pytest.raises(UserError, match="fr-en: one expert a pair"):
        check(MultiDistillSettings.model_validate({"experts": {"bs-en": paths["bs-en"]}}), facts)
    save_model(tmp_path / "mute", {"a": torch.ones(1)}, {})
    mute = MultiDistillSettings.model_validate({"experts": dict.fromkeys(PAIRS, str(tmp_path / "mute"))})
    with pytest.raises(UserError, match=r"mute/model.json: no dev loss of bs-en"):
        build(mute, context(model(1), {}))
    with pytest.raises(ValueError, match="two or more different ones"):
        SeveralSettings.model_validate({"methods": [{"name": "lssd"}]})


def _train(corpus: str, directory: str) -> list[list[dict[str, Any]]]:
    from mnmt_ds.engine.loop import train
    from mnmt_ds.tracking import read_records
    from tests.tiny import PAIRS as TINY
    from tests.tiny import recipe

    found = []
    expert = Path(directory) / "plain" / "best"
    experts = {"name": "multi_distill", "experts": dict.fromkeys(TINY, str(expert)), "rule": "fix", "alpha": 0.3}
    overall = {"name": "lssd", "teacher": "overall", "alpha": 1.0}
    for name, method in {
        "plain": {"name": "translation"},
        "overall": overall,
        "both": {"name": "several", "methods": [overall, experts]},
    }.items():
        made = recipe(
            Path(corpus), Path(directory) / name, method=method, validation={"every": 3},
            train={"max_steps": 18, "max_epochs": 9, "lr": 2e-2, "warmup_steps": 2},
        )  # fmt: skip
        train(made)
        found.append(read_records(made.directory / "metrics.jsonl"))
    other, description = load_model(expert)[0], describe_model(expert)
    save_model(expert.parent / "other", dict(other.named_parameters()), {**description, "tokenizer_hash": "0" * 64})
    with pytest.raises(UserError, match=r"its tokenizer \(000000000000\) is not this run's"):
        method = {**experts, "experts": dict.fromkeys(TINY, str(expert.parent / "other"))}
        train(recipe(Path(corpus), Path(directory) / "refused", method=method))
    return found


def test_overall_best_and_experts_teach_together(tiny_corpus: Path, tmp_path: Path) -> None:
    from tests.spawn import on_ranks

    _, overall, both = on_ranks(1, _train, str(tiny_corpus), str(tmp_path))[0]
    best = float("inf")
    for record in (r for r in overall if r["kind"] == "valid"):
        assert record["teacher/all/switch"] == float(record["valid/avg/macro"] >= best)
        best = min(best, record["valid/avg/macro"])
    assert any("train/kd_loss" in record for record in overall)
    trained = [record for record in both if record["kind"] == "train"]
    assert all("train/expert_loss" in record for record in trained)
    assert any("train/kd_loss" in record for record in trained)

"""MULTI-DISTILL and several methods together: losses by hand, thresholds, refusals, one real run.

Shape letters: B sentences, T target positions, D width, V vocabulary.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.errors import UserError
from mnmt_ds.methods.entry import RunFacts
from mnmt_ds.methods.method import ValidationReport
from mnmt_ds.methods.multi_distill import MultiDistillSettings
from mnmt_ds.methods.multi_teacher import MultiTeacherSettings
from mnmt_ds.methods.registry import build, check
from mnmt_ds.models.weights import describe_model, load_model, save_model
from mnmt_ds.teachers.experts import expert_share
from tests.tiny import PAIRS as TINY
from tests.unit.test_lssd import PAIRS, context, example, model

BLEU = {"bs-en": 20.0, "fr-en": 10.0}
DESCRIPTION = {"model": {}, "vocabulary_size": 40, "framing": {}, "pairs": list(PAIRS), "tokenizer_hash": "1" * 64}


def experts(tmp_path: Path) -> dict[str, str]:
    save_model(tmp_path / "expert", dict(model(2).named_parameters()), DESCRIPTION)
    return dict.fromkeys(PAIRS, str(tmp_path / "expert"))


def test_rules_by_hand() -> None:
    """a below E + 1, then 0; a below E - 2, then a * 0.5^(S - E + 2)  (Tan et al. 2019)."""
    for student, threshold, adaptive in ((17.9, 1, 1), (18, 1, 1), (19, 1, 0.5), (20.5, 1, 0.5**2.5), (21, 0, 0.125)):
        assert (
            expert_share("threshold", student, 20.0) == threshold
            and expert_share("adaptive", student, 20.0) == adaptive
        )
        assert expert_share("fix", student, 20.0) == 1


def test_loss_and_threshold_by_hand(tmp_path: Path) -> None:
    student, teacher, batch = model(1), model(2), example()
    for parameter in teacher.parameters():
        parameter.data.copy_(parameter.data.half())
    settings = MultiDistillSettings.model_validate(
        {"experts": experts(tmp_path), "alpha": 0.7, "temperature": 0.6, "top_k": 3}
    )
    asked: list[dict[str, Path]] = []

    def dev_bleu(models: dict[str, Path]) -> dict[str, float]:
        asked.append(models)
        return BLEU

    method = build(settings, context(student, dict(model(2).named_parameters()), dev_bleu=dev_bleu))
    states = student(batch.source_BS, batch.decoder_BT)
    loss = float(method.compute_loss(states, student.head.weight, method.teach(batch)).loss.detach())
    s = (states.decoder_BTD @ student.head.weight.T).double()
    t = (teacher(batch.source_BS, batch.decoder_BT).decoder_BTD @ teacher.head.weight.T).double()
    there = batch.target_BT != 1
    logp, gold = s.log_softmax(-1)[there], batch.target_BT[there]
    ce = -0.9 * logp[torch.arange(len(gold)), gold].sum() - 0.1 * logp.mean(-1).sum()
    t = t.masked_fill(t < t.topk(3, -1).values[..., -1:], -torch.inf)
    kd = -((t / 0.6).softmax(-1) * (s / 0.6).log_softmax(-1))[there].sum()
    assert loss == pytest.approx(float(0.3 * ce + 0.7 * 0.6**2 * kd), rel=1e-5)
    method.on_validation(ValidationReport(1, 1.0, {}))
    assert method.teach(batch).teachers and not asked  # no BLEU at that validation
    for bs in (20.0, 21.5):  # bs passes 20 + 1 with the second; fr does not pass 10 + 1
        method.on_validation(ValidationReport(2, 1.0, {}, bleu={"bs-en": bs, "fr-en": 10.9}))
    assert not method.teach(batch).teachers and method.teach(batch._replace(pair=1)).teachers
    assert asked == [dict.fromkeys(PAIRS, tmp_path / "expert")]
    assert method.state["experts"].report(2)["expert/bs-en/share"] == 0.0
    part = method.state["experts"]
    part.restore(part.state())
    part.begin_anew()
    assert method.teach(batch).teachers  # it teaches until BLEU is measured again


def test_experts_that_were_retrained_are_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[dict[str, Path]] = []

    def dev_bleu(models: dict[str, Path]) -> dict[str, float]:
        asked.append(models)
        return {pair: BLEU[pair] + len(asked) for pair in models}

    paths = {pair: str(tmp_path / pair) for pair in PAIRS}
    for path in paths.values():
        save_model(Path(path), dict(model(2).named_parameters()), DESCRIPTION)
    settings = MultiDistillSettings.model_validate({"experts": paths})

    def part() -> Any:
        weights = dict(model(2).named_parameters())
        return build(settings, context(model(1), weights, dev_bleu=dev_bleu)).state["experts"]

    first = part()
    first.update(ValidationReport(1, 1.0, {}, bleu={"bs-en": 19.0, "fr-en": 7.0}))
    state = first.state()
    (same := part()).restore(state)
    assert same.expert == {"bs-en": 21.0, "fr-en": 11.0} and len(asked) == 1 and not caplog.messages
    save_model(Path(paths["fr-en"]), dict(model(3).named_parameters()), DESCRIPTION)
    (other := part()).restore(state)
    assert other.expert == {"bs-en": 21.0, "fr-en": 12.0} and asked[1:] == [{"fr-en": tmp_path / "fr-en"}]
    assert other.student == first.student and len(caplog.messages) == 1
    assert other.state()["sha256"] != state["sha256"]


def test_adaptive_weights(tmp_path: Path) -> None:
    settings = MultiDistillSettings.model_validate({"experts": experts(tmp_path), "rule": "adaptive", "alpha": 0.8})
    method = build(settings, context(model(1), dict(model(2).named_parameters()), dev_bleu=lambda models: BLEU))
    method.on_validation(ValidationReport(1, 1.0, {}, bleu={"bs-en": 19.0, "fr-en": 7.0}))
    taught = [method.teach(example()._replace(pair=pair)) for pair in (0, 1)]
    assert [batch.teachers["expert"].weight for batch in taught] == pytest.approx([0.4, 0.8])
    assert [batch.gold_weight for batch in taught] == pytest.approx([0.6, 0.2])
    assert taught[0].teachers["expert"].top_k == 4


def test_bad_experts_are_refused(tmp_path: Path) -> None:
    paths = experts(tmp_path)
    facts = RunFacts(PAIRS, dict.fromkeys(PAIRS, 9), ["student"], [None])
    with pytest.raises(UserError, match="threshold goes by dev BLEU; set validation"):
        check(MultiDistillSettings.model_validate({"experts": paths}), facts)
    check(MultiDistillSettings.model_validate({"experts": paths}), facts._replace(bleu_every=3))
    with pytest.raises(UserError, match="fr-en: one expert a pair"):
        check(MultiDistillSettings.model_validate({"experts": {"bs-en": paths["bs-en"]}, "rule": "fix"}), facts)
    with pytest.raises(ValueError, match="two or more different ones"):
        MultiTeacherSettings.model_validate({"methods": [{"name": "lssd"}]})


def test_the_old_name_of_multi_teacher_is_read() -> None:
    """Recipes say multi_teacher; those of version 0.1.0 say several, and their checkpoints' fingerprints, too."""
    section = {"name": "several", "methods": [{"name": "lssd"}, {"name": "multi_distill", "experts": "run"}]}
    settings = MultiTeacherSettings.model_validate(section)
    assert settings.name == "multi_teacher" and settings == MultiTeacherSettings(methods=settings.methods)
    assert settings.resolved(PAIRS).model_dump()["methods"][0]["alpha"] == 2.0


def _train(corpus: str, directory: str) -> list[list[dict[str, Any]]]:
    from mnmt_ds.engine.loop import train
    from mnmt_ds.tracking import read_records
    from tests.tiny import recipe

    records = []
    expert = Path(directory) / "plain" / "best"
    experts = {"name": "multi_distill", "experts": dict.fromkeys(TINY, str(expert)), "rule": "fix", "alpha": 0.3}
    overall = {"name": "lssd", "teacher": "overall", "alpha": 1.0}
    for name, method in {
        "plain": {"name": "translation"},
        "overall": overall,
        "both": {"name": "several", "methods": [overall, experts]},
        "adaptive": {"name": "multi_distill", "experts": str(expert.parent), "rule": "adaptive"},
    }.items():
        made = recipe(
            Path(corpus), Path(directory) / name, method=method,
            validation={"every": 3, "bleu_every": 2, "bleu_beam": 1},
            train={"max_steps": 18, "max_epochs": 9, "lr": 2e-2, "warmup_steps": 2},
        )  # fmt: skip
        train(made)
        records.append(read_records(made.directory / "metrics.jsonl"))
    other, description = load_model(expert)[0], describe_model(expert)
    save_model(expert.parent / "other", dict(other.named_parameters()), {**description, "tokenizer_hash": "0" * 64})
    with pytest.raises(UserError, match=r"its tokenizer \(000000000000\) is not this run's"):
        method = {**experts, "experts": dict.fromkeys(TINY, str(expert.parent / "other"))}
        train(recipe(Path(corpus), Path(directory) / "refused", method=method))
    return records


def test_overall_best_and_experts_teach_together(tiny_corpus: Path, tmp_path: Path) -> None:
    from tests.spawn import on_ranks

    plain, overall, both, adaptive = on_ranks(1, _train, str(tiny_corpus), str(tmp_path))[0]
    best = float("inf")
    for record in (r for r in overall if r["kind"] == "valid"):
        assert record["teacher/all/switch"] == float(record["valid/avg/macro"] >= best)
        best = min(best, record["valid/avg/macro"])
    assert any("train/kd_loss" in record for record in overall)
    trained = [record for record in both if record["kind"] == "train"]
    assert all("train/expert_loss" in record for record in trained)
    assert any("train/kd_loss" in record for record in trained)

    valid = [record for record in adaptive if record["kind"] == "valid"]
    for pair in TINY:
        scored = [record for record in plain if f"valid/{pair}/bleu" in record]
        best = min((r for r in plain if r["kind"] == "valid"), key=lambda record: record[f"valid/{pair}/loss"])
        expert = valid[-1][f"expert/{pair}/bleu"]
        assert best not in scored or expert == pytest.approx(best[f"valid/{pair}/bleu"])
        assert [f"expert/{pair}/bleu" in record for record in valid] == [False] + [True] * 5
        assert valid[0][f"expert/{pair}/share"] == 1.0
        bleu = valid[-1][f"valid/{pair}/bleu"]
        assert valid[-1][f"expert/{pair}/share"] == pytest.approx(expert_share("adaptive", bleu, expert))

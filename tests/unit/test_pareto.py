"""Pareto-MD by hand: the rules for the weights, the loss and its gradient, settings and profiles, what is refused.

Shape letters: B sentences, T target positions, D width, V vocabulary.
"""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.errors import UserError
from mnmt_ds.kernels.types import Teacher
from mnmt_ds.methods import alpha_rules
from mnmt_ds.methods.entry import RunFacts
from mnmt_ds.methods.method import MethodContext, ValidationReport
from mnmt_ds.methods.pareto import ParetoSettings, check, pareto
from mnmt_ds.methods.peers import Peers, TrialSettings
from mnmt_ds.methods.registry import build
from mnmt_ds.methods.translation import TranslationSettings
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.samplers.temperature import TemperatureSettings

PAIRS = ["bs-en", "fr-en"]
SHAPE = ModelSettings(preset="tiny", d_model=16, ffn=32, heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0)


def test_actions_and_schedules_by_hand() -> None:
    """logit(0.1) = -2.19722; odds times e and 1/e; Equation 12 and its three rivals a quarter of the way."""
    assert alpha_rules.raise_(0.1, 1.0) == pytest.approx(0.2319693, abs=1e-7)
    assert alpha_rules.lower(0.1, 1.0) == pytest.approx(0.0392703, abs=1e-7)
    assert alpha_rules.keep(0.1, 1.0) == 0.1
    assert alpha_rules.raise_(1.0, 1.0) == 1.0 and alpha_rules.lower(0.0, 0.5) == 0.0
    quarter = [alpha_rules.step_size(schedule, 25, 100) for schedule in (1, 2, 3, 4)]
    assert quarter == pytest.approx([1.0, 0.8944272, 0.8366600, 0.8660254], abs=1e-7)
    assert [alpha_rules.step_size(s, 90, 100) for s in (3, 4)] == pytest.approx([0.0, 0.3162278], abs=1e-7)
    assert alpha_rules.step_size(4, 100, 100) == 0.0
    by_epoch = [alpha_rules.step_size_by_epoch(coming, 70, 5) for coming in (5, 20, 70)]
    assert by_epoch == pytest.approx([1.0, 0.8770580, 0.0], abs=1e-7)  # sqrt(50 / 65)
    assert alpha_rules.step_size_by_epoch(2, 3.5, 5) == 0.0  # a run that ends before distillation starts


def test_figure_3_of_the_paper() -> None:
    """The paper's example: French raises, Turkish lowers, German and Romanian keep; DYNAMIC takes one action."""
    alpha = {"fr-en": 0.54, "de-en": 0.23, "ro-en": 0.79, "tr-en": 0.95}
    space = alpha_rules.search_space(alpha, 1.0, "keep", 1.0)
    rows = [[2.9, 3.5, 3.7, 3.7], [2.6, 4.4, 4.5, 3.4], [3.1, 4.1, 4.5, 2.9]]  # keep, raise, lower
    losses = [dict(zip(alpha, row, strict=True)) for row in rows]
    trials = dict(zip(space, losses, strict=True))
    best = alpha_rules.best_of_each(trials)
    assert list(best.values()) == ["raise", "keep", "keep", "lower"]
    assert [round(space[action][pair], 2) for pair, action in best.items()] == [0.76, 0.23, 0.79, 0.87]
    assert alpha_rules.best_of_all(trials) == dict.fromkeys(alpha, "keep")  # means 3.45, 3.725, 3.65


def test_ties_clip_and_a_trial_that_failed() -> None:
    for first in ("keep", "raise", "lower"):
        space = alpha_rules.search_space({"a": 0.5}, 1.0, first, 1.0)
        assert space[first]["a"] == alpha_rules.ACTIONS[first](0.5, 1.0)
        assert alpha_rules.best_of_each({name: {"a": 2.0} for name in space})["a"] == first
    clipped = alpha_rules.search_space({"a": 0.999}, 1.0, "keep", 0.98)
    assert [row["a"] for row in clipped.values()] == pytest.approx(
        [0.98, alpha_rules.raise_(0.98, 1), alpha_rules.lower(0.98, 1)]
    )
    broken = {"keep": {"a": math.nan}, "raise": {"a": 3.0}, "lower": {"a": math.inf}}
    assert alpha_rules.best_of_each(broken) == alpha_rules.best_of_all(broken) == {"a": "raise"}


def test_uni_lets_the_worse_student_learn() -> None:
    """Equation 5; inside the tolerance of 0.05 bits (0.0347 nats) both learn; a tie teaches nobody."""
    own, peer = {"bs-en": 3.00, "fr-en": 2.00, "el-en": 2.5}, {"bs-en": 2.98, "fr-en": 2.20, "el-en": 2.5}
    assert alpha_rules.better_peers(own, {"p": peer}) == {"bs-en": ["p"], "fr-en": [], "el-en": []}
    assert alpha_rules.better_peers(peer, {"o": own}) == {"bs-en": [], "fr-en": ["o"], "el-en": []}
    near = 0.05 * math.log(2)
    assert alpha_rules.better_peers(peer, {"o": own}, near) == {"bs-en": ["o"], "fr-en": ["o"], "el-en": ["o"]}


def model(seed: int) -> Transformer:
    torch.manual_seed(seed)
    return initialise(Transformer(SHAPE, 30)).eval()


def example(pair: int = 0) -> Batch:
    source = torch.tensor([[4, 5, 6, 2], [7, 8, 2, PAD]])
    target = torch.tensor([[9, 10, 11, 2], [12, 2, PAD, PAD]])
    decoder = torch.tensor([[3, 9, 10, 11], [3, 12, PAD, PAD]])
    return Batch(source, decoder, target, pair, torch.arange(2), 6, 6)


def context(peers: Peers | None) -> MethodContext:
    return MethodContext(
        pairs=PAIRS, smoothing=0.1, implementation="auto",
        build_teacher_pool=lambda settings: None, eval_states=lambda batch: (torch.empty(0), torch.empty(0)),  # type: ignore[arg-type,return-value]
        target_vocabulary=lambda language: torch.ones(30, dtype=torch.bool), peers=peers,
    )  # fmt: skip


def peers_of(teachers: dict[str, nn.Module], trial: Any = None, last: int = 100) -> Peers:
    def states(names: Sequence[str], batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        asked: dict[str, Any] = {name: teachers[name] for name in names}
        with torch.no_grad():
            return {
                name: (teacher(batch.source_BS, batch.decoder_BT).decoder_BTD, teacher.head.weight)
                for name, teacher in asked.items()
            }

    return Peers("model_1", list(teachers), lambda *a: None, states, trial or (lambda *a: []), last)


def by_hand(student: Any, teachers: list[Any], batch: Batch, alpha: float) -> float:
    """Equation 4 in float64, token by token."""
    s = (student(batch.source_BS, batch.decoder_BT).decoder_BTD @ student.head.weight.T).double().softmax(-1)
    total = 0.0
    for teacher in teachers:
        t = (teacher(batch.source_BS, batch.decoder_BT).decoder_BTD @ teacher.head.weight.T).double().softmax(-1)
        for b, i in (batch.target_BT != PAD).nonzero().tolist():
            log, gold = s[b, i].log(), int(batch.target_BT[b, i])
            ce = float(-0.9 * log[gold] - 0.1 * log.mean())
            total += ((1 - alpha) * ce + alpha * float(-(t[b, i] * log).sum())) / len(teachers)
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_is_equation_4_and_no_gradient_reaches_the_peer(alpha: float) -> None:
    student, peer = model(1), model(2)
    method = build(ParetoSettings(rule="bi", alpha=alpha), context(peers_of({"model_2": peer})))
    batch = method.teach(example())
    states = student(batch.source_BS, batch.decoder_BT)
    score = method.compute_loss(states, student.head.weight, batch)
    assert float(score.loss) == pytest.approx(by_hand(student, [peer], batch, alpha), rel=1e-5)
    assert ("peer_loss" in score.metrics) == (alpha > 0)
    score.loss.backward()
    assert all(p.grad is None for p in peer.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_three_students_share_alpha() -> None:
    student, others = model(1), {"model_2": model(2), "model_3": model(3)}
    method = build(ParetoSettings(rule="bi", alpha=0.6), context(peers_of(others)))  # type: ignore[arg-type]
    batch = method.teach(example())
    score = method.compute_loss(student(batch.source_BS, batch.decoder_BT), student.head.weight, batch)
    assert float(score.loss) == pytest.approx(by_hand(student, list(others.values()), batch, 0.6), rel=1e-5)
    assert {"peer_model_2_loss", "peer_model_3_loss"} <= score.metrics.keys()


def test_a_base_with_teachers_of_its_own_gives_way_as_a_whole() -> None:
    """(1 - alpha) of LSSD's loss: its gold weight and its teacher's weight alike."""
    peer = model(2)
    own = Teacher(torch.zeros(2, 4, 16), torch.zeros(30, 16), 2.0)
    plain = build(TranslationSettings(), context(None))
    base = plain._replace(teach=lambda batch: batch._replace(gold_weight=0.5, teachers={"kd": own}))
    settings, peers = ParetoSettings(rule="bi", alpha=0.25), peers_of({"model_2": peer})
    batch = pareto(settings, context(peers), {"base": base}).teach(example())
    assert batch.gold_weight == 0.375 and batch.teachers["kd"].weight == 1.5 and batch.teachers["peer"].weight == 0.25


def test_when_the_rules_apply() -> None:
    """UNI waits for dev losses and its interval; ``start_epoch`` holds everything back; AUTO ends with the run."""
    settings = ParetoSettings(rule="uni", alpha=0.4, interval=2)
    method = build(settings, context(peers_of({"model_2": model(2)})))
    report = ValidationReport(10, 1.0, {"bs-en": 3.0, "fr-en": 2.0}, {"model_2": {"bs-en": 2.5, "fr-en": 2.5}})
    weights = method.state["weights"]
    assert weights.report(0)["alpha/bs-en"] == 0.0
    method.after_validation(report)
    assert weights.report(0)["alpha/bs-en"] == 0.0  # every second validation
    method.after_validation(report)
    assert (weights.report(0)["alpha/bs-en"], weights.report(0)["alpha/fr-en"]) == (0.4, 0.0)
    asked: list[int] = []

    def trial(settings: TrialSettings, changes: Any) -> list[dict[str, float]]:
        asked.append(len(changes))
        return [{"bs-en": 3.0, "fr-en": 1.0}, {"bs-en": 2.0, "fr-en": 1.5}, {"bs-en": 2.5, "fr-en": 0.5}]

    late = build(ParetoSettings(start_epoch=3), context(peers_of({"model_2": model(2)}, trial)))
    late.after_validation(report)
    assert not asked and not late.teach(example()).teachers
    late.after_validation(report._replace(update=20, epoch=2.0))
    mu = alpha_rules.step_size(4, 20, 100)
    assert asked == [3] and late.state["weights"].state()["alpha"] == {
        "bs-en": alpha_rules.raise_(0.1, mu), "fr-en": alpha_rules.lower(0.1, mu),
    }  # fmt: skip
    late.after_validation(report._replace(update=100, epoch=10.0))
    assert asked == [3]
    extra = build(ParetoSettings(rule="bi", extra_updates=True), context(peers_of({"model_2": model(2)}, trial)))
    extra.after_validation(report)
    assert asked == [3, 3] and set(extra.state["weights"].state()["alpha"].values()) == {0.4}


@pytest.mark.parametrize("rule", ["auto", "dynamic"])
def test_a_search_is_made_again_from_its_record(rule: Any) -> None:
    """Algorithm 2 in lines of its own, from what a validation logs; the next record starts where this one ended."""
    dev = random.Random(3)

    def trial(settings: TrialSettings, changes: Any) -> list[dict[str, float]]:
        return [{pair: dev.uniform(2, 3) for pair in PAIRS} for _ in changes]

    method = build(ParetoSettings(rule=rule), context(peers_of({"model_2": model(2)}, trial)))
    alpha, taken = dict.fromkeys(PAIRS, 0.1), set()
    for epoch in range(1, 10):
        method.after_validation(ValidationReport(10 * epoch, float(epoch), dict.fromkeys(PAIRS, 3.0), {}))
        record = json.loads(json.dumps(method.state["weights"].report(10 * epoch)))
        mu = math.sqrt((100 - 10 * epoch) / 100)
        assert record["pareto/mu"] == pytest.approx(mu)
        assert {pair: record[f"pareto/{pair}/before"] for pair in PAIRS} == alpha
        names = ("keep", "raise", "lower")
        rows = {name: [record[f"pareto/{pair}/{name}"] for pair in PAIRS] for name in names}
        for i, pair in enumerate(PAIRS):
            best = min(names, key=lambda name: sum(rows[name]) if rule == "dynamic" else rows[name][i])
            sign = {"keep": 0, "raise": 1, "lower": -1}[best]
            assert record[f"pareto/{pair}/action"] == sign
            odds = alpha[pair] / (1 - alpha[pair]) * math.exp(sign * mu)
            assert record[f"alpha/{pair}"] == pytest.approx(odds / (1 + odds), rel=1e-12)
            alpha[pair] = record[f"alpha/{pair}"]
            taken.add(sign)
    assert taken == {-1, 0, 1}
    method.after_validation(ValidationReport(100, 10.0, dict.fromkeys(PAIRS, 3.0), {}))
    assert not [key for key in method.state["weights"].report(100) if key.startswith("pareto/")]


@pytest.mark.parametrize("rule", ["bi", "vanilla"])
def test_algorithm_1_starts_at_0(rule: Any) -> None:
    """Until the weights are set after the first interval the loss is plain; a resumed run knows which it is."""
    report = ValidationReport(10, 1.0, {"bs-en": 3.0, "fr-en": 2.0}, {"model_2": {"bs-en": 2.5, "fr-en": 2.5}})
    peers = peers_of({"model_2": model(2)})
    at_once = build(ParetoSettings(rule=rule), context(peers))
    assert at_once.teach(example()).teachers
    method = build(ParetoSettings(rule=rule, fixed_start="after_interval", interval=2), context(peers))
    for _ in range(2):
        assert not method.teach(example()).teachers and method.teach(example()).gold_weight == 1.0
        method.after_validation(report)
    assert method.teach(example()).teachers["peer"].weight == 0.4
    again = build(ParetoSettings(rule=rule, fixed_start="after_interval", interval=2), context(peers))
    again.state["weights"].restore(json.loads(json.dumps(method.state["weights"].state())))
    assert again.teach(example()).teachers["peer"].weight == 0.4


def test_epochs_as_the_released_code_counts_them() -> None:
    """Changes before epochs 6, 9 and 12; the step size before epoch 20 of 70 is sqrt(50 / 65)."""
    began: list[int] = []

    def trial(settings: TrialSettings, changes: Any) -> list[dict[str, float]]:
        began.append(epoch + 1)
        return [{"bs-en": 3.0, "fr-en": 1.0}, {"bs-en": 2.0, "fr-en": 1.5}, {"bs-en": 2.5, "fr-en": 0.5}]

    peers = peers_of({"model_2": model(2)}, trial, last=700)
    report = ValidationReport(10, 1.0, {"bs-en": 3.0, "fr-en": 2.0}, {"model_2": {"bs-en": 2.5, "fr-en": 2.5}})
    for counts, expected in (("past", [7, 10, 13]), ("coming", [6, 9, 12])):
        bi = {"rule": "bi", "extra_updates": True, "interval": 3, "start_epoch": 5, "interval_counts": counts}
        method = build(ParetoSettings.model_validate(bi), context(peers))
        began.clear()
        for epoch in range(1, 13):
            method.after_validation(report._replace(update=10 * epoch, epoch=float(epoch)))
        assert began == expected
    method = build(ParetoSettings(start_epoch=5, schedule_unit="epoch"), context(peers))
    epoch = 19
    method.after_validation(report._replace(update=190, epoch=19.0))
    mu = 0.8770580193
    found = method.state["weights"].state()["alpha"]
    assert found["bs-en"] == pytest.approx(alpha_rules.raise_(0.1, mu), abs=1e-9)
    assert found["fr-en"] == pytest.approx(alpha_rules.lower(0.1, mu), abs=1e-9)


def test_profiles() -> None:
    paper, released = ParetoSettings(), ParetoSettings(profile="released", rule="uni")
    assert (paper.peer_dropout, paper.start_epoch, paper.tolerance_bits, paper.interval) == (False, 1, 0.0, 1)
    assert (paper.trials.after, paper.trials.data, paper.trials.rho, paper.clip) == ("restore", "sample", 0.1, 1.0)
    assert (released.peer_dropout, released.start_epoch, released.tolerance_bits) == (True, 5, 0.05)
    assert (released.interval, released.ties, released.clip) == (3, "raise", 0.98)
    assert (released.trials.after, released.trials.data) == ("keep", "coming")
    assert (paper.interval_counts, paper.schedule_unit) == ("past", "update")
    assert (released.interval_counts, released.schedule_unit) == ("coming", "epoch")
    assert ParetoSettings(profile="released", schedule=2).schedule_unit == "update"
    mixed = ParetoSettings(profile="released", ties="keep", trials={"after": "restore"})  # type: ignore[arg-type]
    assert (mixed.ties, mixed.trials.after, mixed.trials.data, mixed.interval) == ("keep", "restore", "coming", 1)


def facts(**changes: Any) -> RunFacts:
    samplers = [TemperatureSettings(temperature=1), TemperatureSettings(temperature=5)]
    known = RunFacts(PAIRS, {"bs-en": 60, "fr-en": 240}, ["model_1", "model_2"], samplers)
    return known._replace(**changes)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="alpha"):
        ParetoSettings(rule="bi", alpha=1.2)
    with pytest.raises(ValueError, match="rho"):
        TrialSettings(rho=0.0)
    with pytest.raises(UserError, match="one student only; list two or more under 'students'"):
        check(ParetoSettings(), facts(students=["student"]))
    with pytest.raises(UserError, match=r"rho 0.01 leaves bs-en's trial set empty .*set at least 0.017"):
        check(ParetoSettings(trials=TrialSettings(rho=0.01)), facts())
    with pytest.raises(UserError, match="rule vanilla is for students with one sampler"):
        check(ParetoSettings(rule="vanilla"), facts())
    check(ParetoSettings(rule="bi", trials=TrialSettings(rho=0.01)), facts())


def test_lsmd_reads_a_file_or_a_run(tmp_path: Path) -> None:
    good = {"model_1": {"bs-en": 0.2, "fr-en": 0.7}, "model_2": {"bs-en": 0.0, "fr-en": 1}}
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(good))
    method = build(ParetoSettings(rule="lsmd", weights=path), context(peers_of({"model_2": model(2)})))
    assert method.state["weights"].state()["alpha"] == good["model_1"]
    run = tmp_path / "run"
    for name, alpha in good.items():
        (run / "students" / name).mkdir(parents=True)
        rows = [{"update": 3 - u, **{f"alpha/{p}": a / u for p, a in alpha.items()}} for u in (2, 1)]
        (run / "students" / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert alpha_rules.read_weights(run, PAIRS, list(good)) == good
    for content, message in (
        ('{"model_1": {}}', "weights of model_1, the run's are model_1, model_2"),
        (json.dumps({**good, "model_2": {"bs-en": 0.1}}), r"weights for other pairs than the run's \(fr-en\)"),
        (json.dumps({**good, "model_2": {"bs-en": 0.1, "fr-en": 1.5}}), r"alpha of fr-en is 1.5, not in \[0, 1\]"),
        ("[1]", "not of the form"),
        ("{", "not valid JSON"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            check(ParetoSettings(rule="lsmd", weights=path), facts())
    with pytest.raises(ValueError, match="belong together"):
        ParetoSettings(rule="lsmd")

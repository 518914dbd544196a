"""LSSD by hand: Algorithm 1's switches and teachers, the loss, the settings that profiles differ in.

Shape letters: B sentences, T target positions, D width, V vocabulary.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.distributed import RankGroup
from mnmt_ds.engine.checkpointing import snapshots
from mnmt_ds.engine.checkpointing.best_checkpoints import BestCheckpoints
from mnmt_ds.engine.settings import ValidationSettings
from mnmt_ds.methods.lssd import LssdSettings, default_alpha, lssd
from mnmt_ds.methods.method import MethodContext, ValidationReport
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.models.weights import read_weights, save_model
from mnmt_ds.teachers.overall_best import OverallBest
from mnmt_ds.teachers.shard_layout import extract_shard, shard_layout
from mnmt_ds.teachers.shard_storage import ShardStorage
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.teacher_bank import TeacherBank
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.teachers.teacher_server import WholeTeachers

PAIRS = ["bs-en", "fr-en"]
VARIANTS = ("whole", "selective", "adaptive")
SHAPE = ModelSettings(preset="tiny", d_model=16, ffn=32, heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0)


def model(seed: int) -> Transformer:
    torch.manual_seed(seed)
    return initialise(Transformer(SHAPE, 30)).eval()


def teacher_pool(*snapshots: dict[str, torch.Tensor], dtype: torch.dtype = torch.float16) -> TeacherPool:
    """Teachers on one rank; the given weights are what is taken in turn, the last one again and again."""
    waiting = list(snapshots) or [dict(model(0).named_parameters())]
    blank = model(0)
    layout = shard_layout(blank, blank.head.weight, 1)

    def take() -> torch.Tensor:
        return extract_shard(layout, waiting.pop(0) if len(waiting) > 1 else waiting[0], RankGroup(), dtype)

    storage = ShardStorage(dtype, 1 << 30, Path("nowhere"), lambda version: take())
    teachers = ShardedTeachers(storage, layout, RankGroup(), lambda: model(0), torch.device("cpu"))
    return TeacherPool(PAIRS, teachers, WholeTeachers(teachers), take, lambda version: take())


def test_algorithm_1_by_hand() -> None:
    """Switch off and new teacher on improvement; on otherwise; pairs apart; a tie is no improvement."""
    bank = TeacherBank(PAIRS, teacher_pool())
    script = [  # dev of bs, fr -> switches, versions
        ((3.0, 4.0), (False, False), (1, 1)),
        ((2.5, 4.0), (False, True), (2, 1)),
        ((2.6, 3.9), (True, False), (2, 3)),
        ((2.5, 3.8), (True, False), (2, 4)),
        ((2.4, 3.9), (False, True), (5, 4)),
    ]
    for update, (dev, switches, versions) in enumerate(script, start=1):
        bank.update(ValidationReport(update, float(update), dict(zip(PAIRS, dev, strict=True))))
        assert tuple(bank.switch.values()) == switches, update
        assert tuple(best.update for best in bank.best.values()) == versions, update
        assert bank.snapshots() == set(versions)
    assert {pair: best.value for pair, best in bank.best.items()} == {"bs-en": 2.4, "fr-en": 3.8}
    assert bank.report(7)["teacher/bs-en/age"] == 2.0


def test_teachers_are_shared_and_dropped() -> None:
    weights = [{k: v.detach() for k, v in model(seed).named_parameters()} for seed in range(3)]
    bank = TeacherBank(PAIRS, teacher_pool(*weights))
    storage = bank.pool.teachers.shard_storage
    bank.update(ValidationReport(1, 1.0, {"bs-en": 3.0, "fr-en": 3.0}))
    each = storage.memory_bytes()
    assert each == 2 * sum(p.numel() for p in model(0).parameters())
    bank.update(ValidationReport(2, 2.0, {"bs-en": 2.0, "fr-en": 3.5}))
    assert storage.memory_bytes() == 2 * each
    bank.update(ValidationReport(3, 3.0, {"bs-en": 1.0, "fr-en": 1.0}))
    assert storage.memory_bytes() == each


TOKENS = {"bs-en": 900, "fr-en": 100}
"""Dev tokens: by the mean over pairs the second validation is better, over tokens the third."""
DEVS = ((3.0, 3.0), (3.1, 2.0), (2.8, 3.5))


@pytest.mark.parametrize(("selection", "teacher"), [("pairs", 2), ("tokens", 3)])
def test_stsd_is_taught_by_the_checkpoint_that_is_selected(selection: Any, teacher: int) -> None:
    best = BestCheckpoints(PAIRS, ValidationSettings(selection=selection), TOKENS)
    overall = OverallBest(teacher_pool(), best.overall_loss)
    for update, dev in enumerate(DEVS, start=1):
        report = ValidationReport(update, float(update), dict(zip(PAIRS, dev, strict=True)))
        best.update(report, {})
        overall.update(report)
    assert overall.best == best.overall and overall.best.update == teacher
    again = OverallBest(teacher_pool(), best.overall_loss)
    again.restore(overall.state())
    assert again.best == overall.best and again.overall_loss(report.dev) == best.overall_loss(report.dev)


def test_stsd_of_an_older_run_goes_on_with_the_mean_over_pairs() -> None:
    overall = OverallBest(
        teacher_pool(), BestCheckpoints(PAIRS, ValidationSettings(selection="tokens"), TOKENS).overall_loss
    )
    overall.restore({"best": 2.55, "version": 2, "switch": True})
    overall.update(ValidationReport(3, 3.0, {"bs-en": 2.0, "fr-en": 4.0}))  # 2.2 over tokens, 3.0 over pairs
    assert overall.best.update == 2 and overall.teacher_of("fr-en") == 2
    assert overall.state()["mean"]


def context(student: Transformer, weights: dict[str, torch.Tensor], **changes: Any) -> MethodContext:
    def eval_states(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return student(batch.source_BS, batch.decoder_BT).decoder_BTD.detach(), student.head.weight.detach()

    values: dict[str, Any] = dict(
        pairs=PAIRS, smoothing=0.1, implementation="auto",
        build_teacher_pool=lambda settings, others=False: teacher_pool(weights, dtype=getattr(torch, settings.dtype)),
        eval_states=eval_states,
        target_vocabulary=lambda language: torch.arange(30) % 3 != 0,
    )  # fmt: skip
    return MethodContext(**{**values, **changes})


def example() -> Batch:
    source = torch.tensor([[4, 5, 6, 2], [7, 8, 2, PAD]])
    target = torch.tensor([[9, 10, 11, 2], [12, 2, PAD, PAD]])
    decoder = torch.tensor([[3, 9, 10, 11], [3, 12, PAD, PAD]])
    return Batch(source, decoder, target, 0, torch.arange(2), 6, 6)


def expected(student: nn.Module, teacher: nn.Module, batch: Batch, settings: LssdSettings, alpha: float) -> float:
    """Equations 3 to 8 of paper 1 written out in float64, token by token and sentence by sentence."""
    s = (student(batch.source_BS, batch.decoder_BT).decoder_BTD @ student.head.weight.T).double().softmax(-1)
    t = (teacher(batch.source_BS, batch.decoder_BT).decoder_BTD @ teacher.head.weight.T).double().softmax(-1)
    ce = kd = 0.0
    for b in range(2):
        tokens = [i for i in range(batch.target_BT.shape[1]) if int(batch.target_BT[b, i]) != PAD]
        gold = [int(batch.target_BT[b, i]) for i in tokens]
        p_s = sum(float(s[b, i, y]) for i, y in zip(tokens, gold, strict=True)) / len(tokens)
        p_t = sum(float(t[b, i, y]) for i, y in zip(tokens, gold, strict=True)) / len(tokens)
        gate = {"whole": 1.0, "selective": float(p_t >= p_s), "adaptive": min(p_t / p_s, settings.cap)}[
            settings.variant
        ]
        for i, y in zip(tokens, gold, strict=True):
            log = s[b, i].log()
            ce += float(-0.9 * log[y] - 0.1 * log.mean())
            kd += gate * float(-(t[b, i] * log).sum())
    return ce + alpha * kd


@pytest.mark.parametrize("variant", ["whole", "selective", "adaptive"])
@pytest.mark.parametrize("gate_student", ["train", "eval"])
def test_loss_is_the_papers(variant: str, gate_student: str) -> None:
    student, teacher = model(1), model(2)
    for weight in (student.head.weight, teacher.head.weight):
        weight.data *= 3  # so that gates differ from 1
    held = {k: v.detach().half().float() for k, v in teacher.named_parameters()}
    for name, parameter in teacher.named_parameters():
        parameter.data.copy_(held[name])
    settings = LssdSettings(variant=variant, gate_student=gate_student, alpha=1.5)
    method = lssd(settings, context(student, held))
    batch = example()
    method.on_validation(ValidationReport(1, 1.0, {"bs-en": 1.0, "fr-en": 1.0}))
    states = student(batch.source_BS, batch.decoder_BT)
    off = method.compute_loss(states, student.head.weight, method.teach(method.prepare(batch)))
    assert "kd_loss" not in off.metrics
    method.on_validation(ValidationReport(2, 2.0, {"bs-en": 2.0, "fr-en": 0.5}))
    on = method.compute_loss(states, student.head.weight, method.teach(method.prepare(batch)))
    assert float(on.loss) == pytest.approx(expected(student, teacher, batch, settings, 1.5), rel=1e-5)
    assert float(off.loss) == pytest.approx(expected(student, teacher, batch, settings, 0.0), rel=1e-5)
    other = method.teach(batch._replace(pair=1))
    assert not other.teachers  # fr-en improved: its switch is off


def released_by_hand(student: nn.Module, teacher: nn.Module, batch: Batch, variant: str, level: str) -> float:
    """The authors' rule in float64: (CE + 2.5 KD) / 2; 0.2 where the teacher is not better; a ratio of 1 at most."""
    p, q = (
        (m(batch.source_BS, batch.decoder_BT).decoder_BTD.double() @ m.head.weight.double().T).log_softmax(-1).detach()
        for m in (student, teacher)
    )
    total = 0.0
    for b in range(2):
        gold = [int(y) for y in batch.target_BT[b] if int(y) != PAD]
        ours, theirs = ([float(log[b, i, y].exp()) for i, y in enumerate(gold)] for log in (p, q))
        if level == "sentence":
            ours, theirs = ([sum(row) / len(row)] * len(row) for row in (ours, theirs))
        for i, y in enumerate(gold):
            ratio = theirs[i] / ours[i]
            gate = {"whole": 1.0, "selective": 1.0 if ratio > 1 else 0.2, "adaptive": min(ratio, 1.0)}[variant]
            kd = -float((q[b, i].exp() * p[b, i]).sum())
            total += (-0.9 * float(p[b, i, y]) - 0.1 * float(p[b, i].mean()) + 2.5 * gate * kd) / 2
    return total


def test_released_losses_are_the_authors() -> None:
    """Every variant at the level of its scripts; adaptive by tokens, as it once was here, is another number."""
    student, teacher = model(1), model(2)
    for weight in (student.head.weight, teacher.head.weight):
        weight.data *= 3
    held = {k: v.detach().half().float() for k, v in teacher.named_parameters()}
    for name, parameter in teacher.named_parameters():
        parameter.data.copy_(held[name])
    batch, found = example(), {}
    for variant, level in (("whole", ""), ("selective", ""), ("selective", "sentence"), ("adaptive", "")):
        given = {"profile": "released", "variant": variant, "alpha": 2.5, **({"gate_level": level} if level else {})}
        method = lssd(LssdSettings.model_validate(given), context(student, held))
        for update in (1, 2):
            method.on_validation(ValidationReport(update, 1.0, {"bs-en": 1.0, "fr-en": 1.0}))
        states = student(batch.source_BS, batch.decoder_BT)
        loss = float(method.compute_loss(states, student.head.weight, method.teach(batch)).loss.detach())
        level = level or {"selective": "token"}.get(variant, "sentence")
        found[variant, level] = released_by_hand(student, teacher, batch, variant, level)
        assert loss == pytest.approx(found[variant, level], rel=1e-5), (variant, level)
    assert len({round(value, 3) for value in found.values()}) == 4
    tokens = released_by_hand(student, teacher, batch, "adaptive", "token")
    assert abs(tokens - found["adaptive", "sentence"]) > 1e-3


def test_released_profile_halves_the_total() -> None:
    student, teacher = model(1), model(2)
    held = {k: v.detach() for k, v in teacher.named_parameters()}
    totals = {}
    for halve in (False, True):
        method = lssd(LssdSettings(alpha=2.0, halve_total=halve), context(student, held))
        for update in (1, 2):
            method.on_validation(ValidationReport(update, 1.0, {"bs-en": 1.0, "fr-en": 1.0}))
        batch = method.teach(example())
        totals[halve] = float(
            method.compute_loss(student(batch.source_BS, batch.decoder_BT), student.head.weight, batch).loss
        )
    assert totals[True] == pytest.approx(totals[False] / 2, rel=1e-6)


def test_default_alpha() -> None:
    out = ["en-bs", "en-fr"]
    paper, released = LssdSettings(), LssdSettings(profile="released")
    assert (default_alpha(paper, PAIRS), default_alpha(paper, out)) == (2.0, 0.6)
    assert (default_alpha(released, PAIRS), default_alpha(released, out)) == (2.5, 0.6)
    assert default_alpha(LssdSettings(profile="released", variant="selective"), PAIRS) == 1.2


def test_what_the_released_gates_compare() -> None:
    """Tokens in the selective scripts of TED, sentences in all adaptive ones; an older recipe's null was tokens."""
    levels = {v: LssdSettings.model_validate({"profile": "released", "variant": v}).gate_level for v in VARIANTS}
    assert levels["selective"] == "token" and levels["adaptive"] == "sentence"
    for variant in VARIANTS:
        older = {"profile": "released", "variant": variant, "gate_level": None}
        assert LssdSettings.model_validate(older).gate_level == "token"
        assert LssdSettings.model_validate({**older, "profile": "paper"}).gate_level == "sentence"


def test_a_run_replays_algorithm_1_from_its_log(tiny_corpus: Path, tmp_path: Path) -> None:
    """Switches and teacher versions in the log follow from the logged dev losses alone."""
    from mnmt_ds.tracking import read_records
    from tests.spawn import on_ranks

    records = on_ranks(1, _train, str(tiny_corpus), str(tmp_path / "run"))[0]
    best, switches = dict.fromkeys(("bs-en", "hi-en", "fr-en"), float("inf")), 0
    version: dict[str, int] = {}
    validations = [record for record in records if record["kind"] == "valid"]
    assert len(validations) == 12
    for record in validations:
        for pair in best:
            dev = record[f"valid/{pair}/loss"]
            improved = dev < best[pair]
            if improved:
                best[pair], version[pair] = dev, record["update"]
            assert record[f"teacher/{pair}/switch"] == float(not improved)
            assert record[f"teacher/{pair}/version"] == version[pair]
            switches += not improved
    assert switches > 3
    assert read_records(tmp_path / "run" / "metrics.jsonl") == records


def _train(corpus: str, run: str) -> list[dict[str, Any]]:
    from mnmt_ds.engine.loop import train
    from mnmt_ds.tracking import read_records
    from tests.tiny import recipe

    made = recipe(
        Path(corpus), Path(run), method={"name": "lssd"}, validation={"every": 3},
        train={"max_steps": 36, "max_epochs": 9, "lr": 2e-2, "warmup_steps": 2},
    )  # fmt: skip
    train(made)
    return read_records(Path(run) / "metrics.jsonl")


def test_the_best_by_a_score_waits_for_scores() -> None:
    """chrF 10, none, 30, 20: patience counts scored validations; the deficit is that of the selected checkpoint."""
    best = BestCheckpoints(["a-en", "b-en"], ValidationSettings(select_by="chrf", bleu_every=2, average_k=2), {})
    chrf = {1: {"a-en": {"chrf": 5.0}, "b-en": {"chrf": 15.0}}, 3: {"a-en": {"chrf": 30.0}, "b-en": {"chrf": 30.0}},
            4: {"a-en": {"chrf": 25.0}, "b-en": {"chrf": 15.0}}}  # fmt: skip
    dev = {1: (4.0, 3.0), 2: (2.0, 2.0), 3: (3.0, 3.0), 4: (2.5, 1.0)}
    seen = []
    for update, (a, b) in dev.items():
        report = ValidationReport(update, update, {"a-en": a, "b-en": b})
        is_better, improved = best.update(report, chrf.get(update, {}))
        seen.append((is_better, improved, best.since_better, best.selected(), best.deficit()))
    assert seen == [
        (True, ["a-en", "b-en"], 0, "best by chrf 10.00 at 1", 0.0),
        (False, ["a-en", "b-en"], 0, "best by chrf 10.00 at 1", 3.0),
        (True, [], 0, "best by chrf 30.00 at 3", 2.0),
        (False, ["b-en"], 1, "best by chrf 30.00 at 3", 3.0),
    ]
    lowest = {name: [value.update for value in values] for name, values in best.lowest.items()}
    assert lowest == {"": [3, 4], "a-en": [2, 4], "b-en": [4, 2]}
    assert best.snapshots(per_pair=False) == {3, 4} and best.snapshots(per_pair=True) == {2, 3, 4}
    again = BestCheckpoints(["a-en", "b-en"], best.settings, {})
    again.restore(json.loads(json.dumps(best.state())))
    assert again.state() == best.state()
    again.begin_anew(pairs=False)
    assert again.lowest.keys() == {"a-en", "b-en"} and again.since_better == 0


def test_averages_of_a_run_that_kept_none_begin_with_its_bests() -> None:
    """average_k is set when a run is resumed; an update that is validated once more counts once."""
    report = ValidationReport(1, 1.0, {"a-en": 3.0, "b-en": 4.0})
    before = BestCheckpoints(["a-en", "b-en"], ValidationSettings(), {})
    before.update(report, {})
    best = BestCheckpoints(["a-en", "b-en"], ValidationSettings(average_k=3), {})
    best.restore(json.loads(json.dumps(before.state())))
    assert {name: [value.update for value in values] for name, values in best.lowest.items()} == {
        "": [1], "a-en": [1], "b-en": [1],
    }  # fmt: skip
    best.update(report, {})
    best.update(ValidationReport(2, 2.0, {"a-en": 2.0, "b-en": 5.5}), {})
    assert [value.update for value in best.lowest[""]] == [1, 2] and [v.update for v in best.lowest["a-en"]] == [2, 1]
    best.begin_anew(pairs=False)
    assert best.selected() == "no best yet"


def test_an_average_leaves_out_what_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A removed and a damaged snapshot at the end of a run: they are named, and the run ends well."""
    facts = {"model": {}, "vocabulary_size": 9, "framing": {}, "pairs": ["a-en"], "tokenizer_hash": ""}
    for update in (1, 2, 3):
        save_model(tmp_path / "snapshots" / str(update), {"w": torch.full((2,), float(update))}, facts)
    (tmp_path / "snapshots" / "3" / "model.safetensors").write_bytes(b"cut")
    snapshots.average(tmp_path, {"average": [1, 2, 3, 4], "average_a-en": [3, 4]})
    assert read_weights(tmp_path / "average")["w"].tolist() == [1.5, 1.5]
    assert not (tmp_path / "average_a-en").exists()
    assert "average_a-en not written, for fewer than two checkpoints of each were kept" in caplog.text
    caplog.clear()
    snapshots.average(tmp_path, {"average": [1, 4], "average_b-en": [1], "average_c-en": [2]}, replace=False)
    assert read_weights(tmp_path / "average")["w"].tolist() == [1.5, 1.5]
    assert "average_b-en, average_c-en not written" in caplog.text

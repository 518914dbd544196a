"""Intra-distillation by hand: the divergence, passes independent in encoder and decoder, one request for all.

Shape letters: B sentences, S and T source and target positions, D width, V vocabulary.
"""

import math

import pytest
import torch
from torch import Tensor

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.methods.intra_distillation import IntraDistillationSettings, intra_distillation, weights
from mnmt_ds.methods.lssd import LssdSettings
from mnmt_ds.methods.method import ValidationReport
from mnmt_ds.methods.registry import build
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from tests.unit.test_lssd import context, example

ALPHA = 5.0


def student(dropout: float = 0.3) -> Transformer:
    torch.manual_seed(1)
    shape = ModelSettings(preset="tiny", d_model=16, ffn=32, heads=2, encoder_layers=1, decoder_layers=1)
    return initialise(Transformer(shape.model_copy(update={"dropout": dropout}), 30)).train()


def settings(base: object = None, **values: object) -> IntraDistillationSettings:
    return IntraDistillationSettings.model_validate({"base": base or {"name": "translation"}, **values})


@pytest.mark.parametrize("implementation", ["reference", "chunked", "cpu"])
def test_divergence_by_hand(implementation: str) -> None:
    """Two passes over two words, p = (3/4, 1/4) and (1/4, 3/4): X-divergence 1/2 (KL sums) worked out on paper.

    mean = (1/2, 1/2); KL(p_k || mean) = ln 2 - H(p) = 0.75 ln 1.5 + 0.25 ln 0.5; KL(mean || p_k) = ln 2 - ln 3 / 2 ...
    """
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    backward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    states = torch.tensor([[[math.log(3.0)]], [[-math.log(3.0)]]])  # logits (z, 0): p = sigmoid(z)
    projection = torch.tensor([[1.0], [0.0]])
    sums = ce_with_teacher(
        states, projection, torch.tensor([[0]]), smoothing=0.0, passes=2, divergence_weight=ALPHA,
        implementation=implementation,
    )  # fmt: skip
    assert float(sums.divergence) == pytest.approx(forward + backward, rel=1e-6)
    nll = -(math.log(0.75) + math.log(0.25)) / 2
    assert float(sums.loss) == pytest.approx(nll + ALPHA * (forward + backward), rel=1e-6)


def loss_by_definition(model: Transformer, batch: Batch, states: Tensor) -> float:
    """Equations 5 and 6 in float64, token by token, both KL terms as they are printed."""
    logits = states.double() @ model.head.weight.double().T
    p_KBTV = logits.softmax(-1).unflatten(0, (batch.passes, -1))
    total = 0.0
    for b, t in (batch.target_BT != PAD).nonzero().tolist():
        p_KV, gold = p_KBTV[:, b, t], int(batch.target_BT[b, t])
        mean_V = p_KV.mean(0)
        for p_V in p_KV:
            ce = -0.9 * p_V[gold].log() - 0.1 * p_V.log().mean()
            kl = (p_V * (p_V / mean_V).log()).sum() + (mean_V * (mean_V / p_V).log()).sum()
            total += float((ce + ALPHA * kl).detach()) / batch.passes
    return total


@pytest.mark.parametrize("passes", [2, 3])
def test_loss_is_the_papers(passes: int) -> None:
    model = student()
    method = build(settings(passes=passes), context(model, {}))
    batch = method.teach(method.prepare(example()))
    states = model(batch.source_BS, batch.decoder_BT)
    score = method.compute_loss(states, model.head.weight, batch)
    assert float(score.loss.detach()) == pytest.approx(loss_by_definition(model, batch, states.decoder_BTD), rel=1e-5)
    assert float(score.metrics["id_loss"][0]) > 0.01
    assert score.metrics["id_loss"][1] == 6


def test_passes_are_independent_in_the_encoder_and_in_the_decoder() -> None:
    """With dropout on one side alone, the passes still differ; a second pass that took over the first's encoder states
    would have no divergence with dropout in the encoder only.
    """
    for noisy, still in (("encoder", "decoder"), ("decoder", "encoder")):
        model = student()
        for layer in getattr(model, still):
            for part in layer.modules():
                part.dropout = 0.0
        model.embedding.dropout = 0.0
        method = build(settings(), context(model, {}))
        batch = method.teach(method.prepare(example()))
        states = model(batch.source_BS, batch.decoder_BT)
        first, second = states.encoder_BSD.chunk(2)
        assert torch.equal(first, second) == (noisy == "decoder")
        assert float(method.compute_loss(states, model.head.weight, batch).metrics["id_loss"][0]) > 1e-3, noisy


def test_without_dropout_it_is_the_base_method() -> None:
    model = student(0.0)
    plain, wrapped = build(settings().base, context(model, {})), build(settings(passes=3), context(model, {}))
    losses = []
    for method in (plain, wrapped):
        batch = method.teach(method.prepare(example()))
        score = method.compute_loss(model(batch.source_BS, batch.decoder_BT), model.head.weight, batch)
        model.zero_grad()
        score.loss.backward()  # type: ignore[no-untyped-call]
        losses.append((float(score.loss.detach()), model.encoder[0].ffn.inner.weight.grad.clone()))
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    torch.testing.assert_close(losses[1][1], losses[0][1], rtol=1e-4, atol=1e-6)


def test_teachers_are_asked_once_for_all_passes() -> None:
    """ID around LSSD: the teacher sees B rows, and its term stands against each pass; the loss is linear in them."""
    model = student()
    held = {k: v.detach() for k, v in student().named_parameters()}
    lssd = LssdSettings(alpha=1.5).model_dump()
    method = build(settings(lssd, passes=2, alpha=0.0), context(model, held))
    for update in (1, 2):
        method.on_validation(ValidationReport(update, 1.0, {"bs-en": 1.0, "fr-en": 1.0}))
    batch = method.teach(method.prepare(example()))
    assert batch.source_BS.shape[0] == 4 and batch.decoder_BT.shape[0] == 4
    assert batch.teachers["kd"].hidden_BTE.shape[0] == 2 == len(batch.target_BT)
    states = model(batch.source_BS, batch.decoder_BT)
    together = method.compute_loss(states, model.head.weight, batch)
    single = batch._replace(passes=1)
    apart = [
        method.compute_loss(states._replace(decoder_BTD=part), model.head.weight, single)
        for part in states.decoder_BTD.chunk(2)
    ]
    assert float(together.loss) == pytest.approx(sum(float(score.loss) for score in apart) / 2, rel=1e-5)
    kd = sum(float(score.metrics["kd_loss"][0]) for score in apart) / 2
    assert float(together.metrics["kd_loss"][0]) == pytest.approx(kd, rel=1e-5)
    assert set(method.state) == {"teachers"}


def test_schedule_of_alpha() -> None:
    """1 at N / q, alpha from N / p on, by the released formula alpha * (p n / N)^(log_{p/q}(1 / alpha)) before."""
    at = weights(settings(schedule="adaptive"), lambda: 1000)
    assert at(200) == pytest.approx(1.0) and at(500) == pytest.approx(5.0) and at(900) == pytest.approx(5.0)
    gamma = math.log(1 / 5, 2 / 5)
    assert at(100) == pytest.approx(5 * 0.2**gamma)
    assert weights(settings(alpha=3.0), lambda: 0)(1) == 3.0


@pytest.mark.parametrize(
    "values",
    [{"passes": 1}, {"alpha": -1}, {"schedule": "adaptive", "p": 5, "q": 2}, {"schedule": "adaptive", "alpha": 1}],
)
def test_bad_settings(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"passes|alpha|schedule"):
        settings(**values)


def test_wraps_once() -> None:
    once = build(settings(), context(student(), {}))
    twice = intra_distillation(settings(), context(student(), {}), {"base": once})
    with pytest.raises(Exception, match="wrap a method once"):
        twice.prepare(example())

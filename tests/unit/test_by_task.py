"""Several tasks by hand: what counts on either side, divisors and weights, faults of the recipe.

Shape letters: B sentences, S and T source and target positions, D width, V vocabulary.
"""

from typing import Any

import pytest
import torch

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.data.batching import EpochPlan, interleave_plans
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.methods.by_task import ByTaskSettings
from mnmt_ds.methods.registry import build
from mnmt_ds.models.transformer import Transformer, initialise
from tests.unit.test_intra_distillation import loss_by_definition, student
from tests.unit.test_lssd import context, example

TASKS = {"translation": {"name": "translation"}, "cd": {"name": "denoising"}}


def settings(**values: Any) -> ByTaskSettings:
    return ByTaskSettings.model_validate({"tasks": TASKS, **values})


def concurrent() -> Batch:
    """Two sentences with two and one masked pieces."""
    target = torch.tensor([[PAD, 5, 6, PAD], [7, PAD, PAD, PAD]])
    return Batch(
        torch.tensor([[4, 28, 28, 29], [28, 29, PAD, PAD]]), torch.tensor([[29, 4, 5, 6], [29, 7, PAD, PAD]]), target,
        5, torch.tensor([-1, -1]), 3, 9, task="cd", encoder_target_BS=target, task_divisor=3,
    )  # fmt: skip


def test_both_sides_count_by_one_projection() -> None:
    """L_e + L_d, each over the masked pieces, with a divergence of its own; float64 by definition."""
    model = student()
    passes = {"name": "intra_distillation", "base": {"name": "denoising"}}
    method = build(settings(tasks={**TASKS, "cd": passes}, divisor="shared"), context(model, {}))
    batch = method.teach(method.prepare(concurrent()))
    states = model(batch.source_BS, batch.decoder_BT)
    score = method.compute_loss(states, model.head.weight, batch)
    sides = [loss_by_definition(model, batch, hidden) for hidden in (states.decoder_BTD, states.encoder_BSD)]
    assert float(score.loss.detach()) == pytest.approx(sum(sides), rel=1e-5)
    assert score.metrics["cd_encoder_loss"][1] == 3 == score.metrics["cd_decoder_loss"][1]
    released = build(
        settings(
            tasks={**TASKS, "cd": {**passes, "base": {"name": "denoising", "profile": "released"}}}, divisor="shared"
        ),
        context(model, {}),
    ).compute_loss(states, model.head.weight, batch)
    parts = [score.metrics[f"cd_{side}_id_loss"][0] for side in ("encoder", "decoder")]
    assert float((score.loss - released.loss).detach()) == pytest.approx(2.5 * float(sum(parts)), rel=1e-4)


def test_own_projection_and_weights() -> None:
    model = student(0.0)
    method = build(
        settings(
            tasks={**TASKS, "cd": {"name": "denoising", "encoder_weight": 0.5, "decoder_weight": 2.0}}, divisor="shared"
        ),
        context(model, {}),
    )
    batch = concurrent()
    states = model(batch.source_BS, batch.decoder_BT)
    own = model(batch.source_BS, batch.decoder_BT)._replace(encoder_projection_VD=torch.randn(30, 16))
    shared, apart = (method.compute_loss(s, model.head.weight, batch).metrics for s in (states, own))
    assert shared["cd_decoder_loss"][0] == apart["cd_decoder_loss"][0]
    assert shared["cd_encoder_loss"][0] != apart["cd_encoder_loss"][0]
    total = 2.0 * shared["cd_decoder_loss"][0] + 0.5 * shared["cd_encoder_loss"][0]
    assert float(shared["loss"][0]) == pytest.approx(float(total), rel=1e-5)


@pytest.mark.parametrize("task", ["translation", "mlm", "dae"])
def test_every_batch_gives_every_weight_a_gradient(task: str) -> None:
    """ZeRO-3 updates a weight that a batch leaves out by the gradient of an earlier update (docs/surprises.md)."""
    shape = student(0.0).settings.model_copy(update={"encoder_projection": "own"})
    model = initialise(Transformer(shape, 30))
    tasks = {name: {"name": "denoising", "encoder_weight": 2.0} for name in ("mlm", "dae")}
    method = build(settings(tasks={"translation": {"name": "translation"}, **tasks}), context(model, {}))
    batch, nothing = concurrent()._replace(task=task), torch.full_like(concurrent().target_BT, PAD)
    if task == "mlm":
        batch = batch._replace(target_BT=nothing)
    if task != "mlm":
        batch = batch._replace(encoder_target_BS=None)
    states = model(batch.source_BS, batch.decoder_BT)
    assert model.encoder_projection is not None
    states = states._replace(encoder_projection_VD=model.encoder_projection.weight)
    method.compute_loss(states, model.head.weight, batch).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_divisors() -> None:
    """task: the update's loss is w_t * mean_t summed over tasks; shared: one sum over all 9 tokens."""
    model = student(0.0)
    losses = {}
    for divisor in ("task", "shared"):
        method = build(settings(divisor=divisor, weights={"cd": 0.5}), context(model, {}))
        total = 0.0
        for batch in (example()._replace(divisor=9, task_divisor=6), concurrent()):
            score = method.compute_loss(model(batch.source_BS, batch.decoder_BT), model.head.weight, batch)
            total += float(score.loss.detach()) / batch.divisor
        losses[divisor] = total
    translation = loss_by_definition(model, example(), model(example().source_BS, example().decoder_BT).decoder_BTD)
    states = model(concurrent().source_BS, concurrent().decoder_BT)
    denoised = sum(loss_by_definition(model, concurrent(), side) for side in (states.decoder_BTD, states.encoder_BSD))
    assert losses["task"] == pytest.approx(translation / 6 + 0.5 * denoised / 3, rel=1e-5)
    assert losses["shared"] == pytest.approx((translation + 0.5 * denoised) / 9, rel=1e-5)


def test_tasks_are_spread_evenly() -> None:
    """40 and 20 batches in updates of 3: two of the one and one of the other, in each one's own order."""

    def plan(count: int, pair: int) -> EpochPlan:
        number = torch.arange(count).numpy()
        return EpochPlan(number, torch.arange(count + 1).numpy(), number * 0 + pair, number * 0 + 1, 3)

    mixed = interleave_plans([plan(40, 0), plan(20, 1)])
    assert [sorted(mixed.pair[k : k + 3].tolist()) for k in range(0, 60, 3)] == [[0, 0, 1]] * 20
    assert mixed.sentence[mixed.pair == 1].tolist() == list(range(20))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"tasks": {"translation": {"name": "translation"}}}, "at least one of cd"),
        ({"weights": {"dae": 1.0}}, "dae is not among the tasks"),
        ({"tasks": {**TASKS, "cd": {"name": "lssd"}}}, "cd cannot take method lssd"),
        ({"tasks": {**TASKS, "translation": {"name": "denoising"}}}, "translation cannot take method denoising"),
    ],
)
def test_bad_settings(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        settings(**values)


def test_tasks_of_data_and_method_must_agree() -> None:
    base = {"data": {"pairs": ["fr-en"]}}
    by_task = {"name": "by_task", "tasks": TASKS}
    with pytest.raises(ValueError, match=r"denoising.tasks \(none\)"):
        Recipe.model_validate({**base, "method": by_task})
    with pytest.raises(ValueError, match="put it into method by_task"):
        Recipe.model_validate({**base, "method": {"name": "denoising"}})
    with pytest.raises(ValueError, match="method by_task"):
        Recipe.model_validate({**base, "denoising": {"tasks": [{"name": "cd"}]}})
    made = Recipe.model_validate(
        {**base, "profile": "released", "method": by_task, "denoising": {"tasks": [{"name": "cd"}]}}
    )
    assert made.denoising is not None and made.denoising.unit == "block" and made.denoising.cut_to_shortest
    assert made.method.profile == "released" == made.method.tasks["cd"].profile

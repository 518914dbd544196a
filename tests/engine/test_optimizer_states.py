"""DeepSpeed's optimizers in every precision and ZeRO stage: a state that is put back is the old one bit for bit, the
first update is the first step, and the first updates have the losses of ZeRO 1."""

import json
from itertools import product
from typing import Any

import pytest
import torch

from tests.fp16 import needs_fp16
from tests.spawn import on_ranks
from tests.tiny import ROOT

CASES, FP16_CASES = list(product(("fp32", "bf16"), range(4))), [("fp16", stage) for stage in (1, 2, 3)]
"""Precisions and ZeRO stages that are not refused."""


class Chain(torch.nn.Module):
    """Two layers; called as a student's module is, with a batch and what is made of the states."""

    def __init__(self) -> None:
        """Draws the same weights each time."""
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16))

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """The mean square of the last layer's output."""
        return self.layers(x_BD.to(self.layers[0].weight.dtype)).float().square().mean()  # type: ignore[no-any-return]


def _engine(
    precision: str, stage: int, weight_decay: float = 0.0, clip_norm: float = 1.0, bucket: int | None = None
) -> Any:
    """The product's own engine around a ``Chain``."""
    from mnmt_ds.engine.parallel import ds_config
    from mnmt_ds.engine.parallel.zero_engine import initialize
    from mnmt_ds.engine.settings import TrainSettings

    config = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text())
    if bucket is not None:
        config["zero_optimization"]["reduce_bucket_size"] = bucket
    settings = TrainSettings(precision=precision, weight_decay=weight_decay, lr=1e-2, clip_norm=clip_norm)  # type: ignore[arg-type]
    return initialize(Chain(), ds_config.resolve(config, settings, _ranks(), "test"))


def _ranks() -> int:
    from mnmt_ds.distributed import world_size

    return world_size()


def _update(engine: Any, seed: int) -> float:
    from mnmt_ds.distributed import rank

    generator = torch.Generator().manual_seed(seed * 2 + rank())
    loss = engine(torch.randn(8, 16, generator=generator))
    engine.backward(loss)
    engine.step()
    return float(loss.detach())


def _masters(engine: Any) -> list[torch.Tensor]:
    from mnmt_ds.private_apis import weight_and_master_tensors

    return [tensor.float().clone() for tensor in weight_and_master_tensors(engine)]


def _thrown_away(precision: str, stage: int) -> dict[str, bool]:
    """A trial of two updates between others, before the first update too; and the others alone."""
    from mnmt_ds.engine.parallel.state_snapshot import capture_state, restore_state

    trained = []
    for with_trials in (False, True):
        engine, losses, at_return = _engine(precision, stage, weight_decay=0.1), [], []
        for seed in (1, 2, 3):
            if with_trials:
                kept = capture_state(engine)
                for trial in (50, 51):
                    _update(engine, trial)
                moved = not _equal(_masters(engine), [tensor.float() for tensor in kept.tensors])
                restore_state(engine, kept)
                at_return.append(moved)
            losses.append(_update(engine, seed))
        trained.append((losses, _masters(engine), _moments(engine)))
    (losses, masters, moments), (again, masters_again, moments_again) = trained
    return {
        "trials trained": all(at_return),
        "losses alike": losses == again,
        "masters": _equal(masters, masters_again),
        "moments": _equal(moments, moments_again),
    }


def _moments(engine: Any) -> list[torch.Tensor]:
    from mnmt_ds.private_apis import inner_optimizer

    states = inner_optimizer(engine).state.values()
    return [value.float() for state in states for value in state.values() if isinstance(value, torch.Tensor)]


def _equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _first_updates(precision: str, stage: int) -> dict[str, Any]:
    """Before the first update masters are the model's weights and Adam has counted nothing; then ten updates."""
    from mnmt_ds.private_apis import inner_optimizer, weight_and_master_tensors

    engine = _engine(precision, stage, weight_decay=0.5)
    steps = [float(state["step"]) for state in inner_optimizer(engine).state.values() if "step" in state]
    total = sum(float(tensor.double().sum()) for tensor in weight_and_master_tensors(engine))
    weights = sum(float(parameter.double().sum()) for parameter in Chain().to(_dtype(precision)).parameters())
    return {"steps": steps, "total": total / weights, "losses": [_update(engine, seed) for seed in range(10)]}


def _dtype(precision: str) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _sweep(cases: list[tuple[str, int]]) -> dict[str, Any]:
    return {
        f"{precision} {stage}": {
            **_thrown_away(precision, stage),
            **_first_updates(precision, stage),
            "copied": _all_copied(precision, stage),
        }
        for precision, stage in cases
    }


def _all_copied(precision: str, stage: int) -> bool:
    """Whether a snapshot copies what the inner optimizer steps, whatever class DeepSpeed wraps it in."""
    from mnmt_ds.private_apis import inner_optimizer, weight_and_master_tensors

    engine = _engine(precision, stage)
    copied = {tensor.data_ptr() for tensor in weight_and_master_tensors(engine)}
    stepped = [p for group in inner_optimizer(engine).param_groups for p in group["params"] if p.numel()]
    return all(parameter.data_ptr() in copied for parameter in stepped)


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (1, [("fp32", 1), ("bf16", 1), ("bf16", 0)]),
        pytest.param(1, CASES, marks=pytest.mark.slow),
        pytest.param(2, CASES, marks=pytest.mark.slow),
        pytest.param(1, FP16_CASES, marks=[pytest.mark.slow, needs_fp16]),
        pytest.param(2, FP16_CASES, marks=[pytest.mark.slow, needs_fp16]),
    ],
)
def test_trials_leave_no_trace_and_the_first_update_is_the_first_step(ranks: int, cases: list[tuple[str, int]]) -> None:
    results = on_ranks(ranks, _sweep, cases)[0]
    for case, found in results.items():
        assert found["copied"] and found["trials trained"], case
        assert found["losses alike"] and found["masters"] and found["moments"], case
        assert all(step == 0 for step in found["steps"]), case
        precision, stage = case.split()
        masters = 1 if stage == "0" and precision == "fp32" else 2  # there weights are their own masters
        assert ranks > 1 or found["total"] == pytest.approx(masters, rel=1e-4), case
        tolerance = {"fp32": 1e-5, "bf16": 2**-8, "fp16": 2**-11}[precision]
        assert found["losses"] == pytest.approx(results[f"{precision} 1"]["losses"], rel=tolerance), case


def _stepped(precision: str, stage: int, in_blocks: bool) -> dict[str, Any]:
    """Updates, one with a gradient that is not finite; blocks cut the layers' weights, which are beyond a bucket."""
    import mnmt_ds.engine.parallel.zero_engine as zero_engine
    from mnmt_ds import private_block_step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_block_step, "BLOCK", 96)
        patch.setattr(private_block_step, "LEAST", 0)
        if not in_blocks:
            patch.setattr(zero_engine, "step_in_blocks", lambda engine: None)
        engine = _engine(precision, stage, weight_decay=0.1, clip_norm=0.01, bucket=100)
        norms, losses = [], []
        for seed in (1, 2, 3):
            if seed == 2:
                engine.backward(engine(torch.full((8, 16), float("nan"))))
                engine.step()
            losses.append(_update(engine, seed))
            norms.append(float(engine.get_global_grad_norm()))
        stepper = type(engine.optimizer.optimizer.step.__self__).__name__
    return {"norms": norms, "losses": losses, "state": _masters(engine) + _moments(engine), "stepper": stepper}


def _both_ways(cases: list[tuple[str, int]]) -> list[str]:
    wrong = []
    for precision, stage in cases:
        ours, theirs = (_stepped(precision, stage, in_blocks) for in_blocks in (True, False))
        if ours["stepper"] != "_BlockStep" or theirs["stepper"] == "_BlockStep":
            wrong.append(f"{precision} {stage}: stepped by {ours['stepper']} and {theirs['stepper']}")
        if ours["norms"] != theirs["norms"] or ours["losses"] != theirs["losses"]:
            wrong.append(f"{precision} {stage}: {ours['norms']} {theirs['norms']}")
        if not _equal(ours["state"], theirs["state"]):
            wrong.append(f"{precision} {stage}: states differ")
    return wrong


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (1, [("bf16", 1), ("fp32", 1)]),
        pytest.param(1, [("fp16", 2)], marks=needs_fp16),
        pytest.param(2, list(product(("bf16", "fp32"), (1, 2))), marks=pytest.mark.slow),
        pytest.param(2, [("fp16", 1), ("fp16", 2)], marks=[pytest.mark.slow, needs_fp16]),
    ],
)
def test_a_step_in_blocks_is_deepspeeds_own(ranks: int, cases: list[tuple[str, int]]) -> None:
    """Norms, clipped updates, moments, an update that is left out: bit for bit."""
    assert on_ranks(ranks, _both_ways, cases) == [[]] * ranks

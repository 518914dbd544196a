"""The moving average of the weights: its values, at every ZeRO stage and along stages; what is validated and kept; how
a run goes on with it."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnmt_ds.errors import UserError
from mnmt_ds.tracking import read_records
from tests.engine.test_optimizer_states import CASES, FP16_CASES, Chain, _engine, _masters, _update
from tests.fp16 import needs_fp16
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

DECAY = 0.75


def _averaged(precision: str, stage: int, start: int) -> dict[str, bool]:
    """Four updates, in fp16 one more without a finite gradient; a trial between two of them."""
    from mnmt_ds.engine.parallel.state_snapshot import capture_state, restore_state
    from mnmt_ds.engine.parallel.weight_average import WeightAverage
    from mnmt_ds.parallel_layout import form_layout
    from mnmt_ds.private_masters import master_fragments

    engine = _engine(precision, stage)
    average = WeightAverage(engine, engine.module, form_layout(), DECAY, start)

    def fragments() -> list[torch.Tensor]:
        return [fragment.values.clone() for fragment in master_fragments(engine, engine.module)]

    expected = [values.double() for values in fragments()]
    elements = sum(parameter.numel() for parameter in Chain().parameters())
    held = sum(len(values) for values in expected)
    for number in range(1, 5):
        _update(engine, number)
        average.update()
        keep = 0.0 if number < start else DECAY
        expected = [keep * e + (1 - keep) * w.double() for e, w in zip(expected, fragments(), strict=True)]
        if number == 2:
            kept = capture_state(engine, average)
            _update(engine, 50)
            average.update()
            restore_state(engine, kept, average)
    if precision == "fp16":  # the step is left out, and counts for nothing
        engine.backward(engine(torch.full((8, 16), float("nan"))))
        engine.step()
        average.update()
    before, weights = _masters(engine), _whole(engine)
    other = WeightAverage(engine, engine.module, form_layout(), DECAY, start)
    for values in other.values:
        values.zero_()
    other.load(Path("no such checkpoint"))
    with average.in_place():
        inside = _whole(engine)
        are_averages = _alike(fragments(), expected)
    again = _masters(engine)
    return {
        "averages": _alike(average.values, expected),
        "begins with the weights": _alike(other.values, fragments()),
        "masters in place": are_averages,
        "weights in place": not _alike(inside, weights) and _rounded(fragments(), average, inside, precision, stage),
        "put back": all(torch.equal(a, b) for a, b in zip(before, again, strict=True)),
        "weights put back": all(torch.equal(a, b) for a, b in zip(weights, _whole(engine), strict=True)),
        "a share": (held == elements) == (stage == 0 or torch.distributed.get_world_size() == 1),
    }


def _alike(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x.double(), y.double(), rtol=1e-6, atol=1e-8) for x, y in zip(a, b, strict=True))


def _whole(engine: Any) -> list[torch.Tensor]:
    """The weights that a forward pass sees."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        return [parameter.detach().clone() for parameter in engine.module.parameters()]


def _rounded(masters: list[torch.Tensor], average: Any, inside: list[torch.Tensor], precision: str, stage: int) -> bool:
    """Whether the weights that were in place are the averages in the weights' type, of all ranks together."""
    parts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, sum(float(values.double().sum()) for values in average.values))
    total = sum(parts) / (len(parts) if stage == 0 else 1)  # type: ignore[arg-type]
    found = sum(float(values.double().sum()) for values in inside)
    return abs(total - found) < {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-1}[precision]


def _sweep(cases: list[tuple[str, int]], starts: list[int]) -> list[str]:
    return [
        f"{precision} ZeRO-{stage} from update {start}: {name}"
        for precision, stage in cases
        for start in starts
        for name, is_right in _averaged(precision, stage, start).items()
        if not is_right
    ]


@pytest.mark.parametrize(
    ("ranks", "cases", "starts"),
    [
        (1, [("fp32", 0), ("bf16", 1), ("fp32", 3)], [3]),
        pytest.param(1, [("fp16", 1)], [3], marks=needs_fp16),
        pytest.param(1, CASES, [0, 3], marks=pytest.mark.slow),
        pytest.param(2, CASES, [0, 3], marks=pytest.mark.slow),
        pytest.param(2, FP16_CASES, [0, 3], marks=[pytest.mark.slow, needs_fp16]),
    ],
)
def test_averages_are_those_of_float64(ranks: int, cases: list[tuple[str, int]], starts: list[int]) -> None:
    """Of each rank's own share alone; a trial that is thrown away leaves no trace; weights in place and put back."""
    assert on_ranks(ranks, _sweep, cases, starts) == [[]] * ranks


def made(corpus: str, run: str, layout: dict[str, Any], **sections: Any) -> Any:
    """A recipe of a run on a layout whose weights are averaged."""
    train = {"max_epochs": 9, "lr": 2e-2, "warmup_steps": 2, "batches_per_update": 6, "ema_decay": DECAY}
    ways = {name: value for name, value in layout.items() if name != "zero"}
    train |= sections.pop("train", {})
    return recipe(Path(corpus), Path(run), deepspeed=zero(layout["zero"], run), train=train, **ways, **sections)


def leg(corpus: str, run: str, layout: dict[str, Any], updates: int) -> dict[str, Any]:
    """Goes on for some updates: the averages at start and end, and what float64 makes of the weights between."""
    from mnmt_ds.engine.loop import advance, student_loops
    from mnmt_ds.engine.parallel.weight_average import averaged_weights
    from mnmt_ds.engine.training import Training

    training = Training(made(corpus, run, layout, model={"encoder_layers": 2, "decoder_layers": 2}), resume=True)
    engine, loops = training.first.engine, student_loops(training)

    def weights() -> dict[str, Any]:
        return {name: value.numpy() for name, value in engine.gather_weights(torch.float64).items()}

    with averaged_weights(engine.average):
        first = weights()
    expected = first
    for _ in range(updates):
        advance(training, loops, False)
        expected = {name: DECAY * expected[name] + (1 - DECAY) * value for name, value in weights().items()}
    training.save()
    with averaged_weights(engine.average):
        last = weights()
    training.close()
    return {"first": first, "last": last, "expected": expected, "weights": weights()}


LEGS = {
    "ZeRO 1 and 2": [(2, {"zero": 1}), (3, {"zero": 2}), (1, {"zero": 1})],
    "ZeRO 3": [(2, {"zero": 3}), (1, {"zero": 3}), (3, {"zero": 3})],
    "stages at ZeRO 1": [(2, {"zero": 1, "pipeline": {"stages": 2}}), (2, {"zero": 1}),
                         (3, {"zero": 1, "pipeline": {"stages": 3}})],
    "stages at ZeRO 0": [(2, {"zero": 0, "pipeline": {"stages": 2}}), (2, {"zero": 0, "pipeline": {"stages": 2}})],
    "ZeRO 0": [(2, {"zero": 0}), (1, {"zero": 0}), (2, {"zero": 0})],
    "split vocabulary": [(2, {"zero": 1, "tensor": {"vocabulary": 2}}), (2, {"zero": 1, "tensor": {"vocabulary": 2}})],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", LEGS)
def test_a_run_goes_on_with_its_average_on_other_ranks(family: str, tiny_corpus: Path, tmp_path: Path) -> None:
    """To the last bit; and in each leg it is what float64 says."""
    before: dict[str, Any] = {}
    for ranks, layout in LEGS[family]:
        found = on_ranks(ranks, leg, str(tiny_corpus), str(tmp_path / "run"), layout, 2)[0]
        for name, value in before.items():
            assert np.array_equal(found["first"][name], value), (layout, name)
        moved = 0.0
        for name, value in found["expected"].items():
            assert found["last"][name] == pytest.approx(value, rel=1e-5, abs=1e-7), (layout, name)
            moved = max(moved, float(np.abs(value - found["weights"][name]).max()))
        assert moved > 1e-3, "the average is the weights"
        before = found["last"]


def whole_run(corpus: str, run: str, layout: dict[str, Any], sections: dict[str, Any], stop: int) -> dict[str, Any]:
    """Trains to an update or the end; then what a validation says of the averaged weights and of the trained ones."""
    from mnmt_ds.engine.loop import StopRequest, train_epochs
    from mnmt_ds.engine.monitoring.validation import validate
    from mnmt_ds.engine.parallel.weight_average import averaged_weights
    from mnmt_ds.engine.training import Training

    training = Training(
        made(corpus, run, layout, **sections, train={"max_steps": 6}, validation={"every": 3}), resume=True
    )

    class StopAt(StopRequest):
        """A request that comes within an update."""

        @property
        def is_requested(self) -> bool:  # type: ignore[override]
            return training.update + 1 >= stop

    train_epochs(training, StopAt())
    found: dict[str, Any] = {}
    for student in training.students:
        engine = student.engine
        arguments = (training.dev, training.pairs, training.plain_loss_function)
        with averaged_weights(engine.average):
            averaged = engine.gather_weights(torch.float32)
            dev = validate(engine, *arguments)
        found[student.name] = {
            "averaged": {name: value.numpy() for name, value in averaged.items()},
            "dev": {pair: row["loss"] for pair, row in dev.items()},
            "dev of the weights": {pair: row["loss"] for pair, row in validate(engine, *arguments).items()},
        }
    training.tracker.close()
    return found


@pytest.mark.parametrize(
    ("ranks", "layout", "sections"),
    [
        (1, {"zero": 1}, {}),
        pytest.param(2, {"zero": 2}, {"method": {"name": "lssd", "variant": "adaptive"}}, marks=pytest.mark.slow),
        pytest.param(2, {"zero": 3}, {"method": {"name": "lssd", "variant": "adaptive"}}, marks=pytest.mark.slow),
        pytest.param(
            2, {"zero": 1}, {"students": [{}, {}], "method": {"name": "pareto", "rule": "auto", "interval": 3}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2, {"zero": 1}, {"students": [{}, {}], "method": {"name": "pareto"}, "placement": "split",
                             "simultaneous": True},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_averaged_weights_are_validated_and_kept(
    ranks: int, layout: dict[str, Any], sections: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> None:
    """The record's dev losses and ``last`` are the average's; LSSD's teachers are its best models, so that a run that
    is resumed (and reads them from there) has the same records as one that never stopped."""
    from mnmt_ds.models.weights import describe_model, read_weights

    arguments = (str(tiny_corpus), str(tmp_path / "whole"), layout, sections, 9)
    found = {name: value for each in on_ranks(ranks, whole_run, *arguments) for name, value in each.items()}
    for name, student in found.items():
        directory = tmp_path / "whole" / ("students" if "students" in sections else "") / (
            name if "students" in sections else "")  # fmt: skip
        record = [each for each in read_records(directory / "metrics.jsonl") if each["kind"] == "valid"][-1]
        for pair, loss in student["dev"].items():
            assert record[f"valid/{pair}/loss"] == loss and loss != student["dev of the weights"][pair]
        kept = read_weights(directory / "last")
        assert all(np.array_equal(kept[name].numpy(), value) for name, value in student["averaged"].items())
        assert describe_model(directory / "last")["ema_decay"] == DECAY
    if sections:
        for stop in (4, 9):
            on_ranks(ranks, whole_run, str(tiny_corpus), str(tmp_path / "resumed"), layout, sections, stop)
        logs = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("metrics.jsonl"))
        for log in logs:
            whole, resumed = (_figures(tmp_path / name / log) for name in ("whole", "resumed"))
            assert whole == resumed, log


def _figures(log: Path) -> list[dict[str, Any]]:
    keys = ("train/", "valid/", "teacher/", "alpha/", "update")
    records = (record for record in read_records(log) if record["kind"] in ("train", "valid"))
    return [{key: v for key, v in record.items() if key.startswith(keys)} for record in records]


def test_what_is_on_nvme_is_not_averaged(tiny_corpus: Path, tmp_path: Path) -> None:
    from mnmt_ds.engine.parallel.run_layout import check_run_layout

    averaged = made(str(tiny_corpus), str(tmp_path / "run"), {"zero": 3})
    for offload, device in product(("offload_optimizer", "offload_param"), ("cpu", "nvme")):
        config = {"zero_optimization": {"stage": 3, offload: {"device": device}}}
        if device == "cpu":
            check_run_layout(averaged, config, 1)
        else:
            with pytest.raises(UserError, match=f"train.ema_decay: weights whose {offload} is nvme"):
                check_run_layout(averaged, config, 1)
    config = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "super_offload": True}}}
    with pytest.raises(UserError, match="offload_optimizer is super_offload"):
        check_run_layout(averaged, config, 1)


def test_plans_count_the_average() -> None:
    """Four bytes a parameter, in the shards of the optimizer."""
    from mnmt_ds.planning.memory import PlannedLayout, search_copy_bytes, state_bytes

    for stage, ranks, precision in product(range(4), (1, 4), ("fp32", "bf16")):
        layout = PlannedLayout(ranks, stage, precision=precision)
        averaged = layout._replace(weight_average=True)
        share = 4 * 1200 // (ranks if stage else 1)
        assert state_bytes(1200, averaged)[2] - state_bytes(1200, layout)[2] == share
        assert sum(search_copy_bytes(1200, averaged)) - sum(search_copy_bytes(1200, layout)) == share

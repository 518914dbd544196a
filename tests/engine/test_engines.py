"""The Engine interface: both implementations have all of it and keep the step apart; nobody asks which one it is."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.spawn import on_ranks
from tests.tiny import ROOT, recipe, zero


def engines() -> list[type]:
    from mnmt_ds.engine.parallel.pipeline_engine import PipelineEngine
    from mnmt_ds.engine.parallel.zero_engine import ZeroEngine

    return [ZeroEngine, PipelineEngine]


def test_both_engines_have_the_whole_interface() -> None:
    """Every method with the interface's parameters; attributes are set when an engine is made."""
    from mnmt_ds.engine.parallel.engine import Engine

    members = {name: value for name, value in vars(Engine).items() if not name.startswith("_")}
    methods = {name: value for name, value in members.items() if inspect.isfunction(value)}
    assert len(methods) > 15 and len(members) > len(methods)
    for kind in engines():
        for name, method in methods.items():
            own = getattr(kind, name)
            assert list(inspect.signature(own).parameters) == list(inspect.signature(method).parameters), (kind, name)
        source = inspect.getsource(kind)
        for name in members.keys() - methods.keys():
            assert hasattr(kind, name) or f"self.{name}" in source, (kind, name)


def test_nobody_asks_which_engine_it_is() -> None:
    """Outside engine/parallel the implementations are named by benchmarks of their own alone."""
    names = {kind.__name__ for kind in engines()} | {"make_zero_engine", "make_pipeline_engine"}
    asked = {"zero_optimization_stage", "train_batch", "eval_batch"}
    wrong = []
    for path in sorted((ROOT / "mnmt_ds").rglob("*.py")):
        place = str(path.relative_to(ROOT / "mnmt_ds"))
        if place.startswith(("engine/parallel/", "private_apis", "parallel_layout")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if (used & names and not place.startswith("bench/")) or touched & asked:
            wrong.append(f"{place}: {sorted(used & names | touched & asked)}")
    assert not wrong


def one_update(corpus: str, directory: str, zero_stage: int, stages: int | None) -> dict[str, Any]:
    """Which parts of an update move weights, and what it reports."""
    import torch

    from mnmt_ds.engine.loop import finish_reading, forward_backward, step, student_loops
    from mnmt_ds.engine.training import Training

    pipeline = {} if stages is None else {"pipeline": {"stages": stages}}
    model = {"dropout": 0.1, "encoder_layers": 2, "decoder_layers": 2}
    made = recipe(
        Path(corpus), Path(directory), deepspeed=zero(zero_stage, directory), model=model,
        method={"name": "intra_distillation"}, train={"lr": 4e-2, "warmup_steps": 2, "clip_norm": 0.5}, **pipeline,
    )  # fmt: skip
    training = Training(made, resume=False)
    (loop,) = student_loops(training, next_evaluation=lambda student: 0).values()
    engine = loop.student.engine
    before = engine.gather_weights()
    gradient = forward_backward(loop, loop.student.data_iterator.next_update())
    between = engine.gather_weights()
    [result] = step(loop, gradient, stop=False) + finish_reading(loop)
    after = engine.gather_weights()
    training.close()

    def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
        return all(torch.equal(a[name], b[name]) for name in a)

    return {
        "moved by forward and backward": not equal(before, between),
        "moved by the step": not equal(between, after),
        "norm": result.norm,
        "losses": result.losses,
        "weights": {name: value.double().sum().item() for name, value in after.items()},
        "steps": engine.deepspeed_engine.global_steps,
    }


def updates(corpus: str, directory: str) -> dict[str, dict[str, Any]]:
    return {
        "zero": one_update(corpus, f"{directory}/zero", 1, None),
        "pipeline": one_update(corpus, f"{directory}/pipeline", 1, 2),
        "pipeline, ZeRO-0": one_update(corpus, f"{directory}/pipeline0", 0, 2),
    }


def test_only_the_step_moves_weights_on_every_engine(tiny_corpus: Path, tmp_path: Path) -> None:
    """And the engines' updates are the same; DeepSpeed's counter says one step."""
    results = on_ranks(2, updates, str(tiny_corpus), str(tmp_path))[0]
    for name, update in results.items():
        assert not update["moved by forward and backward"] and update["moved by the step"], name
        assert update["steps"] == 1, name
        assert update["norm"] == pytest.approx(results["zero"]["norm"], rel=1e-5), name
        assert update["losses"] == [pytest.approx(loss, rel=1e-5) for loss in results["zero"]["losses"]], name
        assert update["weights"] == pytest.approx(results["zero"]["weights"], rel=1e-4, abs=1e-4), name
    assert results["zero"]["norm"] > 0.5, "nothing was clipped"
